"""`captionlab compare`: compare two systems on the same images."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from captionlab.output_files import check_output
from pipeline.core.errors import say


def command(
    one: Annotated[
        str, typer.Argument(show_default=False, help="A row of the table, or a file of captions.")
    ],
    other: Annotated[
        str, typer.Argument(show_default=False, help="A second row or file of captions.")
    ],
    references: Annotated[
        Path | None,
        typer.Argument(
            show_default=False, help="Needed for two files; rows have those of their corpus."
        ),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write a page of the images where they differ most.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write each image's scores, and its winner by --by, as CSV."),
    ] = None,
    by: Annotated[str, typer.Option(help="Score by which images differ.")] = "cider",
    images: Annotated[
        int, typer.Option(min=1, max=500, help="Maximum number of images on the page.")
    ] = 24,
    pictures: Annotated[
        Path | None,
        typer.Option(help="Folder of pictures that are called by the id of their image."),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Score both again with these metrics, separated by commas.")
    ] = None,
    protocol: Annotated[
        Literal["standard", "raw", "cleaned-references"],
        typer.Option(help="Protocol, as for captionlab score."),
    ] = "standard",
    language: Annotated[
        str | None,
        typer.Option(help="Language of the files; by default that of the row's corpus, or en."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split to compare; test by default for rows.")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Leave out images that one of the files lacks.")
    ] = False,
) -> None:
    """Compare two systems on the same images: the difference of every score with its interval and
    p-value, and on how many images each system is better.

    Two rows are compared by their scores in the result tables, and by the same test. A file is
    scored first, as captionlab score does.
    """
    for file, option, beside in ((page, "--page", out), (out, "--out", page)):
        check_output(file, option, one, other, references, beside)
    from captionlab.compare.sides import Asked, read_pair

    asked = Asked(metrics, protocol, language, split, partial, pictures)
    pair = read_pair(one, other, references, asked)
    found = pair.scored[0].compare(pair.scored[1])
    found.differ_most(by, 1)
    if page is not None:
        from captionlab.compare.page import write_comparison

        write_comparison(page, pair, found, by, images)
    if out is not None:
        from pipeline.data.files import whole_file

        with whole_file(out) as part:
            found.per_image.assign(winner=found.winner(by)).to_csv(part, index=False)
    say(f"this: {pair.names[0]}; other: {pair.names[1]}\n")
    say(found)
    say("\nimages on which each has the better score:")
    say(found.winners().to_string(index=False))

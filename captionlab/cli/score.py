"""`captionlab score`: score a file of captions against a file of references."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from captionlab.output_files import check_output
from pipeline.core.errors import say


def command(
    predictions: Annotated[
        Path,
        typer.Argument(
            show_default=False,
            help="One caption an image; captionlab caption --out writes it, too.",
        ),
    ],
    references: Annotated[
        Path, typer.Argument(show_default=False, help="One or more captions an image.")
    ],
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Metrics, separated by commas; spice needs models of its own. Default: "
            "bleu,meteor,rouge_l,cider, plus chrf if the language is not English.",
            show_default=False,
        ),
    ] = None,
    protocol: Annotated[
        Literal["standard", "raw", "cleaned-references"],
        typer.Option(
            help="standard: the language's tokenizer on both (English: PTB); raw: none; "
            "cleaned-references: letters only, no one-letter words."
        ),
    ] = "standard",
    language: Annotated[
        str, typer.Option(help="Language of captions and references: en, de, ar, hi, ja, zh, ...")
    ] = "en",
    split: Annotated[
        str | None, typer.Option(help="Only images whose column `split` says so.")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Leave out images without a prediction or references.")
    ] = False,
    synonyms: Annotated[
        Path | None,
        typer.Option(help="For the metric chair: COCO's synonyms, a line of words an object."),
    ] = None,
    instances: Annotated[
        list[Path] | None,
        typer.Option(
            help="For chair: COCO's instances_val2014.json; may be given several times. Without "
            "it an image has the objects that its references name.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON, too.")] = None,
) -> None:
    """Score a file of captions against a file of references: COCO's JSON, {image_id: text}, JSON
    lines, CSV or Parquet.

    Captions may name a `file` in place of an image_id, as captionlab caption --out does. The file
    belongs to the image whose image_id, or file_name in COCO's JSON, is the file's name, with or
    without suffix and folders.
    """
    check_output(out, "--out", predictions, references, synonyms, *(instances or ()))
    from captionlab.caption_sets import COMMAND
    from captionlab.evaluation import evaluate
    from pipeline.data.files import write_json

    found = evaluate(
        predictions,
        references,
        metrics,
        protocol,
        split=split,
        partial=partial,
        language=language,
        synonyms=synonyms,
        instances=instances or (),
        caller=COMMAND,
    )
    if out is not None:
        write_json(out, found.as_json())
    say(found)

"""`captionlab COMMAND`: one file of pipeline/commands/ each."""

import sys

import typer

from pipeline import errors
from pipeline.errors import UserError
from pipeline.registry import load, names

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback()
def captionlab() -> None:
    """Image captioning: what DVC has trained, registered and used."""


for _name in names("commands"):
    app.command(_name)(load("commands", _name).command)


def main() -> None:
    errors.run(_run)


def _run() -> None:
    from typer.exceptions import TyperException

    try:
        status = app(standalone_mode=False)
    except TyperException as error:
        raise UserError(f"{error.format_message()} (captionlab --help)") from None
    if status == 130:  # typer's own, of Ctrl-C
        raise KeyboardInterrupt
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()

"""The program `captionlab COMMAND`; each command is a file of captionlab/cli/."""

import sys
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Annotated

import typer

from captionlab import __version__, cli
from captionlab.extras import named_extras
from pipeline.core import errors
from pipeline.core.errors import UserError

if TYPE_CHECKING:
    from typer.exceptions import TyperException

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"captionlab {__version__}")
        raise typer.Exit


@app.callback()
def captionlab(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Image captioning: register and use the models that DVC has trained."""


for _file in iter_modules(cli.__path__):
    if not _file.ispkg:
        app.command(_file.name)(import_module(f"{cli.__name__}.{_file.name}").command)


def main() -> None:
    errors.run(_run)


def _run() -> None:
    from typer.exceptions import TyperException

    try:
        with named_extras():
            status = app(standalone_mode=False)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.info_name if context and context.parent else ""
        help_of = " ".join(part for part in ("captionlab", command, "--help") if part)
        raise UserError(f"{_plain(error)} ({help_of})") from None
    if status == 130:  # typer's status for Ctrl-C
        raise KeyboardInterrupt
    if status:
        sys.exit(status)


def _plain(error: "TyperException") -> str:
    """Return typer's message, with pydantic's findings in plain words."""
    from pydantic import ValidationError

    from pipeline.core.plain import problems

    cause = error.__cause__
    if isinstance(cause, ValidationError):
        error.message = problems(cause, cause.errors()[0]["input"])[0].words
    return error.format_message()


if __name__ == "__main__":
    main()

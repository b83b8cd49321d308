"""Tables of text with another separator than their file name says, as spreadsheets of some
countries write them."""

from collections.abc import Collection
from pathlib import Path

from pipeline.core.errors import UserError

NAMES = {",": "a comma", "\t": "a tab", ";": "';'", "|": "'|'"}


def separator_of(path: Path) -> str:
    """A tab in .tsv, a comma in any other."""
    return "\t" if path.suffix.lower() == ".tsv" else ","


def check_separator(path: Path, header: str, columns: Collection[str]) -> None:
    """Whether the first line of a table has the separator that its file name says.

    Args:
        columns: some that it may have, by which another separator is told.

    Raises:
        UserError: it has another one.
    """
    right = separator_of(path)
    if _named(header, right, columns):
        return
    for other, name in NAMES.items():
        if other != right and _named(header, other, columns):
            cure = "tabs" if right == "\t" else "commas"
            raise UserError(
                f"{path} is separated by {name}, {NAMES[right]} is expected: save it with {cure}"
            )


def _named(header: str, separator: str, columns: Collection[str]) -> bool:
    names = [name.strip().strip('"').strip() for name in header.split(separator)]
    return any(name in columns for name in names)

"""Detect tables of text whose separator differs from the one that their file name implies.
Spreadsheets in some countries write such tables."""

from collections.abc import Collection
from pathlib import Path

from pipeline.core.errors import UserError

NAMES = {",": "a comma", "\t": "a tab", ";": "';'", "|": "'|'"}


def separator_of(path: Path) -> str:
    """Return a tab for a .tsv file, and a comma for any other."""
    return "\t" if path.suffix.lower() == ".tsv" else ","


def check_separator(path: Path, header: str, columns: Collection[str]) -> None:
    """Check that the first line of a table has the separator that its file name implies.

    Args:
        columns: names of columns that the table may have. They reveal a different separator.

    Raises:
        UserError: the table has another separator.
    """
    right = separator_of(path)
    if _named(header, right, columns):
        return
    for other, name in NAMES.items():
        if other != right and _named(header, other, columns):
            cure = "tabs" if right == "\t" else "commas"
            raise UserError(
                f"{path} is separated by {name}, but {NAMES[right]} is expected: save "
                f"it with {cure}"
            )


def _named(header: str, separator: str, columns: Collection[str]) -> bool:
    names = [name.strip().strip('"').strip() for name in header.split(separator)]
    return any(name in columns for name in names)

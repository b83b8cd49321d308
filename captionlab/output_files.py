"""Check the files that a command writes to a path of the user's choice."""

import os
from pathlib import Path

from pipeline.core.errors import UserError


def check_output(file: Path | None, option: str, *inputs: str | Path | None) -> None:
    """Check that an output file can be written; call this before anything slow.

    Args:
        file: where to write; None if the option was not given.
        option: the option's name, such as --out.
        inputs: what else the command reads or writes; names of rows may be among them.

    Raises:
        UserError: the file cannot be written, or it would overwrite one of `inputs`.
    """
    if file is None:
        return
    what = f"{file} ({option})"
    if file.exists() and not file.is_file():
        raise UserError(
            f"{what} is {'a folder' if file.is_dir() else 'no plain file'}: name a file"
        )
    if not file.parent.is_dir():
        raise UserError(f"{what}: there is no folder {file.parent}: make it first")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise UserError(f"{what} cannot be written: name another place")
    if file.resolve() in {Path(other).resolve() for other in inputs if other is not None}:
        raise UserError(f"{what} is read or written by this command already: name another file")

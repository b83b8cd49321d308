"""Files that a command writes where its user says."""

from pathlib import Path

from pipeline.core.errors import UserError


def check_output(file: Path | None, option: str, *inputs: str | Path | None) -> None:
    """To be called before anything is read.

    Args:
        file: where to write; None where nobody asked.
        option: that named it, such as --out.
        inputs: what the command reads or writes besides; names of rows may be among them.

    Raises:
        UserError: it is a folder, or one of `inputs`, which would be lost.
    """
    if file is None:
        return
    if file.is_dir():
        raise UserError(f"{file} ({option}) is a folder: name a file")
    for other in inputs:
        if other is not None and file.resolve() == Path(other).resolve():
            raise UserError(
                f"{file} ({option}) is also named for something else, and would be overwritten: "
                "name another file"
            )

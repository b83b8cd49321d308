"""Export a model to a folder for other software: Hugging Face's layout, or ONNX."""

from importlib import import_module
from pathlib import Path
from shutil import copymode
from typing import TYPE_CHECKING

from pipeline.core.errors import UserError
from pipeline.core.registry import nearest
from pipeline.data.files import whole_folder

if TYPE_CHECKING:
    from pipeline.captioner.captioner import Captioner

FORMATS = ("hf", "onnx")


def check(to: Path, form: str) -> None:
    """Check that an export can be written; call this before loading a model, which takes seconds.

    Raises:
        UserError: the format is unknown, or the folder is not empty.
    """
    check_format(form)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"{to} exists already: name a folder that is new or empty")


def check_format(form: str) -> None:
    """Raise a UserError if the format is none of `FORMATS`."""
    if form not in FORMATS:
        near = nearest(form, FORMATS)
        raise UserError(f"unknown format '{form}'{near}: there are {', '.join(FORMATS)}")


def export(captioner: "Captioner", to: Path, form: str, readme: str) -> None:
    """Write the folder, completely or not at all.

    Args:
        readme: the model's card. The instructions for the format are added below it.

    Raises:
        UserError: the decoder cannot be exported to this format.
    """
    check(to, form)
    with whole_folder(to) as part:
        import_module(f"captionlab.export.{form}").write(captioner, part, readme)
        for file in part.iterdir():
            copymode(part / "README.md", file)  # only their owner can read safetensors' files

"""A model folder -> a folder for other software: Hugging Face's layout, or ONNX."""

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
    """Raises a UserError where nothing could be written; called before a model is loaded, which
    takes seconds."""
    check_format(form)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"{to} is there already: name a folder that is new or empty")


def check_format(form: str) -> None:
    """Raises a UserError for a name that is none of `FORMATS`."""
    if form not in FORMATS:
        near = nearest(form, FORMATS)
        raise UserError(f"unknown format '{form}'{near}: there are {', '.join(FORMATS)}")


def export(captioner: "Captioner", to: Path, form: str, readme: str) -> None:
    """Write the folder whole; `readme` is the model's card, which the format's use is put under.

    Raises:
        UserError: the decoder cannot be exported to this format.
    """
    check(to, form)
    with whole_folder(to) as part:
        import_module(f"captionlab.export.{form}").write(captioner, part, readme)
        for file in part.iterdir():
            copymode(part / "README.md", file)  # safetensors' files are their owner's alone

"""The file that MLflow runs to serve a model (models from code): a table of images in, a table of
captions out.

No text is ever taken for the path of a file, and neither JSON, CSV nor Parquet can carry a
`pathlib.Path`: only who calls
`predict` in the same process can have a file of this machine opened.
"""

import base64
import binascii
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from pipeline.captioning.batcher import Together
from pipeline.data.images import ImageError

FORMS = (
    "base64 text of a picture file, its data URL, its bytes, an array (H, W, 3), or in "
    "process a pathlib.Path"
)


class CaptionModel(PythonModel):
    """Column `image` (see FORMS) -> columns `caption`, `log_prob` and `error`.

    An image that cannot be read has its reason in `error` and nothing else; where none can be read,
    `predict` raises INVALID_PARAMETER_VALUE, which over HTTP is status 400.
    """

    def load_context(self, context: Any) -> None:
        from pipeline.captioning.captioner import Captioner

        self.captioner = Captioner.load(Path(context.artifacts["captioner"]))
        # A request uses every core: two at a time are no faster, two in a batch are. In one thread
        # for good, since glibc keeps the buffers of each thread that ever had some: with 32
        # threads, 3.6 GB after a minute.
        worker = ThreadPoolExecutor(1)
        self.together = Together[Any, Any](
            lambda images: worker.submit(self.captioner.caption_each, images).result()
        )

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        images = [_picture(value) for value in model_input["image"]]
        readable = [image for image in images if not isinstance(image, ImageError)]
        captions = iter(self.together(readable) if readable else [])
        found = [image if isinstance(image, ImageError) else next(captions) for image in images]
        rows = [_row(caption) for caption in found]
        if rows and all(row["error"] for row in rows):
            raise MlflowException.invalid_parameter_value(_none(rows))
        return pd.DataFrame(
            rows, columns=["caption", "log_prob", "error"], dtype=object
        )  # None is null in JSON, NaN is not


def _row(caption: Any) -> dict[str, Any]:
    if isinstance(caption, ImageError):
        return {"caption": None, "log_prob": None, "error": str(caption)}
    return {"caption": caption.text, "log_prob": caption.log_prob, "error": None}


def _none(rows: list[dict[str, Any]]) -> str:
    some = "; ".join(f"row {n}: {row['error']}" for n, row in enumerate(rows[:3]))
    more = f"; and {len(rows) - 3} more" if len(rows) > 3 else ""
    return f"no image of {len(rows)} can be captioned ({some}{more}): `image` takes {FORMS}"


def _picture(value: Any) -> Any:
    """A cell of the table in a form that the captioner reads, or why it cannot be."""
    if isinstance(value, str):
        return _decoded(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, list):  # of lists: how JSON writes an array
        return _array(value)
    if isinstance(value, np.ndarray | Path):
        return value
    empty = pd.api.types.is_scalar(value) and pd.isna(value)
    return ImageError("no image" if empty else f"a value of type {type(value).__name__}")


def _decoded(text: str) -> Any:
    try:
        return base64.b64decode(
            "".join(text.split(",", 1)[-1].split()), validate=True
        )  # some encoders break lines
    except (binascii.Error, ValueError):
        return ImageError("not base64")


def _array(rows: list[Any]) -> Any:
    try:
        return np.array(rows)
    except ValueError:
        return ImageError("lists that are no array (H, W, 3)")


set_model(CaptionModel())

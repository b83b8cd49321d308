"""The file that MLflow runs to serve a model (models from code). It turns a table of images into a
table of captions.

Text is never treated as a file path, and JSON, CSV and Parquet cannot carry a `pathlib.Path`. Only
a caller of `predict` in the same process can therefore make it open a file of this machine.
"""

import base64
import binascii
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from PIL.Image import Image

from pipeline.captioner.apart import LARGE, DecodedApart
from pipeline.captioner.batcher import Together, pictures_known
from pipeline.captioner.served import PIXELS, ServedPicture, look_at
from pipeline.core.machine import workers
from pipeline.images.reading import ImageError

FORMS = (
    "base64 text of a picture file, its data URL, its bytes, an array (H, W, 3), or in "
    "process a PIL image or a pathlib.Path"
)
# Largest beam, and largest number of sampled captions, that a caller may ask for.
WIDEST = 10

# Keys of `decode` with the values that a caller wants instead.
Overrides = tuple[tuple[str, int], ...]

# Largest number of pictures in a batch. A picture that arrives while a batch runs waits for it and
# goes into another.
BATCH = 8
# Characters that some base64 encoders use for line breaks.
WHITESPACE = b" \t\r\n\v\f"


class CaptionModel(PythonModel):
    """Column `image` (see FORMS) -> columns `caption`, `log_prob` and `error`.

    The params `beam`, `samples` and `max_tokens` replace the decoding settings that the model was
    scored with; 0 keeps the model's own value.

    For an image that cannot be read, `error` holds the reason and the other columns are empty. If
    no image can be read, `predict` raises INVALID_PARAMETER_VALUE, which is status 400 over HTTP.

    pipeline/captioner/batcher.py describes how simultaneous requests are answered. File contents
    have the limits of pipeline/captioner/served.py. An array, a PIL image or a Path has the limits
    of `read_image`, because only a caller in the same process can have made one large.
    """

    def load_context(self, context: Any) -> None:
        from pipeline.captioner.captioner import Captioner

        self.captioner = Captioner.load(Path(context.artifacts["captioner"]))
        # Decoding uses few threads, because glibc keeps the buffers of every thread that ever had
        # some (with 32 threads, 3.6 GB after a minute). The network runs in one thread, because a
        # batch already uses every core.
        half = max(1, workers() // 2)
        self.apart = DecodedApart(half)
        self.decoded = Together[Any, Any](self._decoded, 1, half, _cost)
        self.decoded_apart = Together[Any, Any](self._decoded_apart, 1, half, _cost)
        self.together = Together[Any, Any](self._said, BATCH)

    def _decoded(self, pictures: list[Any]) -> list[Any]:
        return [self.captioner.prepare(picture) for picture in pictures]

    def _decoded_apart(self, pictures: list[Any]) -> list[Any]:
        try:
            return self._decoded([self.apart(picture) for picture in pictures])
        except ImageError as error:  # a batch of this function holds one picture
            return [error]

    def _said(self, asked: list[tuple[Any, Overrides]]) -> list[Any]:
        """Caption the pictures that share decoding settings together."""
        answers: list[Any] = [None] * len(asked)
        for overrides in dict.fromkeys(wanted for _, wanted in asked):
            places = [place for place, (_, wanted) in enumerate(asked) if wanted == overrides]
            captioner = self.captioner.decoding_as(**dict(overrides))
            captions = captioner.say([asked[place][0] for place in places])
            for place, caption in zip(places, captions, strict=True):
                answers[place] = caption
        return answers

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        wanted = _overrides(params or {}, self.captioner.decode["max_tokens"])
        images = [_picture(value) for value in model_input["image"]]
        pictures_known.get()()
        images = _filled(images, self.decoded_apart, _is_large)
        images = _filled(images, self.decoded, _is_small)

        def say(pixels: list[Any]) -> list[Any]:
            return self.together([(one, wanted) for one in pixels])

        found = _filled(images, say, _is_decoded)
        rows = [_row(caption) for caption in found]
        if rows and all(row["error"] for row in rows):
            raise MlflowException.invalid_parameter_value(_none(rows))
        return pd.DataFrame(
            rows, columns=["caption", "log_prob", "error"], dtype=object
        )  # with dtype object, a missing value stays None, which is null in JSON; NaN is not


def _overrides(params: dict[str, Any], longest: int) -> Overrides:
    """Return the decoding settings that a caller wants to replace.

    Args:
        longest: largest number of tokens per caption when the model was scored.
    """
    most = {"beam": WIDEST, "samples": WIDEST, "max_tokens": longest}
    wanted = {name: int(params[name]) for name in most if params.get(name)}
    for name, value in wanted.items():
        if not 1 <= value <= most[name]:
            raise MlflowException.invalid_parameter_value(
                f"{name} is {value}: expected 1 to {most[name]}, or 0 for the model's own"
            )
    if {"beam", "samples"} <= set(wanted):
        raise MlflowException.invalid_parameter_value(
            "beam and samples exclude each other: give only one"
        )
    searches = {"samples": 0} if "beam" in wanted else {}
    return tuple((searches | wanted).items())


def _filled(
    values: list[Any], work: Callable[[list[Any]], list[Any]], chosen: Callable[[Any], bool]
) -> list[Any]:
    """Return `values` with each chosen value replaced by its answer from `work`."""
    answers = iter(work([value for value in values if chosen(value)]))
    return [next(answers) if chosen(value) else value for value in values]


def _is_large(value: Any) -> bool:
    return isinstance(value, ServedPicture) and value.cost > LARGE


def _is_small(value: Any) -> bool:
    return isinstance(value, ServedPicture | np.ndarray | Image | Path) and not _is_large(value)


def _is_decoded(value: Any) -> bool:
    return not isinstance(value, ImageError)


def _row(caption: Any) -> dict[str, Any]:
    if isinstance(caption, ImageError):
        return {"caption": None, "log_prob": None, "error": str(caption)}
    return {"caption": caption.text, "log_prob": caption.log_prob, "error": None}


def _none(rows: list[dict[str, Any]]) -> str:
    some = "; ".join(f"row {n}: {row['error']}" for n, row in enumerate(rows[:3]))
    more = f"; and {len(rows) - 3} more" if len(rows) > 3 else ""
    return f"no image of {len(rows)} can be captioned ({some}{more}): `image` takes {FORMS}"


def _picture(value: Any) -> Any:
    """Return a cell of the table in a form that the captioner reads, or an ImageError that says why
    that is impossible."""
    if isinstance(value, str):
        return _base64(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return _served(bytes(value))
    if isinstance(value, list):  # JSON writes an array as nested lists
        return _array(value)
    if isinstance(value, np.ndarray | Path | Image):
        return value
    empty = pd.api.types.is_scalar(value) and pd.isna(value)
    return ImageError("no image" if empty else f"a value of type {type(value).__name__}")


def _base64(text: str) -> Any:
    try:
        letters = text.split(",", 1)[-1].encode("ascii").translate(None, WHITESPACE)
        return _served(base64.b64decode(letters, validate=True))
    except (binascii.Error, ValueError):
        return ImageError("not base64")


def _served(content: bytes) -> Any:
    try:
        return look_at(content)
    except ImageError as error:
        return error


def _cost(picture: Any) -> float:
    """Return the cost of decoding a picture, in pixels."""
    if isinstance(picture, ServedPicture):
        return picture.cost
    if isinstance(picture, Image):
        return float(picture.width * picture.height)
    return float(picture.size) if isinstance(picture, np.ndarray) else float(PIXELS)


def _array(rows: list[Any]) -> Any:
    try:
        return np.array(rows)
    except ValueError:
        return ImageError("nested lists that do not form an array (H, W, 3)")


set_model(CaptionModel())

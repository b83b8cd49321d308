"""The file that MLflow runs to serve a model (models from code): a table of images in, a table of
captions out.

No text is ever taken for the path of a file, and neither JSON, CSV nor Parquet can carry a
`pathlib.Path`: only who calls
`predict` in the same process can have a file of this machine opened.
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
WIDEST = 10
"beam, and captions drawn, that a caller may ask for"

Overrides = tuple[tuple[str, int], ...]
"keys of `decode` with the values that a caller wants instead"

BATCH = 8
"pictures that the network sees at once: who comes next waits for a batch and is in another"
WHITESPACE = b" \t\r\n\v\f"
"that some encoders break lines with"


class CaptionModel(PythonModel):
    """Column `image` (see FORMS) -> columns `caption`, `log_prob` and `error`.

    The params `beam`, `samples` and `max_tokens` decode otherwise than the model was scored; 0
    keeps its own value.

    An image that cannot be read has its reason in `error` and nothing else; where none can be read,
    `predict` raises INVALID_PARAMETER_VALUE, which over HTTP is status 400. Requests that come at
    the same time are answered as pipeline/captioner/batcher.py says. Content of files has the
    limits of pipeline/captioner/served.py; an array, a PIL image or a Path, which only a caller in
    the same process can have made large, those of `read_image`.
    """

    def load_context(self, context: Any) -> None:
        from pipeline.captioner.captioner import Captioner

        self.captioner = Captioner.load(Path(context.artifacts["captioner"]))
        # Few threads: glibc keeps the buffers of each thread that ever had some (with 32 threads,
        # 3.6 GB after a minute). The network in one alone: a batch uses every core.
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
        except ImageError as error:  # there is one picture
            return [error]

    def _said(self, asked: list[tuple[Any, Overrides]]) -> list[Any]:
        """Captions of what is decoded alike, together."""
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
        )  # None is null in JSON, NaN is not


def _overrides(params: dict[str, Any], longest: int) -> Overrides:
    """What a caller wants otherwise.

    Args:
        longest: tokens of a caption that the model was scored with.
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
            "a beam searches and samples are drawn: name one of beam and samples"
        )
    searches = {"samples": 0} if "beam" in wanted else {}
    return tuple((searches | wanted).items())


def _filled(
    values: list[Any], work: Callable[[list[Any]], list[Any]], chosen: Callable[[Any], bool]
) -> list[Any]:
    """The answers to those that are chosen, in their places among the others."""
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
    """A cell of the table in a form that the captioner reads, or why it cannot be."""
    if isinstance(value, str):
        return _base64(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return _served(bytes(value))
    if isinstance(value, list):  # of lists: how JSON writes an array
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
    """In pixels to decode."""
    if isinstance(picture, ServedPicture):
        return picture.cost
    if isinstance(picture, Image):
        return float(picture.width * picture.height)
    return float(picture.size) if isinstance(picture, np.ndarray) else float(PIXELS)


def _array(rows: list[Any]) -> Any:
    try:
        return np.array(rows)
    except ValueError:
        return ImageError("lists that are no array (H, W, 3)")


set_model(CaptionModel())

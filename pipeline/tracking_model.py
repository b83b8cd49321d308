"""The file that MLflow runs to serve a model (models from code): a table of images in, a table of captions out.

Images come as base64 text, since a binary column is not decoded in every request format of MLflow; a path would let
a caller read the server's files.
"""

import base64
import binascii
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from pipeline.errors import UserError, one_line

BATCH = 32


class CaptionModel(PythonModel):  # type: ignore[misc]
    """Column `image` (base64 of any picture file, or a data URL of it) -> columns `caption` and `log_prob`."""

    def load_context(self, context: Any) -> None:
        from pathlib import Path

        from pipeline.captioner import Captioner

        self.captioner = Captioner.load(Path(context.artifacts["captioner"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        images = [_picture(text, row) for row, text in enumerate(model_input["image"])]
        found = [c for start in range(0, len(images), BATCH) for c in self.captioner.caption(images[start : start + BATCH])]
        return pd.DataFrame({"caption": [c.text for c in found], "log_prob": [c.log_prob for c in found]})


def _picture(text: str, row: int) -> Any:
    from pipeline.images import read_image

    try:
        return read_image(base64.b64decode(text.split(",", 1)[-1], validate=True))
    except (binascii.Error, ValueError, UserError) as error:
        reason = "not base64" if isinstance(error, ValueError) else one_line(error)
        raise MlflowException.invalid_parameter_value(f"image of row {row}: {reason}") from None


set_model(CaptionModel())

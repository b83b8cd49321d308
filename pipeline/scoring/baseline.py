"""The baseline that every model must beat: one caption for all images."""

import pandas as pd

from pipeline.core.errors import UserError
from pipeline.languages.languages import Language
from pipeline.languages.text import joined


def most_frequent_captions(captions: pd.DataFrame, language: Language) -> pd.DataFrame:
    """Return the most frequent training caption for every validation and test image. Of equally
    frequent captions, the alphabetically first is used.

    Raises:
        UserError: there is no training caption.
    """
    counts = captions.text[captions.split == "train"].value_counts()
    if counts.empty:
        raise UserError("the corpus has no training captions: run dvc repro")
    text = joined(min(counts.index[counts == counts.iloc[0]]), language)
    images = (
        captions[captions.split.isin(["val", "test"])]
        .drop_duplicates("image_id")
        .sort_values(["split", "image_id"])
    )
    return images[["image_id", "split"]].assign(text=text).reset_index(drop=True)

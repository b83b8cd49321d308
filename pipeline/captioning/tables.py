"""The captions of a variant as tables.

The files are written in parts, and appear when all of them are complete.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.parquet import ParquetWriter

from pipeline.captioning.footprint import too_large
from pipeline.captioning.split import SCHEMAS, Captioned, Model, caption_split
from pipeline.core.capacity import refuse
from pipeline.data.corpus import Captions
from pipeline.data.files import whole_file
from pipeline.decoders.shared.model_folder import load_model
from pipeline.features.store import FeatureStore


def captions_of(
    folder: Path, decoding: dict[str, Any], corpus: Path, features: Path, device: str
) -> Iterator[Captioned]:
    """Yield the tables of validation and test images, captioned by the model of a folder.

    Args:
        decoding: the settings of `decode`.
        corpus: path of captions.parquet.
        features: folder of the features that the model was trained on.
    """
    decoder, tokenizer, about = load_model(folder, device)
    model = Model(decoder, tokenizer, FeatureStore(features), decoding, device)
    refuse(too_large(folder.name, model, about))
    for split in ("val", "test"):
        captions = Captions(corpus, [split], ["image_id", "caption_id", "text"])
        yield from caption_split(model, captions, split)


def write_tables(
    files: Sequence[Path],
    parts: Iterable[Captioned],
    seeds_file: Path,
    seeds: Iterable[tuple[int, Iterable[Captioned]]],
) -> None:
    """Write the tables of `Captioned`.

    The captions of further seeds become one table with a column for their number.
    """
    with ExitStack() as stack:
        own = [
            stack.enter_context(_table(file, kind))
            for file, kind in zip(files, SCHEMAS, strict=True)
        ]
        with_seed = SCHEMAS[0].append(pa.field("seed", pa.int64()))
        further = stack.enter_context(_table(seeds_file, with_seed))
        for part in parts:
            for writer, table in zip(own, part, strict=True):
                if len(table):  # otherwise a row group has no rows
                    writer.write_table(table)
        for number, of_seed in seeds:
            for part in of_seed:
                column = pa.array([number] * len(part.captions))
                further.write_table(part.captions.append_column("seed", column))


@contextmanager
def _table(path: Path, schema: pa.Schema) -> Iterator[ParquetWriter]:
    """Open a Parquet file that is written in parts, and appears when it is complete."""
    with whole_file(path) as part, ParquetWriter(part, schema) as writer:
        yield writer

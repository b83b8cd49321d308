"""variants.NAME -> data/captions/: every validation and test image captioned by each of its models,
and what protocols need."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from pipeline.core import paths
from pipeline.core.stage import stage
from pipeline.data.files import whole_file
from pipeline.experiment.params import Variant, load_params, pick

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    from pipeline.captioning.split import Captioned

FILES = (paths.captions, paths.searches, paths.teacher_forced, paths.attention)
"of the tables of Captioned"


def main(name: str) -> None:
    params = load_params()
    variant = pick(params, "variants", name)

    from pipeline.core.machine import pick_device

    device = pick_device()  # before Arrow is imported
    import pyarrow as pa

    from pipeline.captioning.split import SCHEMAS

    decoding = params.decoding(name).model_dump()
    with ExitStack() as files:
        own = [
            files.enter_context(_table(file(name), kind))
            for file, kind in zip(FILES, SCHEMAS, strict=True)
        ]
        with_seed = SCHEMAS[0].append(pa.field("seed", pa.int64()))
        seeds = files.enter_context(_table(paths.seed_captions(name), with_seed))
        for part in _caption(paths.MODELS / name, variant, decoding, device):
            for writer, table in zip(own, part, strict=True):
                if len(table):  # or a row group without rows
                    writer.write_table(table)
        for folder in sorted(
            (paths.FURTHER_SEEDS / name).glob("[0-9]*"), key=lambda folder: int(folder.name)
        ):
            for part in _caption(folder, variant, {**decoding, "also": []}, device):
                seed = pa.array([int(folder.name)] * len(part.captions))
                seeds.write_table(part.captions.append_column("seed", seed))


@contextmanager
def _table(path: "Path", schema: "pa.Schema") -> "Iterator[ParquetWriter]":
    """A Parquet file that is written in parts, and there when it is whole."""
    from pyarrow.parquet import ParquetWriter

    with whole_file(path) as part, ParquetWriter(part, schema) as writer:
        yield writer


def _caption(
    folder: "Path", variant: Variant, decoding: "dict[str, Any]", device: str
) -> "Iterator[Captioned]":
    from pipeline.captioning.split import Model, caption_split
    from pipeline.data.corpus import Captions
    from pipeline.decoders.shared.model_folder import load_model
    from pipeline.features.store import FeatureStore

    decoder, tokenizer, _ = load_model(folder, device)
    model = Model(
        decoder, tokenizer, FeatureStore(paths.FEATURES / variant.features), decoding, device
    )
    for split in ("val", "test"):
        captions = Captions(
            paths.CORPORA / variant.corpus / "captions.parquet",
            [split],
            ["image_id", "caption_id", "text"],
        )
        yield from caption_split(model, captions, split)


if __name__ == "__main__":
    stage(main)

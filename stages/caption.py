"""variants.NAME -> data/captions/: every validation and test image captioned by each of its models, and what protocols need."""

from typing import TYPE_CHECKING

from pipeline import layout
from pipeline.params import Variant, load_params, pick
from pipeline.processes import stage

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    import pandas as pd

    from pipeline.captioning import Captioned


def main(name: str) -> None:
    params = load_params()
    variant = pick(params, "variants", name)

    import pandas as pd

    from pipeline.corpus import read_captions

    captions = read_captions(layout.CORPORA / variant.corpus / "captions.parquet")
    decoding = params.decoding(name).model_dump()
    own = _caption(layout.MODELS / name, variant, captions, decoding)
    again = [
        _caption(folder, variant, captions, {**decoding, "also": []}).captions.assign(seed=int(folder.name))
        for folder in sorted((layout.FURTHER_SEEDS / name).glob("[0-9]*"), key=lambda folder: int(folder.name))
    ]
    seeds = pd.concat(again) if again else own.captions.assign(seed=0).iloc[:0]
    _write(layout.CAPTIONS / f"{name}.parquet", own.captions)
    _write(layout.SEARCHES / f"{name}.parquet", own.searches)
    _write(layout.TEACHER_FORCED / f"{name}.parquet", own.teacher_forced)
    _write(layout.ATTENTION / f"{name}.parquet", own.attention)
    _write(layout.SEED_CAPTIONS / f"{name}.parquet", seeds)


def _caption(folder: "Path", variant: Variant, captions: "pd.DataFrame", decoding: "dict[str, Any]") -> "Captioned":
    import pandas as pd

    from pipeline.captioning import Captioned, Model, caption_split
    from pipeline.devices import pick_device
    from pipeline.features import FeatureStore
    from pipeline.model import load_model

    device = pick_device()
    decoder, tokenizer, _ = load_model(folder, device)
    model = Model(decoder, tokenizer, FeatureStore(layout.FEATURES / variant.features), decoding, device)
    splits = [caption_split(model, captions, split) for split in ("val", "test")]
    tables = zip(*((s.captions, s.searches, s.teacher_forced, s.attention) for s in splits), strict=True)
    return Captioned(*(pd.concat(parts, ignore_index=True) for parts in tables))


def _write(path: "Path", table: "pd.DataFrame") -> None:
    from pipeline.files import whole_file

    with whole_file(path) as part:
        table.to_parquet(part, index=False)


if __name__ == "__main__":
    stage(main)

"""variants.NAME -> data/captions/NAME.parquet: every validation and test image captioned, and its references' likelihood."""

from pipeline import layout
from pipeline.params import load_params, pick
from pipeline.processes import stage


def main(name: str) -> None:
    params = load_params()
    variant = pick(params, "variants", name)

    import pandas as pd

    from pipeline.captioning import caption_split
    from pipeline.corpus import read_captions
    from pipeline.devices import pick_device
    from pipeline.features import FeatureStore
    from pipeline.files import whole_file
    from pipeline.model import load_model

    device = pick_device()
    decoder, tokenizer, _ = load_model(layout.MODELS / name, device)
    captions = read_captions(layout.CORPORA / variant.corpus / "captions.parquet")
    store = FeatureStore(layout.FEATURES / variant.features)
    decoding = params.decoding(name).model_dump()
    splits = [caption_split(decoder, tokenizer, captions, split, store, decoding, device) for split in ("val", "test")]
    with whole_file(layout.CAPTIONS / f"{name}.parquet") as part:
        pd.concat(splits, ignore_index=True).to_parquet(part, index=False)


if __name__ == "__main__":
    stage(main)

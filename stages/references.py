"""corpora.NAME -> data/published/, data/references/ and data/training_captions/NAME.json: the PTB tokenizer once a corpus."""

from pipeline import layout
from pipeline.params import load_params, pick
from pipeline.processes import stage


def main(name: str) -> None:
    pick(load_params(), "corpora", name)

    from pipeline.corpus import published_references, read_captions
    from pipeline.files import write_json
    from pipeline.scores import ptb_tokenize, training_captions

    folder, columns = layout.CORPORA / name, ["image_id", "caption_id", "raw", "split"]
    captions = read_captions(folder / "captions.parquet", [*columns, "text"])
    rejected = read_captions(folder / "rejected.parquet", [*columns, "reason"])
    published = published_references(captions, rejected, ["val", "test"])
    write_json(layout.PUBLISHED / f"{name}.json", published)
    write_json(layout.REFERENCES / f"{name}.json", ptb_tokenize(published))
    write_json(layout.TRAINING_CAPTIONS / f"{name}.json", training_captions(captions))


if __name__ == "__main__":
    stage(main)

"""corpora.NAME -> data/references/NAME: references as published and tokenised, and tokenised
training captions. The tokenizer of the language runs once per corpus."""

from pipeline.core import paths
from pipeline.core.stage import stage
from pipeline.experiment.params import load_params, pick


def main(name: str) -> None:
    language = pick(load_params(), "corpora", name).language

    from pipeline.data.corpus import published_references, read_captions, read_rejected
    from pipeline.data.files import write_json
    from pipeline.scoring.tokens import tokenised, training_captions

    folder, columns = paths.CORPORA / name, ["image_id", "caption_id", "raw", "split"]
    captions = read_captions(folder / "captions.parquet", [*columns, "text"])
    rejected = read_rejected(folder / "rejected.parquet", [*columns, "reason"])
    published = published_references(captions, rejected, ["val", "test"])
    write_json(paths.published(name), published)
    write_json(paths.references(name), tokenised(published, language))
    write_json(paths.training_captions(name), training_captions(captions, language))


if __name__ == "__main__":
    stage(main)

"""corpora.NAME -> data/references/NAME: references as published and tokenised, and tokenised
training captions. The tokenizer of the language runs once per corpus."""

from pipeline.core import paths
from pipeline.core.stage import stage
from pipeline.experiment.params import load_params, pick


def main(name: str) -> None:
    language = pick(load_params(), "corpora", name).language

    import pandas as pd

    from pipeline.data.corpus import Captions, published_references, read_rejected
    from pipeline.data.files import write_json
    from pipeline.scoring.json_texts import write_texts
    from pipeline.scoring.tokens import tokenised, training_captions

    folder, columns = paths.CORPORA / name, ["image_id", "caption_id", "raw", "split"]
    held_out = ["val", "test"]
    captions = pd.concat(Captions(folder / "captions.parquet", held_out, columns))
    rejected = read_rejected(folder / "rejected.parquet", [*columns, "reason"])
    published = published_references(captions, rejected, held_out)
    write_json(paths.published(name), published)
    write_json(paths.references(name), tokenised(published, language))
    learnt = Captions(folder / "captions.parquet", ["train"], ["text"])["text"]
    write_texts(paths.training_captions(name), training_captions(learnt, language))


if __name__ == "__main__":
    stage(main)

"""variants.NAME -> reports/scores/NAME.json, data/scores/NAME.parquet: the captions under the standard protocol."""

from pipeline import layout
from pipeline.params import load_params, pick
from pipeline.processes import stage


def main(name: str) -> None:
    params = load_params()
    variant = pick(params, "variants", name)

    import pandas as pd

    from pipeline.files import read_json
    from pipeline.scores import score_captions, write_scores

    captions = pd.read_parquet(layout.CAPTIONS / f"{name}.parquet")
    references = read_json(layout.REFERENCES / f"{variant.corpus}.json")
    training = set(read_json(layout.TRAINING_CAPTIONS / f"{variant.corpus}.json"))
    summary, per_image = score_captions(captions, references, params.scoring.metrics, training)
    write_scores(summary, per_image, layout.SCORE_FILES / f"{name}.json", layout.SCORES / f"{name}.parquet")


if __name__ == "__main__":
    stage(main)

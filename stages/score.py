"""variants.NAME -> reports/scores/NAME.json, data/scores/[resamples/]NAME.parquet: captions under the standard protocol."""

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
    scored = score_captions(captions, references, params.scoring.metrics, training)
    write_scores(scored, name, layout.SCORE_FILES, layout.SCORES)


if __name__ == "__main__":
    stage(main)

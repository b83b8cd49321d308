"""corpora.NAME -> the captions and scores of most-frequent--NAME: the commonest training caption for every image."""

from pipeline import layout
from pipeline.params import load_params, pick
from pipeline.processes import stage


def main(name: str) -> None:
    params = load_params()
    pick(params, "corpora", name)

    from pipeline.baseline import most_frequent_captions
    from pipeline.corpus import read_captions
    from pipeline.files import read_json, whole_file
    from pipeline.scores import score_captions, write_scores

    row = f"most-frequent--{name}"
    captions = most_frequent_captions(read_captions(layout.CORPORA / name / "captions.parquet"))
    references = read_json(layout.REFERENCES / f"{name}.json")
    training = set(read_json(layout.TRAINING_CAPTIONS / f"{name}.json"))
    scored = score_captions(captions, references, params.scoring.metrics, training)
    with whole_file(layout.CAPTIONS / f"{row}.parquet") as part:
        captions.to_parquet(part, index=False)
    write_scores(scored, row, layout.SCORE_FILES, layout.SCORES)


if __name__ == "__main__":
    stage(main)

"""corpora.NAME -> the captions and scores of most-frequent--NAME: the commonest training caption for every image."""

from pipeline import layout
from pipeline.params import load_params, pick
from pipeline.processes import stage


def main(name: str) -> None:
    params = load_params()
    dataset = pick(params, "corpora", name).dataset

    from pipeline.baseline import most_frequent_captions
    from pipeline.commit import code_commit, row_code
    from pipeline.corpus import read_captions
    from pipeline.files import read_json, whole_file
    from pipeline.protocols import find_protocol
    from pipeline.scores import Folders, write_scores
    from pipeline.variant_scores import Known, Said, pictures_needed, score_variant

    row, corpus = f"most-frequent--{name}", layout.CORPORA / name / "captions.parquet"
    captions = most_frequent_captions(read_captions(corpus, ["image_id", "text", "split"]))
    files = (folder / f"{name}.json" for folder in (layout.REFERENCES, layout.PUBLISHED, layout.TRAINING_CAPTIONS))
    references, published, training = map(read_json, files)
    protocols = [p for p in params.scoring.protocols if find_protocol(p).captions == "own" and p != "standard"]
    metrics = params.scoring.metrics
    images = pictures_needed(metrics, corpus, layout.RAW / dataset)
    known = Known(references, published, set(training), images, params.scoring.clip)
    scored = score_variant(Said.of_baseline(captions), known, metrics, protocols)
    with whole_file(layout.CAPTIONS / f"{row}.parquet") as part:
        captions.to_parquet(part, index=False)
    folders = Folders(layout.SCORE_FILES, layout.METRICS, layout.SCORES)
    names = {"source": params.datasets[dataset].source}
    code = row_code(layout.GRAPH, ["download", "clean", "references", "baseline"], names)
    write_scores(scored, {"commit": code_commit(code), "clip": known.clip_model(metrics)}, row, folders)


if __name__ == "__main__":
    stage(main)

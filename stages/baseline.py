"""corpora.NAME -> the captions and scores of most-frequent--NAME: every image gets the most
frequent training caption."""

from pipeline.core import paths
from pipeline.core.stage import stage
from pipeline.experiment.params import load_params, pick


def main(name: str) -> None:
    params = load_params()
    options = pick(params, "corpora", name)
    dataset, language = options.dataset, options.language

    from pipeline.core.git import code_commit, row_code
    from pipeline.data.checked import read_texts
    from pipeline.data.corpus import read_captions
    from pipeline.data.files import whole_file
    from pipeline.experiment.protocols import find_protocol
    from pipeline.languages.languages import find_language
    from pipeline.scoring.baseline import most_frequent_captions
    from pipeline.scoring.json_texts import Texts
    from pipeline.scoring.row import write_scores
    from pipeline.scoring.variant import Known, Said, pictures_needed, score_variant

    row, corpus = f"most-frequent--{name}", paths.CORPORA / name / "captions.parquet"
    cleaned = read_captions(corpus, ["image_id", "text", "split"])
    captions = most_frequent_captions(cleaned, find_language(language))
    references, published = (read_texts(file(name)) for file in (paths.references, paths.published))
    training = Texts(paths.training_captions(name))
    protocols = [
        p
        for p in params.scoring.protocols
        if find_protocol(p).captions == "own" and p != "standard"
    ]
    metrics = params.scoring.metrics
    images = pictures_needed(metrics, corpus, paths.RAW / dataset)
    asked = params.scoring
    known = Known(
        references, published, set(training), images, asked.clip, language, asked.chair_files
    )
    scored = score_variant(Said.of_baseline(captions), known, metrics, protocols)
    with whole_file(paths.captions(row)) as part:
        captions.to_parquet(part, index=False)
    names = {"source": params.datasets[dataset].source}
    code = row_code(paths.GRAPH, ["download", "clean", "references", "baseline"], names)
    write_scores(
        scored,
        {"commit": code_commit(code), "clip": known.clip_model(metrics)},
        paths.SCORES / row,
        paths.metrics(row),
    )


if __name__ == "__main__":
    stage(main)

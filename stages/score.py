"""variants.NAME -> reports/scores/NAME.json, data/scores/: under the standard protocol and those named beside it."""

from pipeline import layout
from pipeline.allocation import give_back
from pipeline.params import load_params, pick
from pipeline.processes import stage


def main(name: str) -> None:
    params = load_params()
    variant = pick(params, "variants", name)
    dataset = params.corpora[variant.corpus].dataset

    give_back()
    from pipeline.commit import code_commit, row_code
    from pipeline.scores import Folders, write_scores
    from pipeline.texts_on_disk import Texts, texts_by_image
    from pipeline.variant_scores import Known, Said, pictures_needed, score_variant

    folders = (layout.CAPTIONS, layout.SEARCHES, layout.TEACHER_FORCED, layout.SEED_CAPTIONS)
    protocols, metrics = params.protocols(name), params.scoring.metrics
    said = Said.read([folder / f"{name}.parquet" for folder in folders], protocols)
    references, published = (texts_by_image(f / f"{variant.corpus}.json") for f in (layout.REFERENCES, layout.PUBLISHED))
    training = Texts(layout.TRAINING_CAPTIONS / f"{variant.corpus}.json")
    images = pictures_needed(metrics, layout.CORPORA / variant.corpus / "captions.parquet", layout.RAW / dataset)
    known = Known(references, published, training, images, params.scoring.clip)
    scored = score_variant(said, known, metrics, protocols)
    features = params.features[variant.features]
    names = {"source": params.datasets[dataset].source, "encoder": features.encoder, "decoder": variant.decoder}
    code = row_code(layout.GRAPH, ["download", "clean", "references", "extract", "train", "caption", "score"], names)
    about = {"commit": code_commit(code), "seeds": 1 + said.seeds.seed.nunique(), "clip": known.clip_model(metrics)}
    write_scores(scored, about, name, Folders(layout.SCORE_FILES, layout.METRICS, layout.SCORES))


if __name__ == "__main__":
    stage(main)

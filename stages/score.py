"""variants.NAME -> data/scores/NAME, data/metrics/NAME.json: scores under the standard protocol and
the others that params.yaml names for the variant."""

from pipeline.core import paths
from pipeline.core.machine import give_back
from pipeline.core.stage import stage
from pipeline.experiment.params import load_params, pick


def main(name: str) -> None:
    params = load_params()
    variant = pick(params, "variants", name)
    corpus = params.corpora[variant.corpus]
    dataset = corpus.dataset

    give_back()
    from pipeline.core.git import code_commit, row_code
    from pipeline.scoring.json_texts import Texts, texts_by_image
    from pipeline.scoring.row import write_scores
    from pipeline.scoring.variant import Known, Said, pictures_needed, score_variant

    files = (paths.captions, paths.searches, paths.teacher_forced, paths.seed_captions)
    protocols, metrics = params.protocols(name), params.scoring.metrics
    said = Said.read([file(name) for file in files], protocols, metrics)
    references, published = (
        texts_by_image(file(variant.corpus)) for file in (paths.references, paths.published)
    )
    training = Texts(paths.training_captions(variant.corpus))
    images = pictures_needed(
        metrics, paths.CORPORA / variant.corpus / "captions.parquet", paths.RAW / dataset
    )
    asked, language = params.scoring, corpus.language
    known = Known(references, published, training, images, asked.clip, language, asked.chair_files)
    scored = score_variant(said, known, metrics, protocols)
    features = params.features[variant.features]
    names = {
        "source": params.datasets[dataset].source,
        "encoder": features.encoder,
        "decoder": variant.decoder,
    }
    code = row_code(
        paths.GRAPH,
        ["download", "clean", "references", "extract", "train", "caption", "score"],
        names,
    )
    about = {
        "commit": code_commit(code),
        "seeds": 1 + said.seeds.seed.nunique(),
        "clip": known.clip_model(metrics),
    }
    write_scores(scored, about, paths.SCORES / name, paths.metrics(name))


if __name__ == "__main__":
    stage(main)

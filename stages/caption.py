"""variants.NAME -> data/captions/: captions of every validation and test image by each model of the
variant, and the tables that protocols need."""

from pipeline.core import paths
from pipeline.core.stage import stage
from pipeline.experiment.params import load_params, pick

# Paths of the tables of `Captioned`, in its order.
FILES = (paths.captions, paths.searches, paths.teacher_forced, paths.attention)


def main(name: str) -> None:
    params = load_params()
    variant = pick(params, "variants", name)

    from pipeline.core.machine import pick_device

    device = pick_device()  # before Arrow is imported
    from pipeline.captioning.tables import captions_of, write_tables

    corpus = paths.CORPORA / variant.corpus / "captions.parquet"
    data = corpus, paths.FEATURES / variant.features, device
    decoding = params.decoding(name).model_dump()
    parts = captions_of(paths.MODELS / name, decoding, *data)
    numbers = sorted(int(f.name) for f in (paths.FURTHER_SEEDS / name).glob("[0-9]*"))
    seeds = (
        (n, captions_of(paths.FURTHER_SEEDS / name / str(n), {**decoding, "also": []}, *data))
        for n in numbers
    )
    write_tables([file(name) for file in FILES], parts, paths.seed_captions(name), seeds)


if __name__ == "__main__":
    stage(main)

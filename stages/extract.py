"""features.NAME -> data/features/NAME: every image of a data set, seen once by a frozen encoder."""

from pipeline.core import paths
from pipeline.core.stage import stage
from pipeline.experiment.params import load_params, pick


def main(name: str) -> None:
    row = pick(load_params(), "features", name)

    from pipeline.core.machine import let_threads_sleep, pick_device

    let_threads_sleep()
    device = pick_device()  # before Arrow is imported
    from pipeline.core.machine import workers
    from pipeline.core.registry import check_args, load
    from pipeline.data.shards import Shards
    from pipeline.extraction.extract import extract

    encoder_class = load("encoders", row.encoder).Encoder
    check_args(encoder_class.__init__, row.args, f"features.{name}.args")
    shards = Shards(paths.RAW / row.dataset)
    about = {"encoder": row.encoder, "args": row.args, "dataset": row.dataset}
    about |= {"dtype": row.dtype, "keep": row.keep}
    extract(encoder_class(**row.args), shards, paths.FEATURES / name, about, device, workers())


if __name__ == "__main__":
    stage(main)

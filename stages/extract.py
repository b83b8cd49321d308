"""features.NAME -> data/features/NAME: features of every image of a data set, in one pass of a
frozen encoder."""

import os

from pipeline.core import paths
from pipeline.core.stage import stage
from pipeline.experiment.params import load_params, pick


def main(name: str) -> None:
    row = pick(load_params(), "features", name)

    from pipeline.core.machine import let_threads_sleep, pick_device

    let_threads_sleep()
    cluster = os.environ.get("CAPTIONLAB_RAY")
    device = "" if cluster else pick_device()  # before Arrow is imported
    from pipeline.core.machine import workers
    from pipeline.core.registry import check_args, load
    from pipeline.data.shards import Shards
    from pipeline.extraction import on_ray
    from pipeline.extraction.extract import extract

    encoder_class = load("encoders", row.encoder).Encoder
    check_args(encoder_class.__init__, row.args, f"features.{name}.args")
    shards = Shards(paths.RAW / row.dataset)
    about = {"encoder": row.encoder, "args": row.args, "dataset": row.dataset}
    about |= {"dtype": row.dtype, "keep": row.keep}
    folder = paths.FEATURES / name
    if not cluster:
        extract(encoder_class(**row.args), shards, folder, about, device, workers())
        return
    with on_ray.nodes(cluster) as nodes:
        encoder = encoder_class(**row.args)
        extract(encoder, shards, folder, about, nodes.device, workers(), make=nodes.make)


if __name__ == "__main__":
    stage(main)

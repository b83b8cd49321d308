"""datasets.NAME -> data/raw/NAME: raw images and captions as published."""

from pipeline.core import paths
from pipeline.core.registry import check_args, load
from pipeline.core.stage import stage
from pipeline.experiment.params import load_params, pick


def main(name: str) -> None:
    dataset = pick(load_params(), "datasets", name)
    source = load("sources", dataset.source)
    check_args(source.fetch, dataset.args, f"datasets.{name}.args")
    source.fetch(paths.RAW / name, **dataset.args)


if __name__ == "__main__":
    stage(main)

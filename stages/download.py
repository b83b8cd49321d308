"""datasets.NAME -> data/raw/NAME: raw images and captions as published."""

from pipeline import layout
from pipeline.params import load_params, pick
from pipeline.processes import stage
from pipeline.registry import check_args, load


def main(name: str) -> None:
    dataset = pick(load_params(), "datasets", name)
    source = load("sources", dataset.source)
    check_args(source.fetch, dataset.args, f"datasets.{name}.args")
    source.fetch(layout.RAW / name, **dataset.args)


if __name__ == "__main__":
    stage(main)

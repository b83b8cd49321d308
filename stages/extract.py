"""features.NAME -> data/features/NAME: every image of a data set, seen once by a frozen encoder."""

from pipeline import layout
from pipeline.params import load_params, pick
from pipeline.processes import stage


def main(name: str) -> None:
    row = pick(load_params(), "features", name)

    from pipeline.devices import let_threads_sleep, pick_device

    let_threads_sleep()
    device = pick_device()  # before Arrow is imported
    from pipeline.features import extract, image_files
    from pipeline.registry import check_args, load
    from pipeline.workers import workers

    encoder_class = load("encoders", row.encoder).Encoder
    check_args(encoder_class.__init__, row.args, f"features.{name}.args")
    raw = layout.RAW / row.dataset
    images = image_files(raw / "captions.parquet")
    about = {"encoder": row.encoder, "args": row.args, "dataset": row.dataset, "dtype": row.dtype}
    extract(encoder_class(**row.args), images, raw, layout.FEATURES / name, about, device, workers())


if __name__ == "__main__":
    stage(main)

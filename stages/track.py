"""variants.NAME -> data/runs/NAME.json: MLflow holds the variant, or will once its server answers
(`captionlab sync`)."""

from pipeline.core import paths
from pipeline.core.stage import stage
from pipeline.data.files import write_json
from pipeline.experiment.params import load_params
from pipeline.tracking.live import warn
from pipeline.tracking.payload import gather
from pipeline.tracking.publish import publish, publish_pending
from pipeline.tracking.store import StoreDown, open_store


def main(name: str) -> None:
    params = load_params()
    payload = gather(name, params, paths)
    pending = paths.RUNS / f"{name}.pending"
    try:
        store = open_store(create=True)
        publish(store, payload)
        pending.unlink(missing_ok=True)
        publish_pending(store, params, paths)
    except StoreDown as down:
        write_json(pending, payload.receipt)
        warn(f"{down}: '{name}' is kept in files, captionlab sync publishes it later")
    write_json(paths.RUNS / f"{name}.json", payload.receipt)


if __name__ == "__main__":
    stage(main)

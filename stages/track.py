"""variants.NAME -> reports/runs/NAME.json: MLflow holds the variant, or will once its server answers (`captionlab sync`)."""

from pipeline import layout
from pipeline.files import write_json
from pipeline.params import load_params
from pipeline.processes import stage
from pipeline.tracking import warn
from pipeline.tracking_payload import gather
from pipeline.tracking_publish import publish, publish_pending
from pipeline.tracking_store import StoreDown, open_store


def main(name: str) -> None:
    params = load_params()
    payload = gather(name, params, layout)
    pending = layout.RUNS / f"{name}.pending"
    try:
        store = open_store(create=True)
        publish(store, payload)
        pending.unlink(missing_ok=True)
        publish_pending(store, params, layout)
    except StoreDown as down:
        write_json(pending, payload.receipt)
        warn(f"{down}: '{name}' is kept in files, captionlab sync publishes it later")
    write_json(layout.RUNS / f"{name}.json", payload.receipt)


if __name__ == "__main__":
    stage(main)

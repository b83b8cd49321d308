"""variants.NAME -> reports/runs/NAME: publish the variant to MLflow, now or once its server
answers."""

import os

from pipeline.core import paths
from pipeline.core.stage import stage
from pipeline.data.files import whole_folder, write_json
from pipeline.experiment.params import load_params
from pipeline.tracking.live import warn
from pipeline.tracking.payload import gather
from pipeline.tracking.publish import publish, publish_pending
from pipeline.tracking.store import open_store
from pipeline.tracking.store_budget import Budget
from pipeline.tracking.store_faults import StoreDown

# `dvc repro --pull` assumes that a missing output need not be made. It does not assume this of an
# output that differs from dvc.lock. A clone has this file and no receipt, so DVC runs `track`
# there.
KEPT = """# Git keeps this file alone. A clone then lacks the receipt, and tells MLflow.
*
!.gitignore
"""


def main(name: str) -> None:
    params = load_params()
    payload = gather(name, params, paths)
    pending = paths.RUNS / f"{name}.pending"
    try:
        store = open_store(create=True, budget=Budget.of_stage())
        publish(store, payload)
        pending.unlink(missing_ok=True)
        publish_pending(store, params, paths)
    except StoreDown as down:
        write_json(pending, payload.receipt)
        warn(f"{down}: '{name}' is kept in files, {_applied()}{down.later}")
    with whole_folder(paths.RECEIPTS / name) as part:
        (part / ".gitignore").write_text(KEPT)
        write_json(part / "receipt.json", payload.receipt)


def _applied() -> str:
    """Return what must be done first in a temporary copy of an experiment, whose files only DVC
    keeps."""
    name = os.environ.get("DVC_EXP_NAME", "NAME")
    return f"dvc exp apply {name} brings them here, then " if paths.is_copy() else ""


if __name__ == "__main__":
    stage(main)

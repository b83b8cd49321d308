"""The default display of MLflow's pages: a saved view of the runs, best on validation first, and a
note.

The view is an experiment tag in the format in which MLflow's page saves one (MLflow 3.17; an older
page ignores it).
"""

import json
from typing import Any

from pipeline.tracking.payload import PICTURES
from pipeline.tracking.store import Store

VIEW = "best-on-validation"
COLUMNS = [
    *(
        "metrics.`val/cider`",
        "metrics.`val/bleu_4`",
        "metrics.`val/meteor`",
        "metrics.`val/loss`",
        "metrics.`test/cider`",
        "metrics.`cost/train_seconds`",
    ),
    *("tags.`dataset`", "tags.`encoder`", "tags.`decoder`", "tags.`protocol`"),
]
# Sections of the chart page, in this order: number of columns and height of a card. The page adds a
# chart for each metric with that prefix.
SECTIONS = {
    "val": (3, 360),
    "test": (3, 360),
    "curves": (3, 360),
    "cost": (3, 360),
    "captions": (1, 460),
}
# Charts at the top of the first two sections.
FIRST = ["cider", "bleu_4", "meteor", "rouge_l"]
ALIVE = {"deleted": False, "isGenerated": True}
NOTE = """One run per variant of `params.yaml`. A run's fingerprint stands for its parameters,
code and data.

- `val/...` scores choose, `test/...` scores are reported. Compare only runs of one `protocol`.
- `curves/...` grow while a variant trains: greedy captions on the validation images, for choosing
  the epoch alone.
- `cost/...` and the tag `device` tell what the training took, where this machine trained; the
  duration of a run is that of its publication.
- The view "best on validation" sorts the runs. The chart page shows the same scores as bars, the
  curves, and what each variant says of the same pictures. The champion of a data set is in the
  model registry.
"""


def write_view(store: Store) -> None:
    """Set the experiment's tags that differ from the wanted ones."""
    experiment = store.client.get_experiment(store.experiment)
    created = experiment.creation_time or 0
    saved = {
        "name": "best on validation",
        "createdAt": created,
        "updatedAt": created,
        "state": json.dumps(_state()),
    }
    wanted = {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": NOTE,
        f"mlflow.sharedViewState.{VIEW}": json.dumps(saved),
    }
    for name, value in wanted.items():
        if experiment.tags.get(name) != value:
            store.client.set_experiment_tag(store.experiment, name, value)


def _state() -> dict[str, Any]:
    sections = [
        {
            "uuid": name,
            "name": name,
            "columns": columns,
            "cardHeight": height,
            "display": True,
            "isReordered": True,
            **ALIVE,
        }
        for name, (columns, height) in SECTIONS.items()
    ]
    bars = [_bars(split, metric) for split in ("val", "test") for metric in FIRST]
    return {
        "orderByKey": "metrics.`val/cider`",
        "orderByAsc": False,
        "selectedColumns": COLUMNS,
        "compareRunSections": sections,
        "compareRunCharts": bars + [_captions(number) for number in range(1, PICTURES + 1)],
        "isAccordionReordered": True,
    }


def _bars(split: str, metric: str) -> dict[str, Any]:
    about = {
        "metricSectionId": split,
        "metricKey": f"{split}/{metric}",
        "displayName": metric,
        "runsCountToCompare": 20,
    }
    return {"type": "BAR", "uuid": f"{split}-{metric}", **about, **ALIVE}


def _captions(number: int) -> dict[str, Any]:
    """Return a chart of one picture as every variant captions it. By default the page would show
    all params above it, so they are turned off."""
    about = {
        "metricSectionId": "captions",
        "imageKeys": [f"captions/{number}"],
        "step": 0,
        "showRunParams": False,
    }
    return {"type": "IMAGE", "uuid": f"captions-{number}", **about, **ALIVE}

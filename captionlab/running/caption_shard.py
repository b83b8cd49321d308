"""What an actor of a Ray cluster does: it loads a model once, and captions shards of pictures.

Ray carries this module to the nodes by value (`cloudpickle.register_pickle_by_value`), so that a
node without captionlab can say so. Hence it imports nothing of this project before it is called.
"""

import json
import os
from pathlib import Path
from platform import node
from typing import TYPE_CHECKING, Any, TypedDict

from pipeline.core.alike import difference

if TYPE_CHECKING:
    from pipeline.captioner.captioner import Captioner

WEIGHTS = ("config.json", "model.safetensors", "tokenizer.json")
"files of a model folder that a caption depends on"


class Job(TypedDict):
    """What all actors share."""

    folder: str
    "Of the model, absolute."
    weights: list[str]
    "Digests of `WEIGHTS` in it."
    decode: dict[str, Any]
    beam: int | None
    samples: int | None
    threads: int
    "That decode pictures, of each actor."
    root: str
    "The driver's working directory, which relative names start from."
    versions: dict[str, str]
    "Of the driver's environment, see `alike`."


class Answer(TypedDict, total=False):
    """Of a shard: why it cannot be captioned here, or its rows."""

    refused: str
    rows: list[dict[str, Any]]
    missing: list[str]
    "Names of the rows whose files are not there on this node."
    node: str


class Captions:
    """Called by Ray Data with shards; an actor keeps one.

    It answers in JSON, for Arrow would ask rows to be of one kind, and names to be UTF-8. A mistake
    is an answer as well: an error would reach the driver wrapped in others.
    """

    def __init__(self, job: Job):
        self.job = job
        self.captioner: Captioner | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        return {"answer": [json.dumps(self.answer(json.loads(one))) for one in batch["shard"]]}

    def answer(self, files: list[str]) -> Answer:
        """Args: files: as they are named, absolute or below `root`."""
        try:
            from pipeline.core.errors import UserError, one_line
        except ModuleNotFoundError:
            return {"refused": f"node {node()} has no captionlab: install it there"}
        try:
            rows = self._rows(files)
        except UserError as error:
            told = one_line(error)
            return {"refused": told if told.startswith("node ") else f"node {node()}: {told}"}
        broken = [row["file"] for row in rows if "error" in row]
        missing = [file for file in broken if not os.path.exists(Path(self.job["root"], file))]
        return {"rows": rows, "missing": missing, "node": node()}

    def _rows(self, files: list[str]) -> list[dict[str, Any]]:
        from pipeline.captioner.folder import captioned

        job = self.job
        if self.captioner is None:
            self.captioner = _load(job)
        batches = captioned(
            files, self.captioner, job["beam"], job["samples"], job["threads"], job["root"]
        )
        return [row for rows in batches for row in rows]


def _load(job: Job) -> "Captioner":
    """Raises a UserError where this node has other packages or weights than the driver."""
    from captionlab.models import load
    from pipeline.core.errors import UserError

    folder = Path(job["folder"])
    if different := difference(job["versions"]):
        raise UserError(different)
    if not folder.is_dir():
        raise UserError(f"there is no model folder {folder}: put it on a disk that all nodes share")
    if digests(folder) != job["weights"]:
        raise UserError(f"{folder} holds other weights: put it on a disk that all nodes share")
    return load(folder, decode=job["decode"])


def digests(folder: Path) -> list[str]:
    """Of the files that captions depend on."""
    from pipeline.data.files import digest

    return [digest(folder / name) for name in WEIGHTS]

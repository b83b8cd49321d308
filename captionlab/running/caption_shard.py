"""The actors of a Ray cluster: each loads a model once, and captions shards of pictures.

Ray carries this module to the nodes by value (`cloudpickle.register_pickle_by_value`), so that a
node without captionlab can say so. Until it is called, the module therefore imports nothing of this
project but `alike`, which travels with it.
"""

import json
import os
from pathlib import Path
from platform import node
from typing import TYPE_CHECKING, Any, TypedDict

from pipeline.core.alike import difference

if TYPE_CHECKING:
    from pipeline.captioner.captioner import Captioner

# Files of a model folder that a caption depends on.
WEIGHTS = ("config.json", "model.safetensors", "tokenizer.json")


class Job(TypedDict):
    """What all actors share."""

    folder: str
    "Absolute path of the model folder."
    weights: list[str]
    "Digests of the files `WEIGHTS` in that folder."
    decode: dict[str, Any]
    beam: int | None
    samples: int | None
    threads: int
    "Number of threads per actor that decode pictures."
    root: str
    "The driver's working directory, from which relative names start."
    versions: dict[str, str]
    "Versions of the driver's environment, see `alike`."


class Answer(TypedDict, total=False):
    """The answer to a shard: its rows, or why this node cannot caption it."""

    refused: str
    rows: list[dict[str, Any]]
    missing: list[str]
    "Names of the rows whose files do not exist on this node."
    node: str


class Captions:
    """A callable that Ray Data calls with shards; each actor keeps one.

    It answers in JSON, because Arrow requires rows of one type and names in UTF-8. A UserError is
    returned as an answer, because a raised one would reach the driver wrapped in others.
    """

    def __init__(self, job: Job):
        self.job = job
        self.captioner: Captioner | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        return {"answer": [json.dumps(self.answer(json.loads(one))) for one in batch["shard"]]}

    def answer(self, files: list[str]) -> Answer:
        """Caption one shard.

        Args:
            files: names of the pictures, absolute or relative to `root`.
        """
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
    """Load the model.

    Raises:
        UserError: this node has other packages or weights than the driver.
    """
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
    """Return the digests of the files that captions depend on."""
    from pipeline.data.files import digest

    return [digest(folder / name) for name in WEIGHTS]

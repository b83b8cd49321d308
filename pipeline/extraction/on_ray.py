"""The stage `extract` on a Ray cluster. Ray Data gives the numbers of shards to actors that hold
the encoder. The actors write the arrays themselves; only a small record of each shard comes
back."""

import json
import logging
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from platform import node
from typing import Any
from uuid import uuid4

from pipeline.core.alike import difference, versions
from pipeline.core.errors import UserError, brief, one_line
from pipeline.core.machine import keep_buffers, pick_device, workers
from pipeline.core.ray_cluster import connect
from pipeline.data.files import digest, fingerprint, remove
from pipeline.data.shards import INDEX, Member, Shards
from pipeline.extraction.extract import SCRATCH, Job, Made, stamp
from pipeline.extraction.making import Maker
from pipeline.features.parts import part_file

# CPU share that an actor on a CPU requests. Ray Data hangs if its actors take every core of a
# cluster.
CORE = 0.9
# CPU share that an actor with a GPU requests. Only the number of GPUs limits such actors.
BESIDE_GPU = 0.1
# Number of shards that an actor holds at once, including the one in work.
QUEUED = 2


@dataclass
class Task:
    """The input of an actor. Paths are absolute."""

    encoder: Any
    """Ray's reference to the encoder. It makes the encoder the same on every node, random weights
    included."""
    data: Path
    root: Path
    "The folder of the shards, see `Shards`."
    index: str
    "The digest of the data set's index."
    folder: Path
    scratch: str
    """Name of the folder in `folder` where arrays are written. The next run removes it. An actor of
    a killed run lives on for some seconds, but then cannot move any file into place."""
    about: dict[str, Any]
    device: str
    threads: int
    "Number of decoding threads; 0 uses the node's default."
    torch_threads: int
    """Number of torch's threads on a CPU. Some encoders (convnext) round differently with another
    number."""
    batch: int
    stamps: list[list[int]]
    made_with: dict[str, str]
    "See `_made_with`."
    modules: list[str]


class Actor:
    """Makes one shard after another. It reports problems of its node in its records, because Ray
    would retry and wrap an error in a constructor."""

    def __init__(self, task: Task):
        self.task, self.wrong, self.at = task, "", 0
        self.coming: Iterator[list[Member]] = iter(())
        try:
            self._start()
        except UserError as error:
            self.wrong = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Make one shard.

        Args:
            batch: the number of one shard under `shard`.

        Returns:
            One JSON object under `record`: shard, stamp, rejected, and what is wrong, or ''.
        """
        number = int(batch["shard"][0])
        record: dict[str, Any] = {"shard": number, "wrong": self.wrong, "stamp": [], "rejected": []}
        if not self.wrong:
            try:
                record["stamp"], record["rejected"] = self._make(number)
            except UserError as error:
                record["wrong"] = str(error)
            except OSError as error:
                record["wrong"] = (
                    f"node {node()}: {one_line(error)}: fix that on this node, then run the same "
                    "command again"
                )
        return {"record": [json.dumps(record)]}

    def _start(self) -> None:
        import ray
        import torch

        task = self.task
        _check_sees(task)
        if different := difference(task.made_with, _made_with(task.modules)):
            raise UserError(different)
        self.shards = Shards(task.data)
        self.shards.root = task.root
        device = pick_device(task.device)
        if device == "cpu":
            torch.set_num_threads(task.torch_threads)
        threads = task.threads or workers()
        self.maker = Maker(ray.get(task.encoder), task.about, device, threads, task.batch)

    def _make(self, number: int) -> tuple[list[int], list[dict[str, Any]]]:
        task, members = self.task, self._members(number)
        shard = members[0].shard
        seen = stamp(shard)
        if task.stamps[number] and not seen:
            raise _unseen(shard)
        scratch = task.folder / task.scratch / uuid4().hex
        scratch.mkdir()
        with self.maker.decoding(members) as decoded:
            rejected = self.maker.make(scratch, number, members, decoded)
        for name in self.maker.files():
            file = part_file(name, number)
            os.replace(scratch / file, task.folder / file)
        remove(scratch)
        return seen, rejected

    def _members(self, number: int) -> list[Member]:
        """Return the pictures of a shard. Shards come mostly in order, so reading of the index
        continues after the last one."""
        if number < self.at or not self.at:
            self.at, self.coming = 0, self.shards.by_shard()
        while self.at < number:
            next(self.coming)
            self.at += 1
        self.at += 1
        return next(self.coming)


def _check_sees(task: Task) -> None:
    """Check that this node sees the same files as the head, not others at the same path."""
    if not (task.folder / task.scratch).is_dir():
        raise _unseen(task.folder)
    index = task.data / INDEX
    if not index.is_file() or digest(index) != task.index:
        raise _unseen(index)


def _unseen(path: Path) -> UserError:
    return UserError(
        f"node {node()} does not see {path} as the head does: put the workspace (and what its "
        "data/ links to) on a disk that all nodes have at the same path, or unset CAPTIONLAB_RAY"
    )


def _made_with(modules: list[str]) -> dict[str, str]:
    """Return the versions of Python and packages, and a fingerprint of the source of these
    modules."""
    return {**versions(), "the code": _code(modules)}


def _code(modules: list[str]) -> str:
    specs = [(name, find_spec(name)) for name in modules]
    return fingerprint([(n, digest(Path(s.origin))) for n, s in specs if s and s.origin])


class Nodes:
    """A connection to a cluster.

    Args:
        ray: the module `ray`, connected.
    """

    def __init__(self, ray: Any):
        self.ray = ray
        self.resources: dict[str, float] = ray.cluster_resources()
        chosen = (os.environ.get("CAPTIONLAB_DEVICE") or "").partition(":")[0]
        # The device of every actor. Ray decides which GPU an actor gets.
        self.device = chosen or ("cuda" if self.resources.get("GPU", 0) >= 1 else "cpu")

    def make(self, job: Job, todo: list[int]) -> Generator[Made, None, None]:
        """Make the shards `todo` on the cluster; the `make` argument of `extract`.

        Raises:
            UserError: a node sees other files or has other code than the head, a shard differs from
                the index, or no node has what an actor needs.
        """
        if not todo:
            return
        scratch = job.folder.absolute() / f"{SCRATCH}{uuid4().hex}"
        scratch.mkdir()
        try:
            for record in self._records(self._task(job, scratch.name), todo):
                if record["wrong"]:
                    raise UserError(record["wrong"])
                yield record["shard"], record["stamp"], record["rejected"]
        finally:
            remove(scratch)

    def _records(self, task: Task, todo: list[int]) -> Iterator[dict[str, Any]]:
        from ray.exceptions import RayError, RayTaskError, UserCodeException

        _quiet()
        needs, most = self._needs()
        numbers = [{"shard": number} for number in todo]
        blocks = self.ray.data.from_items(numbers, override_num_blocks=len(numbers))
        size = min(most, len(todo))
        pool = self.ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=QUEUED)
        made = blocks.map_batches(
            Actor, fn_constructor_args=(task,), batch_size=1, compute=pool, **needs
        )
        try:
            for row in made.iter_rows():
                yield json.loads(row["record"])
        except (RayTaskError, UserCodeException):  # a bug, so the traceback is useful
            raise
        except RayError as error:
            raise UserError(
                f"the Ray cluster broke off ({brief(error)}): run the same command again, the "
                "shards that are done stay"
            ) from None

    def _needs(self) -> tuple[dict[str, float], int]:
        """Return the resources that one actor requests, and the maximum number of actors."""
        if self.device == "cpu":
            return {"num_cpus": CORE}, max(1, int(self.resources.get("CPU", 1)))
        gpus = int(self.resources.get("GPU", 0))
        if not gpus:
            raise UserError(
                f"CAPTIONLAB_DEVICE={self.device}: no node of the Ray cluster offers a GPU: unset "
                "it or name cpu"
            )
        return {"num_gpus": 1, "num_cpus": BESIDE_GPU}, gpus

    def _task(self, job: Job, scratch: str) -> Task:
        import torch

        modules = sorted(
            name
            for name in sys.modules
            if name.split(".")[0] == "pipeline" and ".tracking" not in name
        )
        return Task(
            encoder=self.ray.put(job.encoder),
            data=job.shards.folder.absolute(),
            root=job.shards.root.absolute(),
            index=digest(job.shards.index),
            folder=job.folder.absolute(),
            scratch=scratch,
            about=job.about,
            device=self.device,
            threads=job.threads if os.environ.get("CAPTIONLAB_WORKERS") else 0,
            torch_threads=torch.get_num_threads(),
            batch=job.batch,
            stamps=job.stamps,
            made_with=_made_with(modules),
            modules=modules,
        )


def _quiet() -> None:
    """Turn off Ray Data's progress bars and its timeout. It takes half an hour without a record for
    a fault, but a large shard may take longer."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1
    logging.getLogger("ray.data").setLevel(logging.ERROR)


@contextmanager
def nodes(address: str) -> Iterator[Nodes]:
    """Provide a connection to the cluster for the duration of the block.

    Raises:
        UserError: Ray is not installed, or the address does not answer.
    """
    keep_buffers()  # before Ray imports Arrow
    ray = connect(address, "CAPTIONLAB_RAY=", "CAPTIONLAB_RAY")
    try:
        import ray.data

        yield Nodes(ray)
    finally:
        ray.shutdown()

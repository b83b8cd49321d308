"""`captionlab caption --ray`: the nodes of a Ray cluster caption pictures in shards.

Only the driver writes the file, line by line as answers arrive. If the driver is killed or a node
is lost, only the shards in flight are lost. The same command then continues.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from captionlab.models import STORED, load
from captionlab.running import caption_shard
from captionlab.running.caption_shard import Answer, Captions, Job
from pipeline.captioner.folder import BATCH, Counts, Rows, append_rows
from pipeline.core import alike
from pipeline.core.errors import UserError, brief
from pipeline.core.machine import workers
from pipeline.core.ray_cluster import connect

# Maximum pictures of a shard: one task captions a shard, and a lost node costs one.
SHARD = 256
# Shards per actor, if there are enough pictures, so that none waits long for the last one.
SHARDS_EACH = 4


def check_options(ray: str, out: Path | None, model: str) -> None:
    """Raise a UserError if --ray cannot be combined with the other options."""
    if out is None:
        raise UserError("--ray needs a file for the captions: --out captions.jsonl")
    if model == "champion" or model.startswith(STORED):
        raise UserError(
            f"--ray: {model} is fetched to this machine alone: name a variant or a model folder "
            "on a disk that all nodes share (--model)"
        )
    if ray.startswith("ray://"):
        raise UserError(
            f"--ray {ray}: Ray Data needs a driver on a node of the cluster: give HOST:PORT or "
            "auto there"
        )


def job_of(folder: Path, beam: int | None, samples: int | None) -> Job:
    """Return what all actors share.

    The model is loaded here as well, to read its decoding and to find mistakes before Ray starts.

    Raises:
        UserError: as for `captionlab.models.load`; or both a beam and samples are given.
    """
    captioner = load(folder, "cpu")
    captioner.caption([], beam, samples)  # checks both
    return {
        "folder": str(folder.absolute()),
        "weights": caption_shard.digests(folder),
        "decode": captioner.decode,
        "beam": beam,
        "samples": samples,
        "threads": workers() if os.environ.get("CAPTIONLAB_WORKERS") else 0,
        "root": os.getcwd(),
        "versions": alike.versions(),
    }


def caption_on_ray(
    address: str, out: Path, images: list[str], model: str, made_by: str, job: Job
) -> Counts:
    """Caption like `caption_into`, but on a cluster: lines are in the order in which shards end.

    Raises:
        UserError: as for `append_rows`; or no cluster answers; or a node does not see a file that
            this machine sees, or has other packages or weights.
    """
    return append_rows(out, images, model, made_by, lambda left: _captioned(left, address, job))


def _captioned(files: list[str], address: str, job: Job) -> Rows:
    if not files:
        return
    # Ray's core warns about how Ray Data starts its actors. Its notice that it was told not to is
    # muted as well.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with _muted():
        ray = connect(address, "--ray ", "captionlab caption --ray")
    from ray.exceptions import RayError, RayTaskError

    try:
        for answer in _answers(ray, files, job):
            yield rows_of(answer, job["root"])
    except RayTaskError:  # a bug keeps its traceback
        raise
    except RayError as error:
        raise UserError(f"--ray {address}: {brief(error)}: run the same command again") from None
    finally:
        ray.shutdown()  # ends the actors


@contextmanager
def _muted() -> Iterator[None]:
    """Discard standard error, including what C++ writes to it."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _answers(ray: Any, files: list[str], job: Job) -> Iterator[Answer]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    for module in (alike, caption_shard):
        ray.cloudpickle.register_pickle_by_value(module)
    actors, each = pool(ray.cluster_resources())
    shards = cut(files, actors)
    job = {**job, "threads": job["threads"] or _threads(ray.cluster_resources(), actors)}
    done = ray.data.from_items(shards, override_num_blocks=len(shards)).map_batches(
        Captions,
        batch_size=1,
        fn_constructor_args=(job,),
        # All actors start at once, but one is enough to begin. A lost node may leave no room for
        # some actors; Ray Data then gives their shards to the others.
        concurrency=(1, actors, actors),
        **each,
    )
    # Nothing is fetched ahead, because an answer that waits here is not in the file yet.
    for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
        yield from map(json.loads, batch["answer"])


def cut(files: list[str], actors: int) -> list[dict[str, str]]:
    """Return shards of whole batches, of at most `SHARD` pictures, as rows for Ray Data."""
    each = -(-len(files) // (SHARDS_EACH * actors))
    size = min(SHARD, -(-each // BATCH) * BATCH)
    return [
        {"shard": json.dumps(files[start : start + size])} for start in range(0, len(files), size)
    ]


def pool(resources: dict[str, float]) -> tuple[int, dict[str, float]]:
    """Return how many actors a cluster with these resources gets, and what each of them takes.

    An actor takes a GPU, or a core if there are no GPUs. One core is left free for Ray Data's own
    tasks: without one, Ray Data would hang without a message.
    """
    gpus, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    if gpus:
        return gpus, {"num_gpus": 1, "num_cpus": 0}
    return (cores - 1, {"num_cpus": 1}) if cores > 1 else (1, {"num_cpus": 0.5})


def _threads(resources: dict[str, float], actors: int) -> int:
    return max(1, int(resources.get("CPU", 1)) // actors)


def rows_of(answer: Answer, root: str) -> list[dict[str, Any]]:
    """Return the rows of an answer.

    Raises:
        UserError: the node could not caption, or lacks a file that this machine has.
    """
    if "refused" in answer:
        raise UserError(answer["refused"])
    for file in answer["missing"]:
        if os.path.exists(os.path.join(root, file)):
            raise UserError(
                f"node {answer['node']} does not see {os.path.join(root, file)}: put the pictures "
                "on a disk that all nodes share"
            )
    return answer["rows"]

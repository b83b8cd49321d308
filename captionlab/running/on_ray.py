"""Run jobs as tasks of a Ray cluster, each in a copy of the workspace on its node.

A node's outputs reach this workspace through DVC's remote, or through a cache on a shared disk. DVC
restores them here from its run cache, stage by stage, which also writes dvc.lock.
"""

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from captionlab.running import worker
from captionlab.running.local import Local, environment, job_command, log_of
from captionlab.running.lock_file import read_lock
from captionlab.running.needs import Need, Needs
from captionlab.running.outcome import Outcome, end_of, outcome_of
from captionlab.running.parcel import new_token, pack
from pipeline.core import alike, ray_cluster
from pipeline.core.errors import UserError, brief, one_line
from pipeline.experiment.params import Params

# Kinds of stages that run on the head, because they read files there.
HERE = ("download",)
# Seconds that nodes have to answer; their first task starts a process.
ANSWER = 120.0


class Cluster:
    """A Ray cluster that runs the stages of this workspace.

    Args:
        address: HOST:PORT, or auto.
        made: the stages that need not run. If the nodes share no disk, their outputs are pushed to
            the DVC remote first.

    Raises:
        UserError: Ray is not installed; the address does not answer; a node has another
            environment; or the nodes share neither the cache nor a DVC remote.
    """

    def __init__(self, address: str, needs: Needs, params: Params, made: list[str]):
        self.needs = needs
        self.local = Local(jobs=10**6, needs=Needs(), gpus=[])
        self._tasks: dict[Any, str] = {}
        "Ray's reference of a task -> its stage."
        self._pushing: set[str] = set()
        "Stages that were made here and are being pushed to the remote."
        self.token = new_token()
        self.parcel = pack(params, self.token)
        self._marks = [Path(self.parcel[key]) / self.token for key in ("cache", "checkpoints")]
        for mark in self._marks:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        try:
            self.ray = connect(address)
            self._agree(made)
        except BaseException:
            self.stop()
            raise

    def _agree(self, made: list[str]) -> None:
        """Find out how the nodes exchange their outputs, and send them the workspace."""
        unseeing = self._nodes_without_cache()
        self.parcel["shared"] = not unseeing
        if unseeing and not self.parcel["remote"]:
            raise UserError(worker.unseen(unseeing[0], self.parcel["cache"]))
        if unseeing and made:
            push(made)
        self._sent = self.ray.put(self.parcel)
        self._logs = self._start_logs()
        self._task = self.ray.remote(max_retries=0)(worker.run_stage)

    def _nodes_without_cache(self) -> list[str]:
        """Return the names of the nodes that do not see the head's cache.

        Raises:
            UserError: a node has another environment, or does not answer.
        """
        from ray.exceptions import RayError, RayTaskError

        look = self.ray.remote(num_cpus=0)(worker.look)
        asked = (self.parcel["versions"], self.parcel["cache"], self.token)
        nodes = [one for one in self.ray.nodes() if one["Alive"]]
        answers = [look.options(scheduling_strategy=on(n["NodeID"])).remote(*asked) for n in nodes]
        try:
            seen = self.ray.get(answers, timeout=ANSWER)
        except RayTaskError as error:
            raise UserError(one_line(error.cause or error)) from None
        except RayError as error:
            raise UserError(f"a node of the Ray cluster does not answer ({brief(error)})") from None
        return [n["NodeManagerHostname"] for n, sees in zip(nodes, seen, strict=True) if not sees]

    def has_room(self, stage: str) -> bool:
        cores = float(self.ray.cluster_resources().get("CPU", 1))
        return len(self._tasks) < max(1, cores)

    def start(self, stage: str) -> None:
        log_of(stage).parent.mkdir(parents=True, exist_ok=True)
        if stage.partition("@")[0] in HERE:
            self.local.start(stage)
            return
        resources = self._resources(stage)
        task = self._task.options(name=stage, **resources)
        processes = int(resources["num_gpus"])
        sent = task.remote(stage, read_lock(), processes, self._sent, self._logs)
        self._tasks[sent] = stage

    def finished(self) -> list[Outcome]:
        from ray.exceptions import RayError

        try:
            taken = self._taken_tasks()
            self._write_logs()
        except RayError as error:
            raise UserError(
                f"the Ray cluster broke off ({brief(error)}): run the same command again"
            ) from None
        for outcome in taken:
            if outcome.state == "done":
                self._restore(outcome.stage)
        ended = [one for one in taken if one.state != "done"]
        return ended + [one for one in self.local.finished() if not self._has_to_push(one)]

    def _taken_tasks(self) -> list[Outcome]:
        if not self._tasks:
            return []
        ready, _ = self.ray.wait(
            list(self._tasks), num_returns=len(self._tasks), timeout=0, fetch_local=False
        )
        return [self._taken(reference, self._tasks.pop(reference)) for reference in ready]

    def _has_to_push(self, made: Outcome) -> bool:
        """Push a stage that was made here, if other nodes need it; return whether a push began."""
        first = made.stage not in self._pushing
        self._pushing.discard(made.stage)
        here = made.stage.partition("@")[0] in HERE
        if made.state != "done" or self.parcel["shared"] or not (here and first):
            return False
        self._pushing.add(made.stage)
        self.local.run(made.stage, "--wait-for-lock", "push", "--run-cache", made.stage)
        return True

    def last_lines(self) -> dict[str, str]:
        on_nodes = {stage: end_of(log_of(stage)) for stage in self._tasks.values()}
        return on_nodes | self.local.last_lines()

    def stop(self) -> None:
        for reference in self._tasks:
            with suppress(Exception):  # its node may be gone
                self.ray.cancel(reference, force=True)
        self._tasks.clear()
        self.local.stop()
        for mark in self._marks:
            mark.unlink(missing_ok=True)
        if "ray" in vars(self):
            self.ray.shutdown()

    def _taken(self, reference: Any, stage: str) -> Outcome:
        from ray.exceptions import RayError, RayTaskError

        try:
            answer = self.ray.get(reference)
        except RayTaskError as error:
            return Outcome(stage, "failed", one_line(error.cause or error))
        except RayError as error:
            return Outcome(stage, "died", brief(error))
        for name, content in answer["notes"].items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(content)
        return outcome_of(stage, answer["status"], answer["log"])

    def _restore(self, stage: str) -> None:
        """Restore in this workspace what a node has made."""
        pull = [] if self.parcel["shared"] else ["--pull"]
        command = ["--wait-for-lock", "repro", "--single-item", *pull, stage]
        self.local.run(stage, *command, CAPTIONLAB_ONLY="")

    def _resources(self, stage: str) -> dict[str, Any]:
        nodes = [one["Resources"] for one in self.ray.nodes() if one["Alive"]]
        found = lendable(self.needs.of(stage), nodes)
        return {
            "num_gpus": found.gpus,
            "num_cpus": found.cores,
            "memory": int(1e9 * found.memory),
        }

    def _start_logs(self) -> Any:
        here = on(self.ray.get_runtime_context().get_node_id())
        return self.ray.remote(num_cpus=0, scheduling_strategy=here)(worker.Logs).remote()

    def _write_logs(self) -> None:
        for stage, text in self.ray.get(self._logs.take.remote()):
            with log_of(stage).open("ab") as file:
                file.write(text)


def lendable(need: Need, nodes: list[dict[str, float]]) -> Need:
    """Return what a stage can get from one node: its need, reduced to what the best node has.

    The best node has the most GPUs, then the most cores, then the most memory. A task that no node
    has room for would wait forever.

    Args:
        nodes: Ray's resources of each node, memory in bytes.

    Example:
        >>> lendable(Need(gpus=1, cores=2), [{"CPU": 64, "memory": 9e9}, {"CPU": 1, "GPU": 1}])
        Need(gpus=1, cores=1, memory=0.0)
    """
    gpus = min(need.gpus, max(one.get("GPU", 0.0) for one in nodes))
    nodes = [one for one in nodes if one.get("GPU", 0.0) >= gpus]
    cores = min(need.cores, max(one.get("CPU", 0.0) for one in nodes))
    nodes = [one for one in nodes if one.get("CPU", 0.0) >= cores]
    memory = min(need.memory, max(one.get("memory", 0.0) for one in nodes) / 1e9)
    return Need(gpus, cores, memory)


def on(node: str) -> Any:
    """Return Ray's strategy that places a task on this node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def push(stages: list[str]) -> None:
    """Push the outputs of these stages to the DVC remote.

    Raises:
        UserError: `dvc push` fails.
    """
    command = job_command("--wait-for-lock", "push", "-q", "--run-cache", *stages)
    if subprocess.run(command, env=environment()).returncode:
        raise UserError("dvc push failed: the nodes share no disk, so they need the DVC remote")


def connect(address: str) -> Any:
    """Return the module ray, connected to a cluster.

    Raises:
        UserError: see `Cluster`.
    """
    ray = ray_cluster.connect(address, "--ray ", "captionlab run --ray")
    for module in (alike, worker):
        ray.cloudpickle.register_pickle_by_value(module)
    return ray

"""Jobs as tasks of a Ray cluster, each in a copy of the workspace on its node.

What a node has made reaches this workspace through DVC's remote, or through a cache on a shared
disk: DVC restores it here from its run cache, stage by stage, and so writes dvc.lock.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from captionlab.running import worker
from captionlab.running.local import Local, log_of
from captionlab.running.lock_file import read_lock
from captionlab.running.needs import Need, Needs
from captionlab.running.outcome import Outcome, end_of, outcome_of
from captionlab.running.parcel import new_token, pack
from pipeline.core import ray_cluster
from pipeline.core.errors import brief, one_line
from pipeline.experiment.params import Params

HERE = ("download",)
"kinds of stages that run on the head: they read what lies there"


class Cluster:
    """Args: address: of a Ray cluster, or auto.

    Raises:
        UserError: Ray is not installed, or the address does not answer.
    """

    def __init__(self, address: str, needs: Needs, params: Params):
        self.ray = connect(address)
        self.needs = needs
        self.local = Local(jobs=10**6, needs=Needs(), gpus=[])
        self._tasks: dict[Any, str] = {}
        "Ray's reference -> its stage"
        self.token = new_token()
        self.parcel = pack(params, self.token)
        self._marks = [Path(self.parcel[key]) / self.token for key in ("cache", "checkpoints")]
        for mark in self._marks:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        self._sent = self.ray.put(self.parcel)
        self._logs = self._start_logs()
        self._task = self.ray.remote(max_retries=0)(worker.run_stage)

    def has_room(self, stage: str) -> bool:
        cores = float(self.ray.cluster_resources().get("CPU", 1))
        return len(self._tasks) < max(1, cores)

    def start(self, stage: str) -> None:
        log_of(stage).parent.mkdir(parents=True, exist_ok=True)
        if stage.partition("@")[0] in HERE:
            self.local.start(stage)
            return
        task = self._task.options(name=stage, **self._resources(stage))
        self._tasks[task.remote(stage, read_lock(), self._sent, self._logs)] = stage

    def finished(self) -> list[Outcome]:
        self._write_logs()
        ended = []
        if self._tasks:
            ready, _ = self.ray.wait(
                list(self._tasks), num_returns=len(self._tasks), timeout=0, fetch_local=False
            )
            for reference in ready:
                outcome = self._taken(reference, self._tasks.pop(reference))
                if outcome.state == "done":
                    self._restore(outcome.stage)
                else:
                    ended.append(outcome)
        return ended + self.local.finished()

    def last_lines(self) -> dict[str, str]:
        return {stage: end_of(log_of(stage)) for stage in self._tasks.values()} | (
            self.local.last_lines()
        )

    def stop(self) -> None:
        for reference in self._tasks:
            with suppress(Exception):  # its node may be gone
                self.ray.cancel(reference, force=True)
        self._tasks.clear()
        self.local.stop()
        for mark in self._marks:
            mark.unlink(missing_ok=True)
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
        """Take over here what a node has made."""
        pull = ["--pull"] if self.parcel["remote"] else []
        command = ["--wait-for-lock", "repro", "--single-item", *pull, stage]
        self.local.run(stage, *command, CAPTIONLAB_ONLY="")

    def _resources(self, stage: str) -> dict[str, Any]:
        """For Ray: no more than the largest node has, or a task would wait for ever."""
        need = self.needs.of(stage)
        nodes = [one["Resources"] for one in self.ray.nodes() if one["Alive"]]
        most = Need(
            gpus=max(one.get("GPU", 0.0) for one in nodes),
            cores=max(one.get("CPU", 0.0) for one in nodes),
            memory=max(one.get("memory", 0.0) for one in nodes) / 1e9,
        )
        return {
            "num_gpus": min(need.gpus, most.gpus),
            "num_cpus": min(need.cores, most.cores),
            "memory": int(1e9 * min(need.memory, most.memory)),
        }

    def _start_logs(self) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(
            self.ray.get_runtime_context().get_node_id(), soft=False
        )
        return self.ray.remote(num_cpus=0, scheduling_strategy=here)(worker.Logs).remote()

    def _write_logs(self) -> None:
        for stage, text in self.ray.get(self._logs.take.remote()):
            with log_of(stage).open("ab") as file:
                file.write(text)


def connect(address: str) -> Any:
    """The module ray, connected to a cluster.

    Raises:
        UserError: see `Cluster`.
    """
    ray = ray_cluster.connect(address, "--ray ", "captionlab run --ray")
    ray.cloudpickle.register_pickle_by_value(worker)
    return ray

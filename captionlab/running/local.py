"""Run jobs as processes on this machine, in this workspace."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from captionlab.running.needs import Needs
from captionlab.running.outcome import Outcome, end_of, outcome_of
from pipeline.core.errors import UserError
from pipeline.core.machine import gpus

# Folder with one log per stage; git ignores .dvc/tmp.
LOGS = Path(".dvc/tmp/captionlab/logs")
# Seconds that ended jobs have to remove half-written files.
GRACE = 15.0


def log_of(stage: str) -> Path:
    return LOGS / f"{stage.replace('/', '-')}.log"


def visible_gpus() -> list[str]:
    """Return the ids of the GPUs that a process here would see, as in CUDA_VISIBLE_DEVICES.

    With CAPTIONLAB_DEVICE=cuda:1, only that GPU counts.
    """
    device, _, number = (os.environ.get("CAPTIONLAB_DEVICE") or "cuda").partition(":")
    if device != "cuda" or not _has_driver():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    count = gpus()
    found = named.split(",")[:count] if named else [str(n) for n in range(count)]
    return [gpu for n, gpu in enumerate(found) if number in ("", str(n))]


def _has_driver() -> bool:
    """Return whether this machine may have GPUs, without importing torch, which takes seconds."""
    drivers = ("nvidiactl", "kfd", "dxg")  # of Nvidia, AMD, and Windows (WSL)
    return sys.platform != "linux" or any(Path("/dev", name).exists() for name in drivers)


@dataclass
class _Job:
    process: "subprocess.Popen[bytes]"
    log: Path
    shares: dict[str, float] = field(default_factory=dict)
    "GPU -> the share of it that the job takes."


class Local:
    """Run at most `jobs` stages at once, each GPU stage on its GPUs, or on its share of one.

    Without `jobs`, there are as many GPU stages as fit on the GPUs. Beside them, there are as many
    other stages as there are GPUs, but at least one.

    DVC documents `dvc repro --single-item` for several stages at once in one workspace. DVC locks
    the paths of a stage while it runs, and locks the repository only before and after.
    """

    def __init__(self, jobs: int | None, needs: Needs, gpus: list[str]):
        self.jobs, self.needs = jobs, needs
        self._free = dict.fromkeys(gpus, 1.0)
        self._running: dict[str, _Job] = {}
        for name in needs.named():
            if gpus and needs.of(name).gpus > len(gpus):
                raise UserError(
                    f"--need {name}.gpus={needs.of(name).gpus:g}: this machine has {len(gpus)}"
                )

    def has_room(self, stage: str) -> bool:
        shares = self._shares(stage)
        if shares is None:
            return False
        if self.jobs:
            return len(self._running) < self.jobs
        on_cores = sum(not job.shares for job in self._running.values())
        return bool(shares) or on_cores < max(1, len(self._free))

    def start(self, stage: str) -> None:
        self.run(stage, "--wait-for-lock", "repro", "--single-item", stage)

    def run(self, stage: str, *command: str, **more: str) -> None:
        """Start a `dvc` command for a stage.

        Args:
            more: additional environment variables.
        """
        shares = self._shares(stage) or {}
        for gpu, share in shares.items():
            self._free[gpu] -= share
        log = log_of(stage)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            file.write(f"\n--- {time.strftime('%F %T')} dvc {' '.join(command)}\n".encode())
            process = subprocess.Popen(
                job_command(*command),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**environment(), **_devices(shares), **more},
                start_new_session=True,  # Ctrl-C is for this process, which ends the jobs
            )
        self._running[stage] = _Job(process, log, shares)

    def finished(self) -> list[Outcome]:
        """Return the outcomes of the jobs that have ended since the last call."""
        ended = [name for name, job in self._running.items() if job.process.poll() is not None]
        return [self._end(name) for name in ended]

    def last_lines(self) -> dict[str, str]:
        """Return stage -> the end of its log, for the running stages."""
        return {name: end_of(job.log) for name, job in self._running.items()}

    def stop(self) -> None:
        """End every job and everything that it has started."""
        for job in self._running.values():
            _signal(job, signal.SIGTERM)
        until = time.monotonic() + GRACE
        while any(_lives(job) for job in self._running.values()) and time.monotonic() < until:
            time.sleep(0.1)
        for job in self._running.values():
            _signal(job, signal.SIGKILL)
            job.process.wait()
        self._running.clear()

    def _end(self, stage: str) -> Outcome:
        job = self._running.pop(stage)
        for gpu, share in job.shares.items():
            self._free[gpu] += share
        return outcome_of(stage, job.process.returncode, _since_start(end_of(job.log)))

    def _shares(self, stage: str) -> dict[str, float] | None:
        """Return GPU -> the share that a stage would take now; None if the GPUs are in use."""
        wanted = self.needs.of(stage).gpus if self._free else 0.0
        if not wanted:
            return {}
        count = max(1, round(wanted))
        share = min(1.0, wanted)
        free = [gpu for gpu, left in self._free.items() if left + 1e-9 >= share]
        free.sort(key=lambda gpu: -self._free[gpu])  # the emptiest first
        return dict.fromkeys(free[:count], share) if len(free) >= count else None


def _since_start(log: str) -> str:
    """Return what the last command in a log printed."""
    return log.rpartition("\n--- ")[2]


def job_command(*command: str) -> list[str]:
    """Return the command line of a `dvc` command that ends with this process."""
    return [sys.executable, "-m", "captionlab.running.job", str(os.getpid()), *command]


def environment() -> Mapping[str, str]:
    """Return a job's environment: this Python is first on PATH, because dvc.yaml runs `python`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path}


def _devices(shares: dict[str, float]) -> dict[str, str]:
    if not shares:
        return {}
    several = {"CAPTIONLAB_PROCESSES": str(len(shares))} if len(shares) > 1 else {}
    chosen = {"CUDA_VISIBLE_DEVICES": ",".join(shares), **several}
    if os.environ.get("CAPTIONLAB_DEVICE"):  # visible GPUs are numbered from 0
        chosen["CAPTIONLAB_DEVICE"] = "cuda"
    return chosen


def _signal(job: _Job, number: int) -> None:
    """Signal the whole process group: dvc, its shell, the stage and what that has started."""
    with suppress(ProcessLookupError):
        os.killpg(job.process.pid, number)


def _lives(job: _Job) -> bool:
    """Return whether any process of the job's group is left."""
    job.process.poll()
    try:
        os.killpg(job.process.pid, 0)
    except ProcessLookupError:
        return False
    return True

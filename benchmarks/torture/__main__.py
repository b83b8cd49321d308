"""`python -m benchmarks.torture [--seed N] [--case N | --kill N]` -> benchmarks/results/torture.md.

Without `--case` and `--kill`, two processes share all hostile inputs and kills of the seed. With
one of the options, only that case or kill runs, and everything that it printed is shown. An input
is the same each time. A kill comes after a random share of the time that its stage takes
undisturbed.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}

from benchmarks import _common as common
from benchmarks.torture import cases, isolation, kills, workspace
from pipeline.data.checked import read_json
from pipeline.data.files import write_json

INPUTS, KILLS, WORKERS = 300, 100, 2
# The partial output from which extract resumes.
RESUMED = ".scenes-lite0.part"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inputs", type=int, default=INPUTS)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--case", type=int, help="this hostile input alone")
    parser.add_argument("--kill", type=int, help="this kill alone")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="prepared there once, and kept")
    return parser.parse_args()


class Torture:
    """The inputs and kills of a seed."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self.folder, self.base = seed, folder, folder / "base"
        self.took: dict[str, float] = {}
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()

    def prepare(self) -> None:
        """Make the workspace and the model that is served, unless they exist."""
        workspace.import_everything()
        kept = self.folder / "took.json"
        if kept.is_file():
            self.took = read_json(kept)
            return
        self.took = workspace.make(self.base)
        done = isolation.start(self._publish, self.folder / "publish", self.folder).wait(120)
        if done.status:
            raise RuntimeError(f"no served model:\n{done.err}")
        write_json(kept, self.took)

    def _publish(self) -> None:
        from benchmarks.serving import publish
        from benchmarks.torture.requests import DECODE
        from tests.tracking_workspace import make_captioner

        make_captioner(self.folder / "served/merge")
        publish(self.folder / "served/merge", DECODE, self.folder / "served")

    def input(self, number: int) -> str:
        """Run an input and return what it printed."""
        place = self.folder / f"case{number}"
        case = cases.make(self.seed, number, self.base, place)
        found = isolation.start(case.call, place, case.cwd).wait()
        wrong = isolation.faults(found, case.several)
        parts = place.rglob(".*.part")
        wrong += [f"left {part.relative_to(place)}" for part in parts if part.name != RESUMED]
        self._count(f"input, status {found.status}", f"--case {number}", case.what, wrong)
        shutil.rmtree(place, ignore_errors=True)
        return found.out + found.err

    def kill(self, number: int) -> str:
        """Carry out a kill and return what was done."""
        place = self.folder / f"kill{number}"
        place.mkdir()
        what, wrong = kills.run(self.seed, number, self.base, place, self.took)
        self._count(f"kill of {what.split(':')[0]}", f"--kill {number}", what, wrong)
        shutil.rmtree(place, ignore_errors=True)
        return what

    def _count(self, kind: str, option: str, what: str, wrong: list[str]) -> None:
        self.counts[kind] += 1
        if wrong:
            told = f"{ascii(what)[1:-1][:200]}: {'; '.join(wrong)[:600]}"
            self.wrong.append(f"`--seed {self.seed} {option}` {told}")
            print(self.wrong[-1], flush=True)

    def shared(self, inputs: int, kills: int) -> None:
        """Run all inputs and kills in WORKERS forks, and collect their results here."""

        def work(worker: int) -> None:
            for number in range(worker, inputs, WORKERS):
                self.input(number)
            for number in range(worker, kills, WORKERS):
                self.kill(number)
            write_json(self.folder / f"worker{worker}.json", [self.wrong, dict(self.counts)])

        for pid in [_forked(work, worker) for worker in range(WORKERS)]:
            os.waitpid(pid, 0)
        for worker in range(WORKERS):
            wrong, counts = read_json(self.folder / f"worker{worker}.json")
            self.wrong += wrong
            self.counts.update(counts)


def _forked(work: Callable[[int], None], worker: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work(worker)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def report(torture: Torture, seconds: float) -> str:
    """Return the text of results/torture.md."""
    about = common.environment()
    command = f"`python -m benchmarks.torture --seed {torture.seed}`"
    head = f"{command} at {about['commit']}, {about['machine']}, {seconds:.0f} s."
    rows = [[name, str(n)] for name, n in sorted(torture.counts.items())]
    told = "\n".join(f"- {line}" for line in torture.wrong) or "No fault."
    return f"{head}\n\n{common.markdown(['what', 'times'], rows)}\n{told}\n"


def main() -> int:
    options, began = arguments(), time.monotonic()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="torture-"))
    torture = Torture(options.seed, folder)
    try:
        torture.prepare()
        if options.case is not None:
            print(torture.input(options.case))
        elif options.kill is not None:
            print(torture.kill(options.kill))
        else:
            torture.shared(options.inputs, options.kills)
            text = report(torture, time.monotonic() - began)
            if options.inputs >= INPUTS and options.kills >= KILLS:
                (common.RESULTS / "torture.md").write_text(text)
            print(text)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return int(bool(torture.wrong))


if __name__ == "__main__":
    sys.exit(main())

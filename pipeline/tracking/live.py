"""What MLflow calls a variant, and the live curves of its training. Nothing here imports mlflow: a
receiving process does.

Importing mlflow and opening its store costs up to eight seconds of processor time, and a server may
hang; neither may touch a training. So `start_live` starts `pipeline.tracking.receiver` beside it at
the lowest priority, where training needs all cores only once it has lasted (`delay`), and writes
one JSON line per report to its standard input, without ever waiting. Epochs that the receiver
misses `track` replays from the history file; figures within an epoch (`step_*`) are live or not at
all.
"""

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pipeline.core.errors import UserError, printable, say
from pipeline.experiment.params import Params
from pipeline.tracking.tags import flat_params, tags

HIDDEN = {"step", "epoch", "best"}
"columns of the history file that are no curves"
GRACE = 15.0
"seconds that the receiver has to finish after `close`"
WORTH = 400
"seconds of a training of which the start of a receiver is 2 %"
KEPT = 10_000
"reports that wait for the receiver; more are not sent"


class Live:
    """A training's line to MLflow. No method raises, and only `close` waits, for `GRACE` seconds at
    most.

    Args:
        begin: starts the receiver; None: nobody listens.
        header: what it is told first.
        after: seconds until it is started.
    """

    def __init__(
        self,
        begin: "Callable[[], subprocess.Popen[bytes]] | None",
        header: dict[str, Any] | None = None,
        after: float = 0.0,
    ):
        self._begin, self._due = begin, time.monotonic() + after
        self._header, self._lines = _line(header), deque[bytes]()
        self._receiver: subprocess.Popen[bytes] | None = None
        self._pass_on()

    def log(self, step: int, values: dict[str, float]) -> None:
        """Send figures of one step, by the column names of the history file."""
        if (self._begin or self._receiver) and len(self._lines) < KEPT:
            self._lines.append(
                _line({"step": step, "values": values, "time": int(1000 * time.time())})
            )
        self._pass_on()

    def close(self, status: Literal["FINISHED", "KILLED", "FAILED"]) -> None:
        """End the curves. A FINISHED training's run stays RUNNING, until `track` has put everything
        else into it."""
        self._begin = None
        self._lines.append(_line({"close": status}))
        receiver = self._receiver
        if not receiver:
            return
        connected = _is_connected(receiver)
        until = time.monotonic() + (GRACE if connected else 0)
        while self._pass_on() and time.monotonic() < until:
            time.sleep(0.05)
        if self._receiver:
            _end(receiver, until, connected)
        self._receiver = None

    def _pass_on(self) -> bool:
        """As many lines as the receiver takes now; whether there are more."""
        if self._begin and time.monotonic() >= self._due:
            self._receiver, self._begin = self._started(self._begin), None
            self._lines.appendleft(self._header)
        while self._receiver and self._lines:
            assert self._receiver.stdin
            try:
                line = self._lines.popleft()
                taken = os.write(self._receiver.stdin.fileno(), line)
                if taken < len(line):  # one that is longer than PIPE_BUF, 512 bytes on some systems
                    self._lines.appendleft(line[taken:])
            except BlockingIOError:
                self._lines.appendleft(line)
                return True
            except OSError:  # the receiver has given up and has said why
                self._receiver = None
        return False

    def _started(
        self, begin: "Callable[[], subprocess.Popen[bytes]]"
    ) -> "subprocess.Popen[bytes] | None":
        try:
            receiver = begin()
            _put_behind(receiver.pid)
            for end in (receiver.stdin, receiver.stdout):
                assert end
                os.set_blocking(end.fileno(), False)
            return receiver
        except OSError as error:
            warn(
                f"the curves are not sent to MLflow while training ({error}): the stage "
                "track does it afterwards"
            )
            return None


def _line(message: dict[str, Any] | None) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _end(receiver: "subprocess.Popen[bytes]", until: float, connected: bool) -> None:
    try:
        assert receiver.stdin
        receiver.stdin.close()
        receiver.wait(max(0.0, until - time.monotonic()))
    except OSError:
        pass
    except subprocess.TimeoutExpired:
        receiver.kill()
        receiver.wait()
        if connected:
            warn(
                f"MLflow took longer than {GRACE:.0f} s to store the curves: the stage "
                "track completes them"
            )


def _is_connected(receiver: "subprocess.Popen[bytes]") -> bool:
    """Whether it has said so. A training that ends earlier has no run to close, and waiting would
    be for imports."""
    assert receiver.stdout
    try:
        return bool(os.read(receiver.stdout.fileno(), 1))
    except BlockingIOError:
        return False


def start_live(variant: str, params: Params, run_file: Path, after: float = 0.0) -> Live:
    """Log a training while it runs; without MLflow, or with a dead server, one warning and the
    training goes on alone.

    Args:
        run_file: JSON that holds {tracking_uri, run_id, params} of this training: a resumed
            training continues that run,
            `track` completes it.
        after: seconds until the first figures are sent, all that there are by then.
    """
    path = os.pathsep.join(
        [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    header = {
        "variant": variant,
        "params": flat_params(variant, params),
        "tags": tags(variant, params),
        "file": str(run_file),
    }

    def begin() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline.tracking.receiver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C ends the training, which then says goodbye
        )

    return Live(begin, header, after)


def delay(device: str) -> float:
    """Seconds of a training before its curves are sent: one on a GPU leaves cores idle, one on a
    CPU pays for the receiver."""
    text = os.environ.get("CAPTIONLAB_LIVE_SECONDS") or str(WORTH if device == "cpu" else 0)
    try:
        return float(text)
    except ValueError:
        raise UserError(f"CAPTIONLAB_LIVE_SECONDS={text}: expected a number of seconds") from None


def curves_of(row: dict[str, float]) -> dict[str, float]:
    """A row of the history by metric: MLflow's pages make a section of what stands before the
    slash."""
    return {f"curves/{name}": value for name, value in row.items() if name not in HIDDEN}


def warn(message: str) -> None:
    say(f"warning: {printable(' '.join(message.split()))}", file=sys.stderr)


def _put_behind(process: int) -> None:
    """The lowest priority, from its first import on: of a core that training uses too, Linux then
    gives it 15 parts of 1039."""
    with suppress(OSError):
        if hasattr(os, "setpriority"):
            os.setpriority(os.PRIO_PROCESS, process, 19)
        Path(f"/proc/{process}/autogroup").write_text(
            "19"
        )  # where sessions are scheduled as groups, only this does it

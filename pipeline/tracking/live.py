"""The live curves of a training, sent to MLflow without slowing it down.

Importing mlflow and opening its store costs up to eight seconds of processor time, and a server may
hang. Neither may affect a training, so nothing here imports mlflow. Instead, `start_live` starts
`pipeline.tracking.receiver` as a second process at the lowest priority. It does so once the
training has lasted long enough to be worth it (`delay`). Each report is one JSON line on the
receiver's standard input, and is written without ever waiting.

The stage `track` later completes epochs that the receiver missed, from the history file. Figures
within an epoch (`step_*`) are sent live or not at all.
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

# Columns of the history file that are not curves.
HIDDEN = {"step", "epoch", "best"}
# Seconds that the receiver has to finish after `close`: as long as a stage waits for a store.
GRACE = 10.0
# Seconds of training after which starting a receiver costs only 2 % of them.
WORTH = 400
# Largest number of reports that wait for the receiver. Later ones are dropped.
KEPT = 10_000


class Live:
    """A training's connection to its receiver. No method raises. Only `close` waits, for at most
    `GRACE` seconds.

    Args:
        begin: starts the receiver; None sends nothing.
        header: the first message.
        after: seconds until the receiver is started.
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
        """Send the figures of one step, named like the columns of the history file."""
        if (self._begin or self._receiver) and len(self._lines) < KEPT:
            self._lines.append(
                _line({"step": step, "values": values, "time": int(1000 * time.time())})
            )
        self._pass_on()

    def __enter__(self) -> "Live":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close("FINISHED")
        else:
            self.close("KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED")

    def close(self, status: Literal["FINISHED", "KILLED", "FAILED"]) -> None:
        """End the curves. If the training FINISHED, its run stays RUNNING until `track` has added
        everything else."""
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
        """Write as many lines as the receiver takes now. Return whether some wait for it."""
        if self._begin and time.monotonic() >= self._due:
            self._receiver, self._begin = self._started(self._begin), None
            self._lines.appendleft(self._header)
        while self._receiver and self._lines:
            assert self._receiver.stdin
            try:
                line = self._lines.popleft()
                taken = os.write(self._receiver.stdin.fileno(), line)
                if taken < len(line):  # lines above PIPE_BUF (512 bytes on some systems) may split
                    self._lines.appendleft(line[taken:])
            except BlockingIOError:
                self._lines.appendleft(line)
                return True
            except OSError:  # the receiver has stopped and has printed the reason
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
    """Return whether the receiver has reached its store.

    Before that it has no run to close, so waiting for it would only mean waiting for imports.
    """
    assert receiver.stdout
    try:
        return bool(os.read(receiver.stdout.fileno(), 1))
    except BlockingIOError:
        return False


def start_live(variant: str, params: Params, run_file: Path, after: float = 0.0) -> Live:
    """Log a training while it runs. If MLflow is missing or its server is dead, one warning is
    printed and the training continues without live curves.

    Args:
        run_file: JSON with {tracking_uri, run_id, params} of this training. A resumed training
            continues that run, and `track` completes it.
        after: seconds until the first figures are sent, including all earlier ones.
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
            start_new_session=True,  # Ctrl-C must reach only the training, which then sends `close`
        )

    return Live(begin, header, after)


def delay(device: str) -> float:
    """Return the seconds of training before its curves are sent.

    Training on a GPU leaves CPU cores idle for the receiver. On a CPU, the receiver takes time from
    the training. CAPTIONLAB_LIVE_SECONDS overrides both defaults.
    """
    text = os.environ.get("CAPTIONLAB_LIVE_SECONDS") or str(WORTH if device == "cpu" else 0)
    try:
        return float(text)
    except ValueError:
        raise UserError(f"CAPTIONLAB_LIVE_SECONDS={text}: expected a number of seconds") from None


def curves_of(row: dict[str, float]) -> dict[str, float]:
    """Return a row of the history file by metric names in MLflow. MLflow's pages group metrics by
    the part before the slash."""
    return {f"curves/{name}": value for name, value in row.items() if name not in HIDDEN}


def warn(message: str) -> None:
    say(f"warning: {printable(' '.join(message.split()))}", file=sys.stderr)


def _put_behind(process: int) -> None:
    """Give a process the lowest priority. Linux then gives it 15 of 1039 parts of a core that it
    shares with the training."""
    with suppress(OSError):
        if hasattr(os, "setpriority"):
            os.setpriority(os.PRIO_PROCESS, process, 19)
        Path(f"/proc/{process}/autogroup").write_text(
            "19"
        )  # if Linux schedules sessions as groups (autogroup), only this has an effect

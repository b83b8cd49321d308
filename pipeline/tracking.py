"""What MLflow calls a variant, and the live curves of its training. Nothing here imports mlflow: a receiving process does.

Importing mlflow and opening its store costs four seconds of processor time, and a server may hang; neither may touch a
training. So `start_live` starts `pipeline.tracking_live` beside it at the lowest priority and writes one JSON line per report
to its standard input, without ever waiting. What the receiver misses, `track` replays from the history file.
"""

import getpass
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pipeline.params import Decoding, Params

HIDDEN = {"step", "epoch", "best"}
"columns of the history file that are no curves"
GRACE = 15.0
"seconds that the receiver has to finish after `close`"


class Live:
    """A training's line to MLflow. No method raises, and only `close` waits, for `GRACE` seconds at most."""

    def __init__(self, receiver: "subprocess.Popen[bytes] | None"):
        self._receiver = receiver
        if receiver and receiver.stdin and receiver.stdout:
            os.set_blocking(receiver.stdin.fileno(), False)
            os.set_blocking(receiver.stdout.fileno(), False)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Send figures of one step, by the column names of the history file."""
        self._send({"step": step, "values": values})

    def close(self, status: Literal["FINISHED", "KILLED", "FAILED"]) -> None:
        """End the curves. A FINISHED training's run stays RUNNING, until `track` has put everything else into it."""
        self._send({"close": status})
        receiver, self._receiver = self._receiver, None
        if not receiver or not receiver.stdin:
            return
        connected = _is_connected(receiver)
        try:
            receiver.stdin.close()
            receiver.wait(GRACE if connected else 0)
        except OSError:
            pass
        except subprocess.TimeoutExpired:
            receiver.kill()
            receiver.wait()
            if connected:
                warn(f"MLflow took longer than {GRACE:.0f} s to store the curves: the stage track completes them")

    def _send(self, message: dict[str, Any]) -> None:
        if not self._receiver or not self._receiver.stdin:
            return
        try:  # a line is shorter than PIPE_BUF, so it goes whole or not at all
            os.write(self._receiver.stdin.fileno(), json.dumps(message).encode() + b"\n")
        except BlockingIOError:
            pass
        except OSError:  # the receiver has given up and has said why
            self._receiver = None


def _is_connected(receiver: "subprocess.Popen[bytes]") -> bool:
    """Whether it has said so. A training that ends earlier has no run to close, and waiting would be for imports."""
    assert receiver.stdout
    try:
        return bool(os.read(receiver.stdout.fileno(), 1))
    except BlockingIOError:
        return False


def start_live(variant: str, params: Params, run_file: Path) -> Live:
    """Log a training while it runs; without MLflow, or with a dead server, one warning and the training goes on alone.

    Args:
        run_file: JSON that holds {tracking_uri, run_id, params} of this training: a resumed training continues that run,
            `track` completes it.
    """
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    header = {"variant": variant, "params": flat_params(variant, params), "tags": tags(variant, params), "file": str(run_file)}
    try:
        receiver = subprocess.Popen(
            [sys.executable, "-m", "pipeline.tracking_live"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C ends the training, which then says goodbye
        )
        assert receiver.stdin
        _put_behind(receiver.pid)
        os.write(receiver.stdin.fileno(), json.dumps(header).encode() + b"\n")
    except OSError as error:
        warn(f"the curves are not sent to MLflow while training ({error}): the stage track does it afterwards")
        return Live(None)
    return Live(receiver)


def curves_of(row: dict[str, float]) -> dict[str, float]:
    """A row of the history by metric: MLflow's pages make a section of what stands before the slash."""
    return {f"curves/{name}": value for name, value in row.items() if name not in HIDDEN}


def warn(message: str) -> None:
    print(f"warning: {' '.join(message.split())}", file=sys.stderr, flush=True)


def _put_behind(process: int) -> None:
    """The lowest priority, from its first import on: of a core that training uses too, Linux then gives it 15 parts of 1039."""
    with suppress(OSError):
        if hasattr(os, "setpriority"):
            os.setpriority(os.PRIO_PROCESS, process, 19)
        Path(f"/proc/{process}/autogroup").write_text("19")  # where sessions are scheduled as groups, only this does it


def flat_params(variant: str, params: Params) -> dict[str, str]:
    """The variant's own values after all overrides, by dotted name: args.hidden, train.lr, corpus.lower, encoder.model."""
    v = params.variants[variant]
    corpus, features = params.corpora[v.corpus], params.features[v.features]
    dataset = params.datasets[corpus.dataset]
    tree = {
        "decoder": {"name": v.decoder},
        "args": v.args,
        "train": params.training(variant).model_dump(),
        "decode": params.decoding(variant).model_dump(),
        "scoring": {"clip": params.scoring.clip or {}},
        "corpus": {"name": v.corpus, **corpus.model_dump()},
        "features": {"name": v.features},
        "encoder": {"name": features.encoder, **features.args},
        "source": {"name": dataset.source, **dataset.args},
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in _leaves(tree)}


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def tags(variant: str, params: Params) -> dict[str, str]:
    """What runs are found and grouped by."""
    v = params.variants[variant]
    return {
        "variant": variant,
        "dataset": params.corpora[v.corpus].dataset,
        "corpus": v.corpus,
        "features": v.features,
        "encoder": params.features[v.features].encoder,
        "decoder": v.decoder,
        "protocol": protocol(variant, params),
        "workspace": f"{socket.gethostname()}:{Path.cwd()}".replace("'", "_"),  # it is searched for, in quotes
        "mlflow.user": _user(),
        "mlflow.source.name": "dvc repro",
        "mlflow.source.type": "LOCAL",
    }


def protocol(variant: str, params: Params) -> str:
    """Under which conditions the scores hold; scores of different protocols are not comparable."""
    corpus, decode = params.corpora[params.variants[variant].corpus], params.decoding(variant)
    words = [
        f"{corpus.dataset}, split {corpus.split}",
        "PTB tokens on both sides",
        f"{_search(decode)}, at most {decode.max_tokens} tokens",
    ]
    return "; ".join(words)


def _search(decode: Decoding) -> str:
    if decode.samples:
        drawn = f"temperature {decode.temperature:g}, top {decode.top_k}, seed {decode.seed}"
        return f"best of {decode.samples} samples, {drawn}"
    return f"beam {decode.beam}, length penalty {decode.length_penalty:g}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return "unknown"

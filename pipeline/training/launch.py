"""Start the ranks of a training and end them together: if one fails, all end.

torch's own launchers (torchrun, torch.multiprocessing) also end the other ranks. But they log lines
beside the error, and wait up to 30 seconds for a process that hangs in NCCL.
"""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from threading import RLock
from typing import Any

from pipeline.core.errors import UserError, let_through, show_all
from pipeline.core.machine import gpus, pick_device
from pipeline.core.stage import collect_seldom, end_with, interrupt

# Seconds that a rank has, after it is asked to end, to remove half-written files.
GRACE = 5.0


class RankError(Exception):
    """A bug in a rank, with its traceback."""


def check_ranks(count: int, batch_images: int) -> str:
    """Return the kind of device for several ranks: cuda or cpu.

    Raises:
        UserError: CAPTIONLAB_DEVICE names another kind, or there are fewer GPUs or fewer images in
            a batch than ranks.
    """
    said = f"CAPTIONLAB_PROCESSES={os.environ.get('CAPTIONLAB_PROCESSES')}"
    kind = os.environ.get("CAPTIONLAB_DEVICE") or ("cuda" if gpus() else "cpu")
    if kind not in ("cuda", "cpu"):
        raise UserError(
            f"CAPTIONLAB_DEVICE={kind} is a single device, but {said} asks for {count} processes: "
            "set it to cuda (choose GPUs with CUDA_VISIBLE_DEVICES) or to cpu"
        )
    if kind == "cuda" and count > gpus():
        raise UserError(
            f"{said} asks for {count} processes, and {gpus()} GPUs are visible: "
            "lower it, or set CAPTIONLAB_DEVICE to cpu"
        )
    if count > batch_images:
        raise UserError(
            f"{said} asks for {count} processes, and train.batch_images is {batch_images}: "
            "lower the one or raise the other: each process needs at least one image"
        )
    return kind


def launch(work: Callable[..., None], count: int, kind: str, *args: Any) -> None:
    """Run `work(device, ranks, *args)` in `count` processes, and return when all have ended.

    Args:
        work: a function at the top level of a module, because each process imports it.
        kind: kind of device, as returned by `check_ranks`.

    Raises:
        UserError: a rank raised it, or a rank was killed.
        OSError: a rank met a full or read-only disk, or a file that it may not read or write.
        RankError: any other error of a rank. All ranks have ended by then.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    context = get_context("spawn")
    cores = (os.cpu_count() or 1) // count
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores)))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        store = TCPStore(  # closes the socket that it is given, so it gets a duplicate
            *("127.0.0.1", port, None, True),
            wait_for_workers=False,
            master_listen_fd=os.dup(server.fileno()),
        )
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    start = os.getpid(), count, kind, store.port, work, args
    processes = [
        context.Process(target=_rank, args=(rank, error, *start))
        for rank, (_, error) in enumerate(pipes)
    ]
    try:
        for process, (_, tells) in zip(processes, pipes, strict=True):
            process.start()
            tells.close()  # leaves only the rank's copy, which closes when the rank ends
        _wait(processes, [told for told, _ in pipes])
    finally:
        _end(processes)


def _wait(processes: list[Any], errors: list[Any]) -> None:
    """Wait until all processes have ended successfully, and raise the error of the first that
    fails.

    Errors are read while the processes run. An error may be longer than a pipe holds (64 KB), for
    example a long traceback. Its process would otherwise block, and this one would wait for it
    forever.
    """
    running = {process.sentinel: process for process in processes}
    open_pipes = set(errors)
    while running:
        ready = wait([*running, *open_pipes])
        for error in open_pipes.intersection(ready):
            if (told := _read(error)) is not None:
                raise told
            open_pipes.remove(error)
        for process in [running.pop(sentinel) for sentinel in ready if sentinel in running]:
            process.join()
            if process.exitcode:
                raise UserError(_of_end(processes.index(process), process.exitcode))


def _read(pipe: Any) -> BaseException | None:
    """Return a rank's error; None if the rank has ended without sending a complete one."""
    try:
        told: BaseException = pipe.recv()
    except (EOFError, OSError):
        return None
    return told


def _of_end(rank: int, status: int) -> str:
    how = signal.Signals(-status).name if status < 0 else f"status {status}"
    return (
        f"process {rank} of the training ended with {how} (SIGKILL may mean too little memory): "
        "run the same command again to continue"
    )


def _end(processes: list[Any]) -> None:
    """End the processes that still run: ask them first, and kill them after `GRACE` seconds."""
    started: list[BaseProcess] = [process for process in processes if process.pid]
    until = time.monotonic() + GRACE
    for process in started:
        process.terminate()
    for process in started:
        process.join(max(0.0, until - time.monotonic()))
        process.kill()
        process.join()


def _rank(
    rank: int,
    told: Any,
    above: int,
    count: int,
    kind: str,
    port: int,
    work: Callable[..., None],
    args: tuple[Any, ...],
) -> None:
    """Run one rank. Ctrl-C also reaches the parent process, which then ends all ranks."""
    end_with(above)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL if rank else interrupt)
    if rank:  # all ranks would print the same lines
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    show_all()
    collect_seldom()
    device = f"cuda:{rank}" if kind == "cuda" else kind
    try:
        _join(rank, count, device, port, work, args)
    except KeyboardInterrupt:
        os._exit(130)
    except UserError as error:
        _fail(told, error)
    except BaseException as error:
        with suppress(OSError):
            let_through(error)
            _fail(told, RankError(f"process {rank} of the training:\n{traceback.format_exc()}"))
        _fail(told, error)  # let_through raised: a disk error


def _join(
    rank: int,
    count: int,
    device: str,
    port: int,
    work: Callable[..., None],
    args: tuple[Any, ...],
) -> None:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from tqdm import tqdm

    from pipeline.training.ranks import Group

    tqdm.set_lock(RLock())  # tqdm's own semaphore leaks, with a warning, if killed
    pick_device(device)  # before Arrow is imported
    ranks = Group(rank, count, device, TCPStore("127.0.0.1", port, None, False))
    work(device, ranks, *args)
    ranks.close()


def _fail(told: Any, error: BaseException) -> None:
    """Report the error and exit at once, without waiting for remaining threads such as NCCL's."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # launch sends it as soon as it has the error
    told.send(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)

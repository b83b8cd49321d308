"""The processes that train one decoder together.

Each process passes its images of a batch, and the gradients of all are summed. A rank is the number
of such a process, from 0.

Gradients are summed here, `LARGEST` numbers at a time, and not by torch's DistributedDataParallel.
That averages over processes, whereas a step averages over tokens, and each process has a different
number of tokens. Its hooks also require the same backward passes in every process, even in one
without images (docs/decisions/2026-11-29-gradients-are-summed-here.md).
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

T = TypeVar("T")
# Largest count of numbers sent at once, except for a single larger tensor. They are copied first.
LARGEST = 2**24
# Seconds that a rank waits to be ended after it has lost another one.
PATIENCE = 10.0


class Ranks:
    """A single process, with the methods of a group. `Group` is one of several processes."""

    rank = 0
    count = 1

    def seed(self, seed: int) -> int:
        """Return the seed of this rank's random numbers."""
        return seed

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in rank order."""
        return [value]

    def broadcast(self, value: T) -> T:
        """Return rank 0's value."""
        return value

    def sum_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        """Give each weight the sum of its gradients over all ranks; none if no rank has one."""

    def equalise(self, tensors: Iterable[Tensor]) -> None:
        """Give each tensor the numbers that it has in rank 0."""


ALONE = Ranks()


class Group(Ranks):
    """One of several processes on this machine. Every method must be called in all of them.

    Tensors on GPUs go through NCCL. Everything else goes through gloo, including tensors on CPUs.

    Args:
        store: where the processes find each other.
        device: device of this rank.
    """

    def __init__(self, rank: int, count: int, device: str, store: "Store"):
        import torch.distributed as dist

        self.rank, self.count = rank, count
        _stay_on_this_machine()
        backend = "gloo"
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, store=store, rank=rank, world_size=count)

    def close(self) -> None:
        import torch.distributed as dist

        dist.destroy_process_group()

    def seed(self, seed: int) -> int:
        return int(np.random.SeedSequence([seed, self.rank]).generate_state(1, np.uint64)[0])

    def gather(self, value: T) -> list[T]:
        import torch.distributed as dist

        found: list[Any] = [None] * self.count
        _waiting(lambda: dist.all_gather_object(found, value))
        return found

    def broadcast(self, value: T) -> T:
        import torch.distributed as dist

        held: list[Any] = [value]
        _waiting(lambda: dist.broadcast_object_list(held, 0, device=torch.device("cpu")))
        return held[0]  # type: ignore[no-any-return]

    def sum_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        import torch.distributed as dist

        trained = [weight for weight in weights if weight.requires_grad]
        used = self.gather([weight.grad is not None for weight in trained])
        gradients = []
        for weight, *flags in zip(trained, *used, strict=True):
            if any(flags):
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
                gradients.append(weight.grad)
        _in_parts(gradients, dist.all_reduce)

    def equalise(self, tensors: Iterable[Tensor]) -> None:
        import torch.distributed as dist

        _in_parts(list(tensors), lambda flat: dist.broadcast(flat, 0))


def _in_parts(tensors: list[Tensor], send: Callable[[Tensor], object]) -> None:
    """Call `send`, which changes its argument, with the numbers of a few tensors at a time."""
    with torch.no_grad():
        for part in _parts(tensors):
            flat = torch.cat([tensor.flatten() for tensor in part])
            _waiting(lambda: send(flat))  # noqa: B023
            pieces = flat.split([tensor.numel() for tensor in part])
            for tensor, piece in zip(part, pieces, strict=True):
                tensor.copy_(piece.view_as(tensor))


def _parts(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Group neighbouring tensors of one dtype and device. Groups of several hold at most `LARGEST`
    numbers."""
    part: list[Tensor] = []
    for tensor in tensors:
        if part and (
            (tensor.dtype, tensor.device) != (part[0].dtype, part[0].device)
            or sum(t.numel() for t in part) + tensor.numel() > LARGEST
        ):
            yield part
            part = []
        part.append(tensor)
    if part:
        yield part


def _waiting(collective: Callable[[], object]) -> None:
    """Run a collective, and wait before raising its error.

    A rank that has lost another one fails here. launch.py, which started both, soon ends it and
    reports the end of the other. An error from this rank would only get in the way.
    """
    try:
        collective()
    except RuntimeError:
        time.sleep(PATIENCE)
        raise


def _stay_on_this_machine() -> None:
    """Restrict gloo to the loopback interface.

    Otherwise it would ask the network for this machine's name, and listen to the whole network.
    """
    import psutil

    here = [name for name in ("lo", "lo0") if name in psutil.net_if_addrs()]
    if here:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", here[0])

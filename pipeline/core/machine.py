"""Where tensors live. The device cannot change what is asked for, only how fast it comes: no param, an environment variable."""

import os

from pipeline.core.allocation import keep_buffers
from pipeline.core.errors import UserError


def pick_device() -> str:
    """`CAPTIONLAB_DEVICE` if set, else cuda where there is one, else cpu; also readies the allocator."""
    import torch

    keep_buffers()
    name = os.environ.get("CAPTIONLAB_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"CAPTIONLAB_DEVICE={name} cannot be used ({str(error).splitlines()[0]}): unset it or name cpu"
        ) from None
    return name


def multiplies_bfloat16(device: str) -> bool:
    """Whether matrices of bfloat16 have instructions of their own there, so that train.precision bfloat16 is the faster one."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= (8, 0)
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def let_threads_sleep() -> None:
    """To be called before torch is imported: its threads then sleep until there is work for them.

    They would spin for a while, on cores where pictures are decoded meanwhile.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

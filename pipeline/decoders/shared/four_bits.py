"""Linear layers whose weights take 4 bits each: NF4 of QLoRA (Dettmers et al., 2023, "QLoRA:
Efficient Finetuning of Quantized LLMs"), by the library bitsandbytes.

    W[i] = value[code[i]] * scale[i // 64]

i counts the weights of a layer, row after row. Every 64 of them share a scale, the largest absolute
value among them. `value` are 16 numbers from -1 to 1, denser around 0. A code takes half a byte and
a scale 4 bytes, so a weight takes 4.5 bits. Codes and scales are never trained.

bitsandbytes has a layer of its own. In evaluation on a CPU with AVX-512, it rounds its scales to
bfloat16 and refuses layers whose width is not a multiple of 32, and on a GPU it computes few rows
otherwise than many. Here, only its functions between weights and codes are used.
"""

import logging
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.errors import UserError
from pipeline.decoders.shared.lora import is_adapter, plain_name

# Number of weights that share a scale, as in QLoRA and in transformers.
BLOCK = 64
# Its import, by peft too, warns of a package for a faster layer, which is not used here.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


class FourBitLinear(nn.Linear):
    """A frozen linear layer. Its `weight` is computed from codes and scales whenever it is read."""

    def __init__(self, layer: nn.Linear):
        """Make room for the weights of `layer`; its bias is taken over."""
        super(nn.Linear, self).__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.dtype, device = layer.weight.dtype, layer.weight.device
        count = self.in_features * self.out_features
        codes = torch.zeros(-(-count // 2), dtype=torch.uint8, device=device)
        scales = torch.zeros(-(-count // BLOCK), dtype=torch.float32, device=device)
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.scales = nn.Parameter(scales, requires_grad=False)
        self.register_parameter("bias", layer.bias)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(out, in), in the dtype that the layer had."""
        shape = torch.Size((self.out_features, self.in_features))
        if self.codes.is_meta:
            return torch.empty(shape, dtype=self.dtype, device="meta")
        library = _library()
        state = library.QuantState(
            self.scales.float(), shape, blocksize=BLOCK, quant_type="nf4", dtype=self.dtype
        )
        found: Tensor = library.dequantize_4bit(self.codes[:, None], state)
        return found.reshape(shape)

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        out: Tensor = _Product.apply(x, self)
        return out


class _Product(torch.autograd.Function):
    """The layer's output. Backward computes the weights again: kept from the forward pass, those of
    all layers would take as much memory as without 4 bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FourBitLinear) -> Tensor:
        ctx.layer = layer
        bias = None if layer.bias is None else layer.bias.to(x.dtype)
        return F.linear(x, layer.weight.to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.weight.to(gradient.dtype), None


def replace(body: Any, part: nn.Module, filled: bool) -> None:
    """Let the linear layers of `part`, a part of `body`, take 4 bits a weight.

    The last layer over the vocabulary stays as it is, since its weight may be the embedding. So do
    layers that transformers keeps precise (T5's `wo`).

    Args:
        filled: whether the layers hold the model's weights already. Otherwise they will be loaded.

    Raises:
        UserError: `filled`, and bitsandbytes is not installed.
    """
    inside = set(part.modules()) - {body.get_output_embeddings()}
    for name, layer in list(body.named_modules()):
        if type(layer) is not nn.Linear or layer not in inside or _is_precise(body, name):
            continue
        found = FourBitLinear(layer)
        if filled and not layer.weight.is_meta:
            codes, scales = _packed(layer.weight.detach())
            found.codes.data.copy_(codes)
            found.scales.data.copy_(scales)
        body.set_submodule(name, found)


def pack(body: nn.Module, weights: dict[str, Tensor]) -> None:
    """Turn published weights into what the 4-bit layers of `body` hold. `weights` is changed, layer
    by layer, so that little memory is taken on top.

    Raises:
        UserError: bitsandbytes is not installed.
        KeyError: a layer's weight is missing or has another shape.
    """
    for name, layer in body.named_modules():
        if isinstance(layer, FourBitLinear):
            full = plain_name(f"{name}.weight")
            weight = weights.pop(full)
            if weight.shape != (layer.out_features, layer.in_features):
                raise KeyError(full)
            codes, scales = _packed(weight)
            own = full.removesuffix("weight")
            weights |= {f"{own}codes": codes, f"{own}scales": scales}


def unpack(body: nn.Module) -> None:
    """Give every 4-bit layer of `body` its weights in the dtype that it had."""
    for name, layer in list(body.named_modules()):
        if isinstance(layer, FourBitLinear):
            shape = layer.in_features, layer.out_features, layer.bias is not None
            with torch.device("meta"):
                found = nn.Linear(*shape)
            found.weight = nn.Parameter(layer.weight, requires_grad=False)
            found.bias = layer.bias
            body.set_submodule(name, found)


def is_used(body: nn.Module) -> bool:
    """Return whether a layer takes 4 bits a weight."""
    return any(isinstance(layer, FourBitLinear) for layer in body.modules())


def whole_parts(body: nn.Module) -> list[str]:
    """Return the names of the largest parts of `body` whose linear layers do not take 4 bits.

    Together with the layers that transformers keeps precise anyway, they hold every such layer.
    """
    found: list[str] = []
    for name, part in body.named_modules():
        inside = any(name.startswith(f"{other}.") for other in found)
        has_linear = any(isinstance(layer, nn.Linear) for layer in part.modules())
        known = is_adapter(f"{name}.") or _is_precise(body, name)
        if name and not inside and not known and has_linear and not is_used(part):
            found.append(name)
    return found


def _is_precise(body: Any, name: str) -> bool:
    """Return whether transformers keeps the layer of that name precise, and never packs it."""
    from transformers.quantizers.quantizers_utils import should_convert_module

    return not should_convert_module(plain_name(name), list(body._keep_in_fp32_modules or ()))


def published_sizes(body: nn.Module) -> dict[str, tuple[int, int]]:
    """Return the number of weights and their bytes before any were packed, by the names of
    `named_parameters`. The weights of a 4-bit layer are counted under its codes."""
    sizes = {name: (w.numel(), w.nbytes) for name, w in body.named_parameters()}
    for name, layer in body.named_modules():
        if isinstance(layer, FourBitLinear):
            count = layer.in_features * layer.out_features
            sizes |= {f"{name}.codes": (count, count * layer.dtype.itemsize)}
            sizes |= {f"{name}.scales": (0, 0)}
    return sizes


def _packed(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (out, in) -> codes, two in a byte, and scales."""
    codes, state = _library().quantize_4bit(
        weight.contiguous(), blocksize=BLOCK, compress_statistics=False, quant_type="nf4"
    )
    return codes.flatten(), state.absmax


def _library() -> Any:
    """Import bitsandbytes' functions.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module("bitsandbytes.functional")
    except ImportError:
        raise UserError(
            "args.quantise: 4bit needs the Python package bitsandbytes: "
            'pip install "captionlab[quantise]" (in a clone: make env)'
        ) from None

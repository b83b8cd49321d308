"""Low-rank adapters in a model of transformers, made with the library peft (Hu et al., 2022,
"LoRA"; DoRA: Liu et al., 2024)."""

from importlib import import_module
from typing import Any, cast

from torch import Tensor, nn

from pipeline.core.errors import UserError

DEFAULTS: dict[str, Any] = {
    "rank": 8,
    "alpha": 16,
    "dropout": 0.0,
    "dora": False,
    "targets": "all-linear",
}


def config(body: nn.Module, part: nn.Module, lora: dict[str, Any]) -> Any:
    """Return peft's LoraConfig for the linear layers of `part`, a part of `body` or all of it.

    Raises:
        UserError: peft is not installed, or `targets` names a layer that does not exist.
    """
    terms = DEFAULTS | dict(lora)
    layers = _targets(body, part, terms["targets"])
    return _peft("peft").LoraConfig(
        r=terms["rank"],
        lora_alpha=terms["alpha"],
        lora_dropout=terms["dropout"],
        use_dora=terms["dora"],
        target_modules=list(layers),
        fan_in_fan_out=any(not isinstance(layer, nn.Linear) for layer in layers.values()),
    )


def inject(body: nn.Module, part: nn.Module, lora: dict[str, Any]) -> Any:
    """Insert adapters into linear layers of `part`, and return their LoraConfig.

    From then on, only the adapters are trained.
    """
    found = config(body, part, lora)
    insert(body, found)
    for name, weight in body.named_parameters():
        weight.requires_grad_(is_adapter(name))
    return found


def insert(body: nn.Module, found: Any) -> None:
    """Insert the adapters of a LoraConfig into `body`.

    They get the dtype of the weights that they adapt. peft does the same, but not where tensors
    have no storage.
    """
    _peft("peft").inject_adapter_in_model(found, body)
    for module in body.modules():
        if hasattr(module, "lora_A"):
            layer = cast(Any, module)
            dtype = layer.get_base_layer().weight.dtype
            for part in (layer.lora_A, layer.lora_B, layer.lora_magnitude_vector):
                part.to(dtype)


def is_adapter(name: str) -> bool:
    """Return whether a weight of that name belongs to an adapter."""
    return ".lora_" in name


def plain_name(name: str) -> str:
    """Return the name that a weight has in the same model without adapters."""
    return name.replace(".base_layer.", ".")


def load_base(body: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load the weights of a model without adapters into the same model with adapters.

    Raises:
        KeyError: `body` has no weight of such a name and shape.
    """
    ours = {plain_name(name): (name, weight.shape) for name, weight in body.state_dict().items()}
    for name, value in weights.items():
        if ours[name][1] != value.shape:
            raise KeyError(name)
    body.load_state_dict({ours[name][0]: value for name, value in weights.items()}, strict=False)


def renew(body: nn.Module) -> None:
    """Compute DoRA's magnitudes anew, once the weights that it adapts are loaded.

    The magnitudes are the norms of these weights.
    """
    for module in body.modules():
        if getattr(module, "lora_magnitude_vector", None):
            variants = _peft("peft.tuners.lora.variants")
            variants.DoraLinearVariant.init(cast(Any, module), "default")


def merge(body: nn.Module) -> None:
    """Add the adapters in `body` to its weights, and remove them."""
    for name, module in list(body.named_modules()):
        if hasattr(module, "lora_A"):
            layer = cast(Any, module)
            layer.merge()
            body.set_submodule(name, layer.get_base_layer())


def _peft(module: str) -> Any:
    """Import a module of peft.

    It is imported by name, because transformers refuses exported code that mentions a package which
    is not installed, and an exported model needs no adapter.

    Raises:
        UserError: peft is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        raise UserError("lora needs the Python package peft: pip install peft") from None


def _targets(body: nn.Module, part: nn.Module, targets: str | list[str]) -> dict[str, nn.Module]:
    """Return the linear layers of `part` that `targets` selects, by their full names in `body`.

    Those of GPT-2 are of a class of their own, whose weights are transposed.
    """
    from transformers.pytorch_utils import Conv1D

    inside = set(part.modules())
    linear: dict[str, nn.Module] = {
        name: module
        for name, module in body.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module in inside
    }
    if targets == "all-linear":
        return linear
    wanted = [targets] if isinstance(targets, str) else targets
    ends = {name.rpartition(".")[2] for name in linear}
    if unknown := sorted(set(wanted) - ends):
        raise UserError(
            f"args.lora.targets: no layer is named '{unknown[0]}': choose from "
            f"{', '.join(sorted(ends))}, or all-linear"
        )
    return {name: m for name, m in linear.items() if name.rpartition(".")[2] in wanted}

"""Low-rank adapters in a model of transformers, made with the library peft (Hu et al., 2022,
"LoRA"; DoRA: Liu et al., 2024)."""

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
    try:
        from peft import LoraConfig
    except ImportError:
        raise UserError("lora needs the Python package peft: pip install peft") from None
    terms = DEFAULTS | dict(lora)
    return LoraConfig(
        r=terms["rank"],
        lora_alpha=terms["alpha"],
        lora_dropout=terms["dropout"],
        use_dora=terms["dora"],
        target_modules=_targets(body, part, terms["targets"]),
    )


def inject(body: nn.Module, part: nn.Module, lora: dict[str, Any]) -> Any:
    """Insert adapters into linear layers of `part`, and return their LoraConfig.

    From then on, only the adapters are trained.
    """
    found = config(body, part, lora)
    from peft import inject_adapter_in_model

    inject_adapter_in_model(found, body)
    for name, weight in body.named_parameters():
        weight.requires_grad_(is_adapter(name))
    return found


def is_adapter(name: str) -> bool:
    """Return whether a weight of that name belongs to an adapter."""
    return ".lora_" in name


def load_base(body: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load the weights of a model without adapters into the same model with adapters."""
    renamed = {name.replace(".base_layer.", "."): name for name in body.state_dict()}
    body.load_state_dict({renamed[name]: value for name, value in weights.items()}, strict=False)


def renew(body: nn.Module) -> None:
    """Compute DoRA's magnitudes anew, once the weights that it adapts are loaded.

    The magnitudes are the norms of these weights.
    """
    from peft.tuners.lora.variants import DoraLinearVariant

    for module in body.modules():
        if getattr(module, "lora_magnitude_vector", None):
            DoraLinearVariant.init(cast(Any, module), "default")


def _targets(body: nn.Module, part: nn.Module, targets: str | list[str]) -> list[str]:
    """Return the full names, in `body`, of the linear layers of `part` that `targets` selects."""
    inside = set(part.modules())
    linear = [
        name
        for name, module in body.named_modules()
        if isinstance(module, nn.Linear) and module in inside
    ]
    if targets == "all-linear":
        return linear
    wanted = [targets] if isinstance(targets, str) else targets
    ends = {name.rpartition(".")[2] for name in linear}
    if unknown := sorted(set(wanted) - ends):
        raise UserError(
            f"args.lora.targets: no layer is named '{unknown[0]}': choose from "
            f"{', '.join(sorted(ends))}, or all-linear"
        )
    return [name for name in linear if name.rpartition(".")[2] in wanted]

"""Decoders whose published weights may lie outside the model folder, because training leaves them
as they are."""

import hashlib
from collections.abc import Collection, Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.errors import UserError
from pipeline.decoders.shared import contract, four_bits
from pipeline.decoders.shared import lora as adapters


def fingerprint(body: nn.Module, without: Collection[str] = ()) -> Tensor:
    """Return 32 bytes (uint8) that distinguish weights from others.

    They are the SHA-256 of every weight's name, shape and first values. Adapters, and the weights
    named in `without`, are left out.
    """
    return fingerprint_of(
        (adapters.plain_name(name), weight)
        for name, weight in body.state_dict().items()
        if not adapters.is_adapter(name) and name not in without
    )


def fingerprint_of(weights: Iterable[tuple[str, Tensor]]) -> Tensor:
    """Return the fingerprint of weights with the names that they have without adapters."""
    total = hashlib.sha256()
    for name, weight in weights:
        total.update(f"{name} {tuple(weight.shape)}".encode())
        total.update(weight.flatten()[:64].float().cpu().numpy().tobytes())
    return torch.tensor(list(total.digest()), dtype=torch.uint8)


class Decoder(contract.Decoder):
    """A decoder with a base: published weights, which training may change or leave as they are.

    If it leaves them (`keeps_base`), a model folder holds what was trained and the fingerprint
    `base` of the published weights. These are read again whenever the model is loaded.
    """

    base: Tensor
    base_name: str = ""
    "Name of the base in messages."
    keeps_base: bool = False
    own: frozenset[str] = frozenset()
    "If the base is kept, the names of the weights that a model folder holds."
    adapter: Any = None
    "The LoraConfig of the adapters; None if there are none."

    def register_base(self, name: str, keep: bool) -> None:
        """Make room for the base's fingerprint. Called when `requires_grad` is set everywhere.

        Args:
            name: where its weights come from.
            keep: whether training leaves the base as it is.
        """
        self.register_buffer("base", torch.zeros(32, dtype=torch.uint8))
        self.base_name, self.keeps_base = name, keep
        trained = {name for name, weight in self.named_parameters() if weight.requires_grad}
        self.own = frozenset(trained | {"base"})

    def take_base(self) -> None:
        """Load the base's weights, and nothing over the weights in `own`.

        Raises:
            UserError: they are missing.
        """
        raise NotImplementedError

    def mark(self) -> Tensor:
        """Return the fingerprint of the base that this decoder holds now."""
        return fingerprint(self, self.own)

    def load_base(self) -> None:
        """Load the base's weights, unless the model folder holds all weights.

        Raises:
            UserError: they are missing, or are not those that this decoder was trained on.
        """
        if not self.keeps_base:
            return
        try:
            self.take_base()
            same = torch.equal(self.base, self.mark())
        except KeyError:  # weights of other names or shapes
            same = False
        if not same:
            name = type(self).__module__.rpartition(".")[2]
            raise UserError(
                f"{name}: this model was trained on other weights than '{self.base_name}' holds "
                "now: name its revision, or train it again"
            )

    def saved(self) -> list[str]:
        """Return the names of the weights that a model folder holds."""
        weights = self.state_dict(keep_vars=True)
        if self.keeps_base:
            return [name for name in weights if name in self.own]
        first: dict[int, str] = {}  # a tied weight has two names
        for name, weight in weights.items():
            first.setdefault(id(weight), name)
        return list(first.values())

    def without_adapter(self) -> "Decoder":
        """Return a copy whose weights have the adapters added, as if all had been trained.

        Weights of 4 bits get the dtype of the others, since a sum of them and an adapter has no 4
        bits.
        """
        whole = deepcopy(self)
        four_bits.unpack(whole)
        adapters.merge(whole)
        whole.adapter, whole.keeps_base = None, False
        if "base" in whole.state_dict():
            del whole.base
        return whole

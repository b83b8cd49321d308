"""The cross-entropy in parts gives torch's own loss and gradients without holding all logits."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.decoders.shared import last_layer
from pipeline.decoders.shared.contract import Decoder
from pipeline.decoders.shared.last_layer import LastLayer
from pipeline.decoding.batches import Batch
from pipeline.decoding.likelihood import batch_likelihoods
from tests.decoders.test_properties import (  # noqa: F401  name: a fixture
    close,
    features,
    name,
    padded_batch,
    small_decoder,
)

N, E, V = 23, 6, 11


def tensors(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return rows, weight and bias, which require gradients, and the targets."""
    g = torch.Generator().manual_seed(2)
    made = (torch.randn(*shape, generator=g, dtype=dtype) for shape in ((N, E), (V, E), (V,)))
    rows, weight, bias = (tensor.requires_grad_() for tensor in made)
    return rows, weight, bias, torch.randint(V, (N,), generator=g)


def in_parts(monkeypatch: pytest.MonkeyPatch, rows: int, words: int = V) -> None:
    monkeypatch.setattr(last_layer, "LARGE", rows * words)


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that an operation returned."""

    found = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.found = max(self.found, tensor.numel())
        return out


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_finite_differences(
    monkeypatch: pytest.MonkeyPatch, smoothing: float, bias: bool
) -> None:
    in_parts(monkeypatch, 5)
    *inputs, targets = tensors(torch.float64)

    def loss(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return LastLayer(rows, weight, bias).cross_entropy(targets, smoothing)

    assert torch.autograd.gradcheck(loss, inputs[: 2 + bias])


@pytest.mark.parametrize("rows", [1, 5, N - 1])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_are_those_of_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, rows: int, smoothing: float
) -> None:
    *inputs, targets = tensors()
    theirs = F.cross_entropy(F.linear(*inputs), targets, label_smoothing=smoothing)
    expected = torch.autograd.grad(3 * theirs, inputs)
    in_parts(monkeypatch, rows)
    ours = LastLayer(*inputs).cross_entropy(targets, smoothing)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    for found, wanted in zip(torch.autograd.grad(3 * ours, inputs), expected, strict=True):
        close(found, wanted, 1e-6)


def test_weighted_tokens_are_those_of_self_critical_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    *inputs, targets = tensors()
    weights = torch.randn(N, generator=torch.Generator().manual_seed(4))
    log_probs = F.linear(*inputs).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    theirs = -(weights * log_probs).mean()
    assert torch.equal(LastLayer(*inputs).cross_entropy(targets, weights=weights), theirs)
    in_parts(monkeypatch, 4)
    ours = LastLayer(*inputs).cross_entropy(targets, weights=weights)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    expected = torch.autograd.grad(theirs, inputs)
    for found, wanted in zip(torch.autograd.grad(ours, inputs), expected, strict=True):
        close(found, wanted, 1e-6)


def test_weights_and_smoothing_together_are_the_same_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    *inputs, targets = tensors()
    weights = torch.randn(N, generator=torch.Generator().manual_seed(4))
    each = F.cross_entropy(F.linear(*inputs), targets, label_smoothing=0.1, reduction="none")
    expected = (weights * each).mean().item()
    layer = LastLayer(*inputs)
    assert layer.cross_entropy(targets, 0.1, weights).item() == pytest.approx(expected, abs=1e-6)
    in_parts(monkeypatch, 4)
    assert layer.cross_entropy(targets, 0.1, weights).item() == pytest.approx(expected, abs=1e-6)


def test_barred_words_have_no_probability_and_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    *inputs, targets = tensors()
    targets, weights = targets % (V - 2), torch.randn(N, generator=torch.Generator().manual_seed(4))
    theirs = (
        weights * F.cross_entropy(F.linear(*inputs)[:, : V - 2], targets, reduction="none")
    ).mean()
    expected = torch.autograd.grad(theirs, inputs)
    for rows in (None, 4):
        if rows:
            in_parts(monkeypatch, rows)
        layer = LastLayer(*inputs)
        ours = layer.cross_entropy(targets, weights=weights, barred=[V - 2, V - 1])
        assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
        found = torch.autograd.grad(ours, inputs)
        assert not found[1][V - 2 :].any()
        for ours_, theirs_ in zip(found, expected, strict=True):
            close(ours_, theirs_, 1e-6)
    with pytest.raises(ValueError, match="to smooth"):
        LastLayer(*inputs).cross_entropy(targets, 0.1, barred=[0])


def test_few_logits_are_torchs_own_loss_to_the_bit() -> None:
    *inputs, targets = tensors()
    ours = LastLayer(*inputs).cross_entropy(targets, 0.1)
    assert torch.equal(ours, F.cross_entropy(F.linear(*inputs), targets, label_smoothing=0.1))


def test_a_loss_in_bfloat16_is_a_float32_number_beside_gradients_of_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    *inputs, targets = tensors()
    with torch.autocast("cpu", torch.bfloat16):
        theirs = F.cross_entropy(F.linear(*inputs).float(), targets)
        in_parts(monkeypatch, 5)
        ours = LastLayer(*inputs).cross_entropy(targets)
    assert ours.dtype == torch.float32
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-3)
    expected = torch.autograd.grad(theirs, inputs)
    for found, wanted in zip(torch.autograd.grad(ours, inputs), expected, strict=True):
        assert found.dtype == torch.float32
        close(found, wanted, 2e-3)


@pytest.mark.parametrize("rows", [1, 5, N])
def test_log_probabilities_beside_the_loss_are_those_of_log_softmax(
    monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    *inputs, targets = tensors()
    layer, logits = LastLayer(*inputs), F.linear(*inputs)
    in_parts(monkeypatch, rows)
    loss, log_probs = layer.cross_entropy_and_log_probs(targets, 0.1)
    assert torch.equal(loss, layer.cross_entropy(targets, 0.1))
    assert not log_probs.requires_grad
    close(log_probs, logits.detach().log_softmax(-1).gather(1, targets[:, None])[:, 0], 1e-6)
    expected = torch.autograd.grad(F.cross_entropy(logits, targets, label_smoothing=0.1), inputs)
    for found, wanted in zip(torch.autograd.grad(loss, inputs), expected, strict=True):
        close(found, wanted, 1e-6)


def test_no_tensor_holds_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    *inputs, targets = tensors()
    with Largest() as plain:
        LastLayer(*inputs).cross_entropy(targets).backward()
    in_parts(monkeypatch, 2)
    with Largest() as parts:
        LastLayer(*inputs).cross_entropy(targets).backward()
    assert plain.found == N * V
    assert parts.found == N * E  # the gradient of the rows


def losses(decoder: Decoder) -> tuple[list[float], list[Tensor]]:
    """Return the terms of the loss of six captions with dropout, and all gradients."""
    tokens, mask, rows = padded_batch()
    decoder.train().zero_grad(set_to_none=True)
    torch.manual_seed(1)
    loss = decoder.loss(features(), tokens, mask, rows, 0.1)
    loss.total.backward()
    weights = (weight for weight in decoder.parameters() if weight.grad is not None)
    return [loss.cross_entropy.item(), *(term.item() for term in loss.terms.values())], [
        weight.grad.clone() for weight in weights if weight.grad is not None
    ]


def test_every_decoder_learns_the_same_from_parts(
    name: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, gradients = losses(small_decoder(name))
    in_parts(monkeypatch, 1)
    found, others = losses(small_decoder(name))
    assert found == pytest.approx(expected, rel=1e-5)
    for other, gradient in zip(others, gradients, strict=True):
        close(other, gradient, 1e-5)


def test_likelihoods_are_the_same_from_parts(
    name: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens, mask, rows = padded_batch()
    batch = Batch([f"i{n}" for n in range(4)], features(), tokens, mask, rows)
    expected = batch_likelihoods(small_decoder(name), batch, ids=True)
    in_parts(monkeypatch, 1)
    for found, wanted in zip(
        batch_likelihoods(small_decoder(name), batch, ids=True), expected, strict=True
    ):
        assert found.reference_nll == pytest.approx(wanted.reference_nll, rel=1e-5)
        assert replace(found, reference_nll=0.0) == replace(wanted, reference_nll=0.0)

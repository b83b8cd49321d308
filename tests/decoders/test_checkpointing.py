"""Layers that compute their activations again in the backward pass, compared with layers that keep
them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from pipeline.core.errors import UserError
from pipeline.decoders.shared.model_folder import build_decoder
from pipeline.decoders.shared.recomputation import layers, recomputed
from pipeline.decoders.shared.vision_decoder import Decoder
from tests.decoders.test_properties import FURTHER, close, padded_batch, small
from tests.decoders.test_properties import features as small_features
from tests.vision_language import OPENINGS, features, opened, publish, tuned

KINDS = ["llava", "qwen2_5_vl", "paligemma", *OPENINGS]
TEXTS = ["a red dog", "two cats sit", "a mat", "a green box", "red", "it"]
ROWS = torch.tensor([0, 0, 1, 2, 3, 3])


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / request.param
    publish(folder, request.param)
    return folder


@contextmanager
def stored(decoder: Decoder) -> Iterator[list[int]]:
    """Count the bytes that a forward pass keeps for its backward pass; weights do not count.

    These are what autograd saves, and what layers that are computed again begin with: their inputs,
    and the keys and values in the state.
    """
    found: dict[int, int] = {}
    total: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    def keep_inputs(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor):
                keep(value)

    def read_words(tokens: Tensor, s: dict[str, Tensor]) -> Any:
        for value in s.values():
            keep(value)
        return own(tokens, s)

    own = decoder.read_words
    decoder.read_words = read_words  # type: ignore[method-assign]
    hooks = [
        layer.register_forward_pre_hook(keep_inputs, with_kwargs=True)
        for layer in layers(decoder.body)
    ]
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        yield total
    for hook in hooks:
        hook.remove()
    for weight in decoder.parameters():
        found.pop(weight.untyped_storage().data_ptr(), None)
    total.append(sum(found.values()))


def passed(
    folder: Path, tune: str, checkpointing: bool, by_word: bool = False
) -> tuple[float, dict[str, Tensor], int]:
    """Return the loss, the gradients by name, and the bytes kept for the backward pass."""
    lora = {"rank": 2, "dropout": 0.1} if tune == "adapter" else None
    decoder, tokenizer, *_ = opened(folder, tune=tune, lora=lora, checkpointing=checkpointing)
    rows = tokenizer.encode(TEXTS)
    tokens = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, 0)
    mask = torch.arange(tokens.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    tuned(decoder).train()
    torch.manual_seed(1)  # for dropout
    with stored(decoder) as total:
        if by_word:
            state, steps = decoder.start(features()), []
            for words in tokens[:4, :-1].unbind(1):
                logits, state = decoder.step(words, state)
                steps.append(logits)
            log_probs = torch.stack(steps, 1).log_softmax(-1)
            loss = -log_probs.gather(2, tokens[:4, 1:, None]).mean()
        else:
            loss = decoder.loss(features(), tokens, mask, ROWS).total
    loss.backward()
    weights = decoder.named_parameters()
    return loss.item(), {n: w.grad for n, w in weights if w.grad is not None}, total[0]


def gradients_of(name: str, checkpointing: bool) -> tuple[Tensor, dict[str, Tensor]]:
    file, args, sizes = small(name)
    torch.manual_seed(0)
    decoder = build_decoder(file, sizes, {**args, "checkpointing": checkpointing}).train()
    tokens, mask, rows = padded_batch()
    torch.manual_seed(1)
    loss = decoder.loss(small_features(), tokens, mask, rows).total
    loss.backward()
    weights = decoder.named_parameters()
    return loss, {name: weight.grad for name, weight in weights if weight.grad is not None}


@pytest.mark.parametrize("name", [name for name in FURTHER if name.startswith("vlm")])
def test_loss_and_gradients_of_every_family_are_those_of_kept_activations(name: str) -> None:
    (loss, gradients), (ours, mine) = (gradients_of(name, again) for again in (False, True))
    assert ours.item() == pytest.approx(loss.item(), abs=1e-6)
    assert mine.keys() == gradients.keys()
    for weight, gradient in gradients.items():
        close(mine[weight], gradient, 1e-6)


@pytest.mark.parametrize("tune", ["adapter", "all"])
def test_loss_and_gradients_are_those_of_kept_activations_and_fewer_are_kept(
    folder: Path, tune: str
) -> None:
    loss, gradients, total = passed(folder, tune, checkpointing=False)
    ours, mine, few = passed(folder, tune, checkpointing=True)
    assert ours == pytest.approx(loss, abs=1e-6)
    assert mine.keys() == gradients.keys()
    assert max(gradient.abs().max().item() for gradient in gradients.values()) > 1e-3
    for name, gradient in gradients.items():
        tolerance = 1e-6 * max(1.0, gradient.abs().max().item())
        assert torch.allclose(mine[name], gradient, rtol=0, atol=tolerance), name
    assert few < total


def test_word_by_word_gradients_are_the_same_too(folder: Path) -> None:
    """Each step then writes to the cache again in the backward pass."""
    loss, gradients, _ = passed(folder, "adapter", checkpointing=False, by_word=True)
    ours, mine, _ = passed(folder, "adapter", checkpointing=True, by_word=True)
    assert ours == pytest.approx(loss, abs=1e-6)
    assert mine.keys() == gradients.keys()
    for name, gradient in gradients.items():
        tolerance = 1e-6 * max(1.0, gradient.abs().max().item())
        assert torch.allclose(mine[name], gradient, rtol=0, atol=tolerance), name


def test_layers_run_once_more_in_the_backward_pass_and_never_without_one(folder: Path) -> None:
    decoder, tokenizer, *_ = opened(folder, tune="adapter", checkpointing=True)
    runs: list[int] = []
    inner = next(module for name, module in decoder.named_modules() if name.endswith("lora_A"))
    inner["default"].register_forward_hook(lambda *_: runs.append(1))  # type: ignore[index]
    tokens = torch.tensor(tokenizer.encode(["a dog"] * 4))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    loss = decoder.train().loss(features(), tokens, mask).total
    forward = len(runs)
    loss.backward()
    assert len(runs) == 2 * forward > 0
    runs.clear()
    with torch.no_grad():
        decoder.loss(features(), tokens, mask)
    decoder.eval().loss(features(), tokens, mask).total.backward()
    assert len(runs) == 2 * forward


def test_after_a_pass_the_model_is_as_before(folder: Path) -> None:
    decoder, *_ = opened(folder)
    before = [layer.forward for layer in layers(decoder.body)]
    with recomputed(decoder.body):
        assert all("forward" in vars(layer) for layer in layers(decoder.body))
    assert not any("forward" in vars(layer) for layer in layers(decoder.body))
    assert [layer.forward for layer in layers(decoder.body)] == before


def test_a_model_without_such_layers_is_one_line() -> None:
    with pytest.raises(UserError, match="no layer of a Linear can be computed again: set it to f"):
        layers(nn.Linear(2, 2))

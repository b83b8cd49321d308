"""The least memory that captioning needs, from the shapes of a decoder and its states.

    weights + R x (what no step changes + 2 x what steps change + 2 x V x 4 bytes)

R rows are decoded together. They are the images of a batch times the width of the beam, or as many
samples as `captions.ROWS` allows. After the last word, a row's state has tensors that no step
changes, and others. Two copies of the others exist while the rows that go on are picked.

There are also two copies of a float32 for every word (V): the log-probabilities, and their sum with
the beam's. What beams share is left out, and so is everything else that a step computes.
"""

from typing import Any, NamedTuple

from pipeline.captioning.captions import ROWS
from pipeline.captioning.split import BATCH, Model
from pipeline.core.capacity import memory_problem
from pipeline.core.quick_torch import leave_out_compiler
from pipeline.decoders.shared.contract import Decoder, Sizes, State
from pipeline.experiment.params import Decoding
from pipeline.features.features import Features

FLOAT32 = 4


class Footprint(NamedTuple):
    """Bytes that a decoder needs."""

    weights: int = 0
    kept: int = 0
    "Bytes of a row's state that no step changes."
    changed: int = 0
    "Bytes of a row's state after the first word that every step makes anew."
    growth: int = 0
    "Bytes that `changed` grows by with each further word."


def of_decoder(name: str, sizes: Sizes, args: dict[str, Any], positions: int) -> Footprint:
    """Return the footprint of a decoder built where tensors have no storage.

    If its start or step depends on values, as in `blind` and `vlm`, only the weights are counted.
    """
    import torch

    from pipeline.decoders.shared.model_folder import build_decoder

    leave_out_compiler()
    with torch.device("meta"):
        decoder = build_decoder(name, sizes, args).eval()
    try:
        return of_built(decoder, sizes, positions, "meta")
    except Exception:  # whatever an operation without values raises
        return Footprint(_bytes(dict(decoder.named_parameters())))


def of_built(decoder: Decoder, sizes: Sizes, positions: int, device: str) -> Footprint:
    """Return the footprint of a decoder on `device`.

    It is measured with two words of one image whose features are all zero.
    """
    first, second = _states(decoder, sizes, positions, device)
    own = {key: value for key, value in second.items() if key not in decoder.shared}
    kept = {key: value for key, value in own.items() if value is first.get(key)}
    before, after = (
        _bytes({k: v for k, v in state.items() if k in own and k not in kept})
        for state in (first, second)
    )
    weights = _bytes(dict(decoder.named_parameters()))
    return Footprint(weights, _bytes(kept), before, after - before)


def _states(decoder: Decoder, sizes: Sizes, positions: int, device: str) -> tuple[State, State]:
    """Return the states of one image after one word and after two."""
    import torch

    grid = torch.zeros(1, positions, sizes.grid, device=device)
    with torch.no_grad():
        state = decoder.start(Features(grid, torch.zeros(1, sizes.pooled, device=device)))
        words = torch.zeros(1, dtype=torch.long, device=device)
        _, first = decoder.step(words, state)
        _, second = decoder.step(words, first)
    return first, second


def _bytes(tensors: State) -> int:
    return sum(value.numel() * value.element_size() for value in tensors.values())


def of_captioning(decoder: Footprint, words: int, decode: Decoding, width: int) -> int:
    """Return the number of bytes that captioning needs.

    Args:
        words: size of the vocabulary.
        width: width of the beam, or the number of samples.
    """
    changed = decoder.changed + decoder.growth * (decode.max_tokens - 1)
    rows = max(width, ROWS) if decode.samples else BATCH * width
    return decoder.weights + rows * (decoder.kept + 2 * changed + 2 * FLOAT32 * words)


def widest(decode: Decoding) -> tuple[str, int]:
    """Return the key of `decode` that sets the number of rows per image, and its value."""
    if decode.samples:
        return "samples", decode.samples
    also = [int(name.removeprefix("beam-")) for name in decode.also if name != "greedy"]
    return ("also", max(also)) if max(also, default=0) > decode.beam else ("beam", decode.beam)


def too_large(name: str, model: Model, about: dict[str, Any]) -> str | None:
    """Return why the machine cannot caption with a loaded model, or None.

    `about` is the config.json of the model.
    """
    sizes, positions = Sizes(**about["sizes"]), model.store.shapes.positions
    found = of_built(model.decoder, sizes, positions, model.device)._replace(weights=0)
    decode = Decoding(**model.decoding)
    key, width = widest(decode)
    return memory_problem(
        f"captioning with {name}",
        lambda asked: of_captioning(found, sizes.vocabulary, decode, asked),
        width,
        f"decode.{key}",
        model.device,
    )

"""The least memory that captioning takes, from the shapes of a decoder and its states.

    weights + R x (what no step changes + 2 x what steps change + 2 x V x 4 bytes)

R rows are decoded together: the images of a batch times the width of the beam, or as many samples
as `captions.ROWS` allows. A row's state, after the last word, has tensors that no step changes and
others, which stand twice while the rows that go on are picked. So does a float32 for every word
(V): log-probabilities, and their sum with the beam's. What beams share is left out, and so is
everything else that a step computes.
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
    """Bytes of a decoder."""

    weights: int = 0
    kept: int = 0
    "of a row's state: what no step changes"
    changed: int = 0
    "of a row's state after the first word: what a step makes anew"
    growth: int = 0
    "of that, with each word more"


def of_decoder(name: str, sizes: Sizes, args: dict[str, Any], positions: int) -> Footprint:
    """Of a decoder built where tensors have no storage. Of one whose start or step depends on
    values, as those of `blind` and `vlm` do, the weights alone."""
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
    """Of a decoder on `device`, by two words of one image whose features are all zero."""
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
    """After one word and after two, of one image."""
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
    """Bytes.

    Args:
        words: of the vocabulary.
        width: of the beam, or the number of samples.
    """
    changed = decoder.changed + decoder.growth * (decode.max_tokens - 1)
    rows = max(width, ROWS) if decode.samples else BATCH * width
    return decoder.weights + rows * (decoder.kept + 2 * changed + 2 * FLOAT32 * words)


def widest(decode: Decoding) -> tuple[str, int]:
    """The key of `decode` that sets how many rows an image has, and its value."""
    if decode.samples:
        return "samples", decode.samples
    also = [int(name.removeprefix("beam-")) for name in decode.also if name != "greedy"]
    return ("also", max(also)) if max(also, default=0) > decode.beam else ("beam", decode.beam)


def too_large(name: str, model: Model, about: dict[str, Any]) -> str | None:
    """Why the machine cannot caption with a model that is loaded, or None; `about` is its
    config.json."""
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

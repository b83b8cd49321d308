"""Keys and values that a model of transformers has read, in a form that a State holds.

B rows, N heads, t positions, d width of a head.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache

from pipeline.decoders.shared.contract import State


class Layer(DynamicLayer):
    """The keys and values (B, N, t, d) of one layer.

    It adds to what it held at first, not to what it holds now. A layer of the model may therefore
    write twice, as one does whose activations are computed again for the backward pass.
    """

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None):
        super().__init__()
        self.first = None if keys is None or values is None else (keys, values)
        if self.first:
            self._hold(*self.first)

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = key_states, value_states
        if self.first:
            keys = torch.cat([self.first[0], keys], -2)
            values = torch.cat([self.first[1], values], -2)
        self._hold(keys, values)
        return keys, values

    def get_seq_length(self) -> int:
        return self.first[0].shape[-2] if self.first else 0

    def _hold(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values, self.is_initialized = keys, values, True
        self.dtype, self.device = keys.dtype, keys.device


class _Never(dict[int, bool]):
    """Says of every layer that its keys of the picture are not there yet, even when a layer is
    computed again."""

    def get(self, *_: Any) -> bool:
        return False


def empty(layers: int) -> Cache:
    return Cache(layers=[Layer() for _ in range(layers)])


def empty_pair() -> EncoderDecoderCache:
    """Return an empty cache of a decoder that attends to itself and to an encoder."""
    pair = EncoderDecoderCache(*(Cache(layer_class_to_replicate=Layer) for _ in range(2)))
    pair.is_updated = _Never()
    return pair


def unpack(cache: Any, name: str = "") -> State:
    """Return the keys and values of each layer."""
    layers = list(enumerate(cache.layers))
    return {f"{name}key{n}": layer.keys for n, layer in layers} | {
        f"{name}value{n}": layer.values for n, layer in layers
    }


def pack(s: State, name: str = "") -> Cache:
    """Return a cache that reads the state's tensors, and does not change them."""
    count = sum(key.startswith(f"{name}key") for key in s)
    return Cache(layers=[Layer(s[f"{name}key{n}"], s[f"{name}value{n}"]) for n in range(count)])


def unpack_pair(pair: Any) -> State:
    """Return the keys and values of the words, and those of what the encoder has read.

    The latter are named `seen_key<n>` and `seen_value<n>`.
    """
    return unpack(pair.self_attention_cache) | unpack(pair.cross_attention_cache, "seen_")


def pack_pair(s: State) -> EncoderDecoderCache:
    return EncoderDecoderCache(pack(s), pack(s, "seen_"))

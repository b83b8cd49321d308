"""Layers that several decoders use."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.decoders.shared.deferred_gradient import linear
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.decoders.shared.word_vectors import fill_embedding


def load_words(embedding: nn.Embedding, tokenizer: Tokenizer, vectors: str, tune: bool) -> None:
    """Load word vectors from the file `vectors` in GloVe's format, and print how many words it
    knew.

    Does nothing if `vectors` is empty.
    """
    if vectors:
        found = fill_embedding(embedding, tokenizer, vectors, tune)
        print(
            f"{vectors}: {found} of {embedding.num_embeddings} words found, the others "
            "drawn at random",
            flush=True,
        )


def attention_weights(
    query: Tensor, keys: Tensor, causal: bool = False, scale: float | None = None
) -> Tensor:
    """Return the weights that scaled_dot_product_attention does not return: (R, T, S), the mean
    over heads.

    Args:
        query: (R, N, T, d), with N heads.
        keys: (R, N, S, d). If causal, the last T are those of the queries' own positions.
    """
    scores = query @ keys.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        t, s = scores.shape[-2:]
        later = torch.ones(t, s, dtype=torch.bool, device=scores.device).triu(s - t + 1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores.float().softmax(-1).mean(1)


def for_products(x: Tensor) -> Tensor:
    """Return x in the dtype in which autocast multiplies. Otherwise, each product converts it
    again."""
    kind = x.device.type  # "meta" while memory is planned, for which autocast raises an error
    cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return x.to(torch.get_autocast_dtype(kind)) if cast else x


def energies(keys: Tensor, query: Tensor, weight: nn.Module) -> Tensor:
    """Additive attention `weight(tanh(keys + query))`.

    Keys (A, P, H), query (A * K, H) -> (A * K, P).
    """
    query = query.unflatten(
        0, (keys.shape[0], -1)
    )  # len() would be a constant in an exported graph
    out: Tensor = weight((keys[:, None] + query[:, :, None]).tanh_())
    return out.squeeze(-1).flatten(0, 1)


def contexts(weights: Tensor, grid: Tensor) -> Tensor:
    """Weighted sums over positions: weights (A * K, P), grid (A, P, D) -> (A * K, D)."""
    return torch.bmm(weights.to(grid.dtype).unflatten(0, (grid.shape[0], -1)), grid).flatten(0, 1)


def lstm_layers(
    lstm: nn.LSTM, inputs: Tensor, state: tuple[Tensor, Tensor]
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return `lstm(inputs, state)`, in float32 if autocast asks for bfloat16 and the CPU cannot.

    Of all layers here, only oneDNN's LSTM lacks bfloat16 on a CPU without AVX-512. It raises "could
    not create a primitive descriptor".
    """
    able = inputs.device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if able or not torch.is_autocast_enabled("cpu"):
        return lstm(inputs, state)
    with torch.autocast("cpu", enabled=False):
        return lstm(inputs.float(), (state[0].float(), state[1].float()))


def words_gates(cell: nn.LSTMCell, words: Tensor) -> Tensor:
    """Return the words' part (..., 4H) of the sums in an LSTM cell, including biases.

    The input of the cell is [words (..., E), context].
    """
    return F.linear(words, cell.weight_ih[:, : words.shape[-1]], cell.bias_ih + cell.bias_hh)


def lstm_cell(
    cell: nn.LSTMCell, words: Tensor, context: Tensor, h: Tensor, c: Tensor
) -> tuple[Tensor, Tensor]:
    """Return `cell([word, context], (h, c))`, given `words_gates` (B, 4H), context (B, D), h and c
    (B, H)."""
    gates = (
        words + linear(context, cell.weight_ih[:, -context.shape[-1] :]) + linear(h, cell.weight_hh)
    )
    take, keep, new, give = gates.chunk(4, -1)
    c = torch.sigmoid(keep) * c + torch.sigmoid(take) * torch.tanh(new)
    return torch.sigmoid(give) * torch.tanh(c), c

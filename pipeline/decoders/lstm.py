"""The image is the first word that an LSTM reads (Vinyals et al., 2015, "Show and Tell", equations
10-12)."""

import torch
from torch import Tensor, nn

from pipeline.core.ranges import Dropout, Layers, Width
from pipeline.decoders.shared import layers
from pipeline.decoders.shared.contract import Sizes, State
from pipeline.decoders.shared.last_layer import LastLayer
from pipeline.decoders.shared.parallel import ParallelDecoder
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.features.features import Features


class Decoder(ParallelDecoder):
    """An LSTM that reads the image, then the words.

    Args:
        normalise: layer norm on the image's token; the paper has none. Word embeddings start at
            unit variance. Without layer norm, an image with small features is a faint word,
            forgotten after a few others
            (docs/decisions/2026-11-21-layer-norm-on-the-lstms-image-token.md).
        vectors: a file of word vectors in GloVe's format, `embedding` wide.
        tune_vectors: whether these vectors are trained further.
    """

    reads = "pooled"

    def __init__(
        self,
        sizes: Sizes,
        *,
        embedding: Width = 256,
        hidden: Width = 256,
        layers: Layers = 1,
        dropout: Dropout = 0.3,
        normalise: bool = False,
        vectors: str = "",
        tune_vectors: bool = True,
    ):
        super().__init__()
        self.vectors, self.tune_vectors = vectors, tune_vectors
        image = nn.Linear(sizes.pooled, embedding)
        self.image = nn.Sequential(image, nn.LayerNorm(embedding)) if normalise else image
        self.embedding = nn.Embedding(sizes.vocabulary, embedding)
        self.lstm = nn.LSTM(
            embedding, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0
        )
        self.output = nn.Linear(hidden, sizes.vocabulary)
        self.dropout = nn.Dropout(dropout)

    def load_pretrained(self, tokenizer: Tokenizer) -> None:
        layers.load_words(self.embedding, tokenizer, self.vectors, self.tune_vectors)

    def start(self, f: Features) -> State:
        zero = f.pooled.new_zeros(self.lstm.num_layers, f.pooled.shape[0], self.lstm.hidden_size)
        return self._read(self.image(f.pooled)[:, None], (zero, zero))[1]

    def run(self, tokens: Tensor, s: State) -> tuple[Tensor, State]:
        h, c = (torch.transpose(s[k], 0, 1).contiguous() for k in ("h", "c"))
        return self._read(self.embedding(tokens), (h, c))

    def last_layer(self, hidden: Tensor) -> LastLayer:
        return LastLayer(self.dropout(hidden), self.output.weight, self.output.bias)

    def _read(self, inputs: Tensor, hc: tuple[Tensor, Tensor]) -> tuple[Tensor, State]:
        """Inputs (B, T, E), h and c (L, B, H) -> hidden (B, T, H) and the batch-first state."""
        hidden, (h, c) = layers.lstm_layers(self.lstm, self.dropout(inputs), hc)
        return hidden, {"h": h.transpose(0, 1), "c": c.transpose(0, 1)}

"""Merge model: the LSTM reads only the words, and the image joins them before the output (Tanti et
al., 2018, "Where to put the image in an image caption generator", merge-add).

h_t = LSTM(embed(w_t)),  p(w_t+1) = softmax(W relu(U (relu(V image) + h_t)))
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.ranges import Dropout, Width
from pipeline.decoders.shared import layers
from pipeline.decoders.shared.contract import Sizes, State
from pipeline.decoders.shared.last_layer import LastLayer
from pipeline.decoders.shared.parallel import ParallelDecoder
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.features.features import Features


class Decoder(ParallelDecoder):
    """An LSTM over the words, whose output is merged with the image.

    Args:
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
        dropout: Dropout = 0.3,
        vectors: str = "",
        tune_vectors: bool = True,
    ):
        super().__init__()
        self.vectors, self.tune_vectors = vectors, tune_vectors
        self.image = nn.Linear(sizes.pooled, hidden)
        self.embedding = nn.Embedding(sizes.vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.merge = nn.Linear(hidden, hidden)
        self.output = nn.Linear(hidden, sizes.vocabulary)
        self.dropout = nn.Dropout(dropout)

    def load_pretrained(self, tokenizer: Tokenizer) -> None:
        layers.load_words(self.embedding, tokenizer, self.vectors, self.tune_vectors)

    def start(self, f: Features) -> State:
        image = F.relu(self.image(self.dropout(f.pooled)))  # (B, H)
        return {"image": image, "h": torch.zeros_like(image), "c": torch.zeros_like(image)}

    def run(self, tokens: Tensor, s: State) -> tuple[Tensor, State]:
        """Return image + words as the hidden state."""
        inputs = self.dropout(self.embedding(tokens))
        words, (h, c) = layers.lstm_layers(self.lstm, inputs, (s["h"][None], s["c"][None]))
        return words + s["image"][:, None], {**s, "h": h[0], "c": c[0]}

    def last_layer(self, hidden: Tensor) -> LastLayer:
        return LastLayer(F.relu(self.merge(hidden)), self.output.weight, self.output.bias)

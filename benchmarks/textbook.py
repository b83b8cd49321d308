"""The same models as people usually write them. Benchmarks compare the speed of pipeline/ with
them, and tests compare the losses.

The code follows the tutorials from which most people start. Every caption has its own copy of its
image's features. An LSTM without attention gets all words at once (nn.LSTM, packed). With
attention, the model loops over the words of captions sorted by length. Captions that have ended
drop out, and the attention keys are computed again for every word. Beam search captions one image
at a time, with its hypotheses as the rows of a step. Each model uses the weights of a decoder of
this project, so losses and captions must agree.

R caption rows, T steps, P grid positions, D grid width, H hidden width, V words.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from pipeline.decoders.shared.contract import Decoder, State
from pipeline.decoders.shared.tokenizers import Special
from pipeline.decoding.generation import Hypothesis
from pipeline.features.features import Features


def model(name: str, decoder: Decoder) -> "Model":
    """Return the textbook's counterpart of a decoder, with a copy of its weights."""
    return MODELS[name](copy.deepcopy(decoder)).train(decoder.training)


class Model(nn.Module):
    def __init__(self, decoder: Any):
        super().__init__()
        self.d = decoder

    def loss(self, f: Features, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy per token, and the regularisers.

        Args:
            f: Features of each row's image, (R, ...).
            tokens: (R, T + 1).
            mask: (R, T + 1).
        """
        raise NotImplementedError


def packed(x: Tensor, lengths: list[int]) -> Tensor:
    """Remove the padding from rows (R, T, ...) of decreasing length. Return (words, ...), in the
    order of the steps."""
    return pack_padded_sequence(x, lengths, batch_first=True).data


class Sorted(Model):
    """A model that sorts the captions from the longest to the shortest."""

    def loss(self, f: Features, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        order = mask.sum(1).argsort(descending=True)
        lengths = (mask.sum(1)[order] - 1).tolist()
        return self.sorted_loss(f.select(order), tokens[order], lengths)

    def sorted_loss(self, f: Features, tokens: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
        """Return the same as `loss`, for captions of these lengths, the longest first."""
        raise NotImplementedError


class Merge(Sorted):
    def sorted_loss(self, f: Features, tokens: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
        d = self.d
        words = d.dropout(d.embedding(tokens[:, :-1]))
        hidden = d.lstm(pack_padded_sequence(words, lengths, batch_first=True))[0].data
        image = F.relu(d.image(d.dropout(f.pooled)))[:, None].expand(-1, words.shape[1], -1)
        logits = d.project(hidden + packed(image, lengths))
        return F.cross_entropy(logits, packed(tokens[:, 1:], lengths)), logits.new_zeros(())


class Lstm(Sorted):
    def sorted_loss(self, f: Features, tokens: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
        """The image is the input before the first word. The LSTM's output for it is not used."""
        d = self.d
        read = d.dropout(torch.cat([d.image(f.pooled)[:, None], d.embedding(tokens[:, :-1])], 1))
        longer = [length + 1 for length in lengths]
        hidden = d.lstm(pack_padded_sequence(read, longer, batch_first=True))[0].data
        logits = d.project(hidden[len(tokens) :])
        return F.cross_entropy(logits, packed(tokens[:, 1:], lengths)), logits.new_zeros(())


class Attending(Sorted):
    """A model that loops over the words. Each step has only the captions that have not ended."""

    def sorted_loss(self, f: Features, tokens: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
        d = self.d
        rows, steps = len(tokens), max(lengths)
        words, s = d.embedding(tokens), self.begin(f)
        logits = torch.zeros(rows, steps, d.embedding.num_embeddings, device=tokens.device)
        watched: dict[str, Tensor] = {}
        for t in range(steps):
            living = sum(length > t for length in lengths)
            s = {name: value[:living] for name, value in s.items()}
            hidden, s, seen = self.cell(words[:living, t], f.grid[:living], s)
            logits[:living, t] = d.project(hidden)
            for name, value in seen.items():
                kept = watched.setdefault(name, value.new_zeros(rows, steps, *value.shape[1:]))
                kept[:living, t] = value
        nll = F.cross_entropy(
            packed(logits, lengths), packed(tokens[:, 1:], lengths), reduction="none"
        )
        return nll.mean(), self.regulariser(watched, nll, lengths)

    def begin(self, f: Features) -> State:
        h, c = torch.tanh(self.d.initial(f.grid.mean(1))).chunk(2, -1)
        return {"h": h, "c": c}

    def cell(self, words: Tensor, grid: Tensor, s: State) -> tuple[Tensor, State, State]:
        """Compute one step from embedded words (R, E) and grids (R, P, D).

        Returns:
            The hidden state (R, H), the next state, and the values that the regulariser needs.
        """
        raise NotImplementedError

    def energy(self, grid: Tensor, h: Tensor) -> Tensor:
        """Return the attention energies, (R, P)."""
        d = self.d
        energy: Tensor = d.energy(torch.tanh(d.keys(grid) + d.query(h)[:, None]))[..., 0]
        return energy

    def regulariser(self, watched: State, nll: Tensor, lengths: list[int]) -> Tensor:
        """Return the regulariser.

        Args:
            watched: The values of `cell` for all steps, (R, T, ...).
            nll: Negative log-likelihoods, (words,), in the order of `packed`.
        """
        raise NotImplementedError


class SoftAttention(Attending):
    def cell(self, words: Tensor, grid: Tensor, s: State) -> tuple[Tensor, State, State]:
        d = self.d
        alpha = self.energy(grid, s["h"]).softmax(-1)
        context = torch.sigmoid(d.gate(s["h"])) * (alpha[..., None] * grid).sum(1)  # (R, D)
        h, c = d.cell(torch.cat([words, context], -1), (s["h"], s["c"]))
        return h, {"h": h, "c": c}, {"alpha": alpha}

    def regulariser(self, watched: State, nll: Tensor, lengths: list[int]) -> Tensor:
        return self.d.stochastic * ((1 - watched["alpha"].sum(1)) ** 2).mean()


class HardAttention(Attending):
    """Hard attention with the estimator's two terms. In evaluation, it attends to the most likely
    position."""

    def begin(self, f: Features) -> State:
        draws = torch.rand(len(f), device=f.grid.device)
        return {**super().begin(f), "expected": (draws < self.d.expected) & self.training}

    def cell(self, words: Tensor, grid: Tensor, s: State) -> tuple[Tensor, State, State]:
        d, expected = self.d, s["expected"]
        attention = torch.distributions.Categorical(logits=self.energy(grid, s["h"]))
        place = attention.sample() if self.training else attention.logits.argmax(-1)
        chosen = F.one_hot(place, grid.shape[1]).float()
        alpha = torch.where(expected[:, None], attention.probs, chosen)
        context = (alpha[..., None] * grid).sum(1)
        h, c = d.cell(torch.cat([words, context], -1), (s["h"], s["c"]))
        seen = {
            "log_sampled": attention.log_prob(place) * ~expected,
            "entropy": attention.entropy(),
        }
        return h, {"h": h, "c": c, "expected": expected}, seen

    def regulariser(self, watched: State, nll: Tensor, lengths: list[int]) -> Tensor:
        d = self.d
        ends = torch.tensor(lengths, device=nll.device)
        told = torch.zeros_like(watched["entropy"])
        told.T[torch.arange(max(lengths), device=nll.device)[:, None] < ends] = nll.detach()
        of_caption = told.sum(1)
        advantage = -of_caption - d.baseline
        if self.training:
            d.baseline.mul_(0.9).add_(-0.1 * of_caption.mean())
        sampled = (advantage * watched["log_sampled"].sum(1)).sum()
        return -(d.reinforce * sampled + d.entropy * watched["entropy"].sum()) / len(nll)


class Transformer(Model):
    """PyTorch's own decoder layers. They compute all positions, including padding."""

    def __init__(self, decoder: Any):
        super().__init__(decoder)
        self.layers = nn.ModuleList(_pytorch_layer(layer) for layer in decoder.layers)
        del decoder.layers

    def loss(self, f: Features, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        d, steps = self.d, tokens.shape[1] - 1
        memory = d.image(f.grid)
        places = torch.arange(steps, device=tokens.device)[:, None]
        width = d.embedding.embedding_dim
        angle = places / 10000 ** (torch.arange(0, width, 2, device=tokens.device) / width)
        position = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
        x = d.dropout(d.embedding(tokens[:, :-1]) * width**0.5 + position)
        future = nn.Transformer.generate_square_subsequent_mask(steps, device=tokens.device)
        for layer in self.layers:
            x = layer(x, memory, tgt_mask=future, tgt_is_causal=True)
        logits = d.project(d.norm(x))  # (R, T, V)
        targets = tokens[:, 1:].masked_fill(~mask[:, 1:], -100)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten()), logits.new_zeros(())


def _pytorch_layer(layer: Any) -> nn.TransformerDecoderLayer:
    width, feed = layer.feed[0].in_features, layer.feed[0].out_features
    heads, dropout = layer.words.heads, layer.dropout.p
    theirs = nn.TransformerDecoderLayer(
        width, heads, feed, dropout, batch_first=True, norm_first=True
    )
    pairs = {
        "linear1": layer.feed[0],
        "linear2": layer.feed[3],
        **{f"norm{n + 1}": norm for n, norm in enumerate(layer.norms)},
    }
    state = {
        f"{name}.{kind}": getattr(part, kind)
        for name, part in pairs.items()
        for kind in ("weight", "bias")
    }
    for name, part in (("self_attn", layer.words), ("multihead_attn", layer.cross)):
        for kind in ("weight", "bias"):
            state[f"{name}.in_proj_{kind}"] = torch.cat(
                [getattr(part.query, kind), getattr(part.keys_and_values, kind)]
            )
            state[f"{name}.out_proj.{kind}"] = getattr(part.output, kind)
    theirs.load_state_dict(state)
    return theirs


class PrefixLm(Model):
    """The language model of transformers reads prefix and words at once, and reads the prefix again
    for every caption."""

    def __init__(self, decoder: Any):
        super().__init__(decoder)
        self.lm = language_model(decoder)

    def loss(self, f: Features, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        prefix = self.d.mapping(F.normalize(f.pooled, dim=-1))  # (R, k, E)
        words = self.lm.get_input_embeddings()(tokens[:, 1:])  # The prefix replaces <start>.
        seen = torch.cat(
            [torch.ones(prefix.shape[:2], dtype=torch.bool, device=mask.device), mask[:, 1:]], 1
        )
        out = self.lm(inputs_embeds=torch.cat([prefix, words], 1), attention_mask=seen.long())
        logits = out.logits[:, prefix.shape[1] - 1 : -1]
        targets = tokens[:, 1:].masked_fill(~mask[:, 1:], -100)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten()), logits.new_zeros(())


def language_model(decoder: Any) -> Any:
    """Return a prefix_lm's language model as a model of transformers. It shares the weights."""
    from transformers import GPT2LMHeadModel

    lm = GPT2LMHeadModel(decoder.body.config)
    lm.transformer = decoder.body
    lm.lm_head.weight = decoder.body.wte.weight
    return lm.train(decoder.training)


MODELS: dict[str, Callable[[Any], Model]] = {
    "merge": Merge,
    "lstm": Lstm,
    "soft_attention": SoftAttention,
    "hard_attention": HardAttention,
    "transformer": Transformer,
    "prefix_lm": PrefixLm,
}


@torch.no_grad()
def beam_search(
    decoder: Decoder, f: Features, special: Special, beam: int, longest: int, penalty: float
) -> Hypothesis:
    """Return the best caption of one image. Its hypotheses are the rows of a step."""
    never = [special.pad, special.start, special.unknown]
    living: list[tuple[int, ...]] = [(special.start,)]
    finished: list[tuple[tuple[int, ...], float]] = []
    scores, state = torch.zeros(1, device=f.pooled.device), decoder.start(f)
    for _ in range(longest):
        last = torch.tensor([words[-1] for words in living], device=f.pooled.device)
        logits, state = decoder.step(last, state)
        log_probs = logits.float().log_softmax(-1)
        log_probs[:, [i for i in never if i < log_probs.shape[1]]] = -torch.inf
        every = (scores[:, None] + log_probs).flatten()
        best, place = every.topk(min(2 * beam, len(every)))
        parents, ids = place // log_probs.shape[1], place % log_probs.shape[1]
        words = [(*living[p], i) for p, i in zip(parents.tolist(), ids.tolist(), strict=True)]
        ended = ids == special.end
        finished += [(words[n], best[n].item()) for n in range(beam) if ended[n]]
        if len(finished) >= beam:
            break
        on = (~ended).nonzero()[:beam, 0]
        living, scores = [words[n] for n in on.tolist()], best[on]
        state = {name: value[parents[on]] for name, value in state.items()}
    else:
        left = zip(living, scores.tolist(), strict=True)
        finished += [found for found, _ in zip(left, range(beam - len(finished)), strict=False)]
    words_, score = max(finished, key=lambda h: h[1] / (len(h[0]) - 1) ** penalty)
    return Hypothesis(words_[1:], score)

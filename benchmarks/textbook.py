"""The same models as they are usually written: what the speed of pipeline/ is compared with, and
tests its losses with.

Every caption brings its own copy of its image's features; words are read one after the other by
cells; attention keys are computed anew for every word; the vocabulary is projected to word by word,
or at padded positions too; a beam is a list of hypotheses of one image. Each model reads the
weights of a decoder of this project, so that losses and captions must agree.

R caption rows, T steps, P grid positions, D grid width, H hidden width, V words.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.decoders.shared.contract import Decoder, State
from pipeline.decoders.shared.tokenizers import Special
from pipeline.decoding.generation import Hypothesis
from pipeline.features.features import Features


def model(name: str, decoder: Decoder) -> "Model":
    """The textbook's counterpart of a decoder, with a copy of its weights."""
    return MODELS[name](copy.deepcopy(decoder)).train(decoder.training)


class Model(nn.Module):
    def __init__(self, decoder: Any):
        super().__init__()
        self.d = decoder

    def loss(self, f: Features, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Features of each row's image (R, ...), tokens and mask (R, T + 1) -> cross-entropy per
        token, and regularisers."""
        raise NotImplementedError


class Recurrent(Model):
    """Word by word; rows whose caption has ended are masked out of the sums."""

    def loss(self, f: Features, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        s = self.begin(f)
        nll = torch.zeros(len(tokens), device=tokens.device)
        for t in range(tokens.shape[1] - 1):
            hidden, s = self.cell(tokens[:, t], f, s, mask[:, t + 1])
            logits = self.d.project(hidden)  # (R, V)
            nll = nll + F.cross_entropy(logits, tokens[:, t + 1], reduction="none") * mask[:, t + 1]
        count = mask[:, 1:].sum()
        return nll.sum() / count, self.regulariser(s, nll, count)

    def begin(self, f: Features) -> State:
        raise NotImplementedError

    def cell(self, words: Tensor, f: Features, s: State, valid: Tensor) -> tuple[Tensor, State]:
        """Words (R,) -> hidden (R, H) and the next state; `valid` (R,) tells which rows still have
        a word."""
        raise NotImplementedError

    def regulariser(self, s: State, nll: Tensor, count: Tensor) -> Tensor:
        return nll.new_zeros(())


def lstm_cells(lstm: nn.LSTM, x: Tensor, s: State, dropout: float) -> tuple[Tensor, State]:
    """One step (R, E) through the layers of an LSTM, each an LSTM cell."""
    s = dict(s)
    for n in range(lstm.num_layers):
        x = F.dropout(x, dropout, lstm.training and n > 0)
        weights = (
            getattr(lstm, f"{kind}_l{n}")
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        s[f"h{n}"], s[f"c{n}"] = torch.lstm_cell(x, (s[f"h{n}"], s[f"c{n}"]), *weights)
        x = s[f"h{n}"]
    return x, s


def empty_cells(lstm: nn.LSTM, rows: int, device: Any) -> State:
    zero = torch.zeros(rows, lstm.hidden_size, device=device)
    return {f"{kind}{n}": zero for n in range(lstm.num_layers) for kind in "hc"}


class Merge(Recurrent):
    def begin(self, f: Features) -> State:
        return empty_cells(self.d.lstm, len(f), f.pooled.device)

    def cell(self, words: Tensor, f: Features, s: State, valid: Tensor) -> tuple[Tensor, State]:
        d = self.d
        image = F.relu(d.image(d.dropout(f.pooled)))
        h, s = lstm_cells(d.lstm, d.dropout(d.embedding(words)), s, 0.0)
        return h + image, s


class Lstm(Recurrent):
    def begin(self, f: Features) -> State:
        s = empty_cells(self.d.lstm, len(f), f.pooled.device)
        return lstm_cells(
            self.d.lstm, self.d.dropout(self.d.image(f.pooled)), s, self.d.lstm.dropout
        )[1]

    def cell(self, words: Tensor, f: Features, s: State, valid: Tensor) -> tuple[Tensor, State]:
        return lstm_cells(
            self.d.lstm, self.d.dropout(self.d.embedding(words)), s, self.d.lstm.dropout
        )


class SoftAttention(Recurrent):
    def begin(self, f: Features) -> State:
        h, c = torch.tanh(self.d.initial(f.grid.mean(1))).chunk(2, -1)
        return {"h": h, "c": c, "attended": torch.zeros_like(f.grid[..., 0])}

    def cell(self, words: Tensor, f: Features, s: State, valid: Tensor) -> tuple[Tensor, State]:
        d = self.d
        energy = d.energy(torch.tanh(d.keys(f.grid) + d.query(s["h"])[:, None]))[..., 0]  # (R, P)
        alpha = energy.softmax(-1)
        context = torch.sigmoid(d.gate(s["h"])) * (alpha[..., None] * f.grid).sum(1)  # (R, D)
        h, c = d.cell(torch.cat([d.embedding(words), context], -1), (s["h"], s["c"]))
        return h, {"h": h, "c": c, "attended": s["attended"] + alpha * valid[:, None]}

    def regulariser(self, s: State, nll: Tensor, count: Tensor) -> Tensor:
        return self.d.stochastic * ((1 - s["attended"]) ** 2).mean()


class HardAttention(Recurrent):
    """With the estimator's two terms; in evaluation the likeliest position is looked at."""

    def begin(self, f: Features) -> State:
        h, c = torch.tanh(self.d.initial(f.grid.mean(1))).chunk(2, -1)
        zero = torch.zeros(len(f), device=f.grid.device)
        expected = (torch.rand_like(zero) < self.d.expected) & self.training
        return {"h": h, "c": c, "expected": expected, "log_sampled": zero, "entropy": zero}

    def cell(self, words: Tensor, f: Features, s: State, valid: Tensor) -> tuple[Tensor, State]:
        d, expected = self.d, s["expected"]
        energy = d.energy(torch.tanh(d.keys(f.grid) + d.query(s["h"])[:, None]))[..., 0]  # (R, P)
        attention = torch.distributions.Categorical(logits=energy)
        place = attention.sample() if self.training else energy.argmax(-1)
        alpha = torch.where(
            expected[:, None], attention.probs, F.one_hot(place, energy.shape[1]).float()
        )
        context = (alpha[..., None] * f.grid).sum(1)
        h, c = d.cell(torch.cat([d.embedding(words), context], -1), (s["h"], s["c"]))
        log_sampled = s["log_sampled"] + attention.log_prob(place) * (valid & ~expected)
        entropy = s["entropy"] + attention.entropy() * valid
        return h, {
            "h": h,
            "c": c,
            "expected": expected,
            "log_sampled": log_sampled,
            "entropy": entropy,
        }

    def regulariser(self, s: State, nll: Tensor, count: Tensor) -> Tensor:
        d = self.d
        advantage = -nll.detach() - d.baseline
        if self.training:
            d.baseline.mul_(0.9).add_(-0.1 * nll.detach().mean())
        return (
            -(d.reinforce * (advantage * s["log_sampled"]).sum() + d.entropy * s["entropy"].sum())
            / count
        )


class Transformer(Model):
    """PyTorch's own decoder layers, over all positions, padded ones too."""

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
    """transformers' language model reads prefix and words at once, all of it again for every
    caption."""

    def __init__(self, decoder: Any):
        super().__init__(decoder)
        self.lm = language_model(decoder)

    def loss(self, f: Features, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        prefix = self.d.mapping(F.normalize(f.pooled, dim=-1))  # (R, k, E)
        words = self.lm.get_input_embeddings()(tokens[:, 1:])  # <start> is the prefix
        seen = torch.cat(
            [torch.ones(prefix.shape[:2], dtype=torch.bool, device=mask.device), mask[:, 1:]], 1
        )
        out = self.lm(inputs_embeds=torch.cat([prefix, words], 1), attention_mask=seen.long())
        logits = out.logits[:, prefix.shape[1] - 1 : -1]
        targets = tokens[:, 1:].masked_fill(~mask[:, 1:], -100)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten()), logits.new_zeros(())


def language_model(decoder: Any) -> Any:
    """A prefix_lm's language model as transformers has it, with the same weights (not copies)."""
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
    """The best caption of one image: a list of hypotheses, each asked for its next words in
    turn."""
    living: list[tuple[tuple[int, ...], float, State]] = [((special.start,), 0.0, decoder.start(f))]
    finished: list[tuple[tuple[int, ...], float]] = []
    for _ in range(longest):
        candidates: list[tuple[tuple[int, ...], float, State]] = []
        for words, score, state in living:
            logits, after = decoder.step(torch.tensor([words[-1]], device=f.pooled.device), state)
            log_probs = logits[0].float().log_softmax(-1)
            log_probs[
                [i for i in (special.pad, special.start, special.unknown) if i < len(log_probs)]
            ] = -torch.inf
            best, ids = log_probs.topk(2 * beam)
            candidates += [
                ((*words, i), score + p, after)
                for p, i in zip(best.tolist(), ids.tolist(), strict=True)
            ]
        candidates.sort(key=lambda c: -c[1])
        finished += [
            (words, score) for words, score, _ in candidates[:beam] if words[-1] == special.end
        ]
        living = [c for c in candidates if c[0][-1] != special.end][:beam]
        if len(finished) >= beam:
            break
    finished += [(words, score) for words, score, _ in living[: max(0, beam - len(finished))]]
    words, score = max(finished, key=lambda h: h[1] / (len(h[0]) - 1) ** penalty)
    return Hypothesis(words[1:], score)

"""Self-critical sequence training (Rennie et al., 2017).

Sampled captions become more probable if they earn more than a baseline.

The reward is CIDEr-D with document frequencies of the training split. The end token counts as a
word of captions and references. Without it, captions that break off after "a" or "of" would earn as
much as complete ones, and training would learn to produce them.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.data.image_ids import ImageIds
from pipeline.decoders.shared.contract import Decoder, pick_rows
from pipeline.decoders.shared.tokenizers import END, Special, Tokenizer
from pipeline.decoding.batches import Batch
from pipeline.decoding.generation import barred, draw
from pipeline.decoding.search import greedy
from pipeline.metrics.cider import against


class CiderReward:
    """CIDEr-D (0 to 10) of captions against the references of their images.

    `<end>` is the last word of every reference, and is expected as the last word of complete
    captions.

    Args:
        references: image_id -> cleaned captions, for all images of the training split.

    Raises:
        KeyError: when called for an image that has no references.
        ValueError: when called with different numbers of texts and images.
    """

    def __init__(self, references: Mapping[str, Sequence[str]]):
        self.image_ids = ImageIds(sorted(references))
        self.cider = against(
            [f"{text} {END}" for text in references[image]] for image in self.image_ids
        )

    def __call__(self, image_ids: Sequence[str], texts: Sequence[str]) -> list[float]:
        places = self.image_ids.find(image_ids)
        if (places < 0).any():
            raise KeyError(self.image_ids.lacking(image_ids)[0])
        scores: list[float] = self.cider(places, texts).tolist()
        return scores


@torch.no_grad()
def sample_batch(
    decoder: Decoder, batch: Batch, count: int, special: Special, max_tokens: int
) -> tuple[Tensor, Tensor]:
    """Sample `count` captions per image, word by word.

    Rows that have ended stay in the batch, because the loss needs all rows in one tensor.

    Returns:
        tokens and mask, (I * count, T + 1) each, image by image. Rows begin with <start>.
    """
    rows = torch.arange(len(batch.features), device=batch.tokens.device).repeat_interleave(count)
    state = pick_rows(decoder.start(batch.features), rows)
    tokens = [torch.full_like(rows, special.start)]
    alive = [torch.ones_like(rows, dtype=torch.bool)]
    for _ in range(max_tokens):
        logits, state = decoder.step(tokens[-1], state)
        going = alive[-1] & (tokens[-1] != special.end)
        alive.append(going)
        tokens.append(torch.where(going, draw(logits, special), special.pad))
        if not going.any():
            break
    return torch.stack(tokens, 1), torch.stack(alive, 1)


def self_critical_loss(
    decoder: Decoder,
    batch: Batch,
    tokenizer: Tokenizer,
    reward: CiderReward,
    count: int,
    max_tokens: int,
) -> tuple[Tensor, dict[str, float], int]:
    """Return -(reward - baseline) * log p(sampled), the mean over the sampled tokens (equation 8).

    Dropout is off. With one sample per image, the baseline is the reward of the greedy caption.
    With several, it is the mean reward of the image's other samples (Luo, 2020, "A better variant
    of self-critical sequence training"). This saves the greedy pass and varies less.

    Returns:
        the loss, the mean reward and baseline, and the number of sampled tokens.
    """
    _without_dropout(decoder)
    tokens, mask = sample_batch(decoder, batch, count, tokenizer.special, max_tokens)
    ids = [i for i in batch.image_ids for _ in range(count)]
    rewards = torch.tensor(reward(ids, [_text(row, tokenizer) for row in tokens[:, 1:].tolist()]))
    if count == 1:
        found = greedy(decoder, batch.features, tokenizer.special, max_tokens)
        baseline = torch.tensor(reward(ids, [_text(h.tokens, tokenizer) for h in found]))
    else:
        baseline = _mean_of_others(rewards.view(-1, count)).flatten()
    valid = mask[:, 1:]
    advantage = (rewards - baseline).to(tokens.device)[:, None].expand_as(valid)[valid]
    loss = _weighted(decoder, batch, tokens, valid, count, advantage, tokenizer.special)
    parts = {"train_reward": rewards.mean().item(), "train_baseline": baseline.mean().item()}
    return loss, parts, len(advantage)


def _mean_of_others(rewards: Tensor) -> Tensor:
    """Return the mean of the image's other samples, for each sample: (I, K) -> (I, K)."""
    return (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)


def _weighted(
    decoder: Decoder,
    batch: Batch,
    tokens: Tensor,
    valid: Tensor,
    count: int,
    advantage: Tensor,
    special: Special,
) -> Tensor:
    """Return the mean of -advantage * log p over the sampled tokens, which `valid` (I * count, T)
    marks.

    p is the distribution that the tokens were drawn from, without barred tokens. With them, every
    sample of negative advantage would raise the probability of tokens that are never drawn, and
    nothing would lower it again.
    """
    rows = torch.arange(len(batch.image_ids), device=tokens.device).repeat_interleave(count)
    hidden, _ = decoder.unroll(batch.features, tokens[:, :-1], valid.sum(1).cpu(), rows)
    layer = decoder.last_layer(hidden[valid])
    never = barred(special, layer.words)
    return layer.cross_entropy(tokens[:, 1:][valid], weights=advantage, barred=never)


def _without_dropout(decoder: nn.Module) -> None:
    """Set evaluation mode.

    Fused recurrent layers stay in training mode without dropout: on a GPU they have no gradient in
    evaluation mode.
    """
    decoder.eval()
    for module in decoder.modules():
        if isinstance(module, nn.RNNBase):
            module.train()
            module.dropout = 0.0


def _text(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """Return the words of a caption, followed by the end token if the caption has one."""
    words = tokenizer.decode([i for i in ids if i != tokenizer.special.end])
    return f"{words} {END}" if tokenizer.special.end in ids else words

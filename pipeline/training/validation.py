"""Validation scores of an epoch: the loss, and CIDEr and BLEU-4 of greedy captions."""

from dataclasses import dataclass

from pipeline.decoders.shared.contract import Decoder
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.decoding.batches import CaptionBatches
from pipeline.decoding.likelihood import mean_loss
from pipeline.decoding.search import greedy
from pipeline.metrics import bleu, cider
from pipeline.metrics.degeneration import bad_endings
from pipeline.training.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Validation:
    """The validation split and its reference captions."""

    batches: CaptionBatches
    references: dict[str, list[str]]
    "Cleaned reference captions by image_id."
    max_tokens: int
    """Maximum number of tokens of a greedy caption. It also limits the samples of self-critical
    training."""
    english: bool = True
    "Whether the captions are English. How they may end is not known for other languages."

    def scores(
        self, decoder: Decoder, tokenizer: Tokenizer, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        """Return the validation columns of the history.

        Captions and references are compared as they are, without the PTB tokenizer: these scores
        choose an epoch and are reported nowhere.

        Args:
            ranks: share the split; each of them gets the scores of the whole split.
        """
        batches = self.batches.shared(ranks.rank, ranks.count)
        loss = mean_loss(decoder, batches, ranks.gather)
        captions: dict[str, str] = {}
        for found in ranks.gather(self._greedy_captions(decoder, tokenizer, batches)):
            captions |= found
        return ranks.broadcast({} if ranks.rank else self._scores(loss, captions))

    def _scores(self, loss: float, said: dict[str, str]) -> dict[str, float]:
        captions = dict(sorted(said.items()))
        references = {image: self.references[image] for image in captions}
        found = {
            "val_loss": loss,
            "val_cider": cider.score(captions, references).corpus["cider"],
            "val_bleu_4": bleu.score(captions, references).corpus["bleu_4"],
        }
        endings = {"val_bad_endings": bad_endings(captions.values())} if self.english else {}
        return found | endings

    def _greedy_captions(
        self, decoder: Decoder, tokenizer: Tokenizer, batches: CaptionBatches
    ) -> dict[str, str]:
        decoder.eval()
        captions: dict[str, str] = {}
        for batch in batches.in_order():
            found = greedy(decoder, batch.features, tokenizer.special, self.max_tokens)
            texts = [tokenizer.decode(hypothesis.tokens) for hypothesis in found]
            captions |= dict(zip(batch.image_ids, texts, strict=True))
        return captions

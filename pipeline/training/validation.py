"""Validation scores of an epoch: the loss, and CIDEr and BLEU-4 of greedy captions."""

from dataclasses import dataclass

from pipeline.decoders.shared.contract import Decoder
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.decoding.batches import CaptionBatches
from pipeline.decoding.likelihood import mean_loss
from pipeline.decoding.search import greedy
from pipeline.metrics import bleu, cider
from pipeline.metrics.degeneration import bad_endings


@dataclass(frozen=True)
class Validation:
    """The validation split, and what its captions are compared with."""

    batches: CaptionBatches
    references: dict[str, list[str]]
    "Cleaned reference captions by image_id."
    max_tokens: int
    "Greedy captions end after this many tokens, and so do sampled ones in self-critical training."
    english: bool = True
    "Of other captions it is not known how they may end."

    def scores(self, decoder: Decoder, tokenizer: Tokenizer) -> dict[str, float]:
        """Columns of the history. Captions and references are compared as they are, without the PTB
        tokenizer: these scores choose an epoch and are reported nowhere."""
        loss = mean_loss(decoder, self.batches)
        captions = self._greedy_captions(decoder, tokenizer)
        references = {image: self.references[image] for image in captions}
        found = {
            "val_loss": loss,
            "val_cider": cider.score(captions, references).corpus["cider"],
            "val_bleu_4": bleu.score(captions, references).corpus["bleu_4"],
        }
        endings = {"val_bad_endings": bad_endings(captions.values())} if self.english else {}
        return found | endings

    def _greedy_captions(self, decoder: Decoder, tokenizer: Tokenizer) -> dict[str, str]:
        decoder.eval()
        captions: dict[str, str] = {}
        for batch in self.batches.in_order():
            found = greedy(decoder, batch.features, tokenizer.special, self.max_tokens)
            texts = [tokenizer.decode(hypothesis.tokens) for hypothesis in found]
            captions |= dict(zip(batch.image_ids, texts, strict=True))
        return captions

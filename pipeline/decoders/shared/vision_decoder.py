"""What decoders on vision-language models share: their weights, adapters, and the order of reading.

B pictures, T tokens, E width of the language model, V words.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.errors import UserError
from pipeline.core.ranges import Lora
from pipeline.decoders.shared import four_bits, frozen_base
from pipeline.decoders.shared import lora as adapters
from pipeline.decoders.shared import vision_language as vl
from pipeline.decoders.shared import vision_prompts as prompts
from pipeline.decoders.shared.contract import Sizes, State
from pipeline.decoders.shared.hub_source import Source
from pipeline.decoders.shared.parallel import ParallelDecoder
from pipeline.decoders.shared.recomputation import layers, recomputed
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.features.features import Features


class Decoder(frozen_base.Decoder, ParallelDecoder):
    """A model of transformers that reads pictures and a prompt once, and then words.

    A decoder's file implements `beginning`, `read_prompt`, `read_words` and `adapted`. The vision
    part is always frozen and in evaluation mode. The first step reads nothing: it returns the
    state's `first` (B, E), the hidden vector of the token that <start> stands for.
    """

    unpacked: Tensor | None = None
    "Fingerprint of the published weights, if some of them now take 4 bits."

    def __init__(
        self,
        sizes: Sizes,
        source: Source,
        *,
        prompt: str,
        dtype: str,
        quantise: str,
        tune: str,
        lora: Lora | None,
        checkpointing: bool,
    ):
        super().__init__()
        if sizes.grid != 3:
            raise UserError(
                f"{source.decoder} sees pictures, not a grid {sizes.grid} wide: give it features "
                "of the encoder pixels"
            )
        if lora is not None and tune != "adapter":
            raise UserError(
                f"args.lora is for args.tune: adapter, and tune is {tune}: set tune to adapter, or "
                "remove lora"
            )
        if quantise == "4bit" and tune == "all":
            raise UserError(
                "args.quantise: 4bit leaves nothing that args.tune: all could train, since weights "
                "of 4 bits have no gradient: set tune to adapter, or remove quantise"
            )
        self.source, self.prompt, self.tune = source, prompt, tune
        self.words, self.checkpointing = sizes.vocabulary, checkpointing
        self.published = "" if source.is_random else source.model
        self.body = vl.build(sizes.known["config"], dtype, initialise=source.is_random)
        if quantise == "4bit":
            four_bits.replace(self.body, self.adapted(), filled=source.is_random)
        self.requires_grad_(tune == "all")
        self.body.get_encoder(modality="image").requires_grad_(False)
        if tune == "adapter":
            self.adapter = adapters.inject(self.body, self.adapted(), lora or {})
        if checkpointing:
            layers(self.body)
        self.register_base(source.model, keep=bool(self.published) and tune != "all")
        self.processor: Any = None

    def adapted(self) -> nn.Module:
        """Return the part whose linear layers get adapters."""
        raise NotImplementedError

    def beginning(self, pictures: int) -> dict[str, Any]:
        """Return what the model's forward pass takes besides pictures and prompt."""
        raise NotImplementedError

    def read_prompt(self, inputs: dict[str, Any]) -> State:
        """Run pictures and prompt -> the state before the first word, with `first`."""
        raise NotImplementedError

    def read_words(self, tokens: Tensor, s: State) -> tuple[Tensor, State]:
        """Read tokens (B, T) after what the state has read -> hidden (B, T, E), and what changes
        in the state."""
        raise NotImplementedError

    def load_pretrained(self, tokenizer: Tokenizer) -> None:
        if self.published:
            self.take_base()
            adapters.renew(self.body)
            self.base.copy_(self.mark())
            self._check_logits()

    def take_base(self) -> None:
        weights = vl.weights(self.source, self.body)
        if four_bits.is_used(self.body):  # a row of 4 bits has the same base as one of 16
            own = ((name, weight.to(self.body.dtype)) for name, weight in weights.items())
            self.unpacked = frozen_base.fingerprint_of(own)
            four_bits.pack(self.body, weights)
        adapters.load_base(self.body, weights)

    def mark(self) -> Tensor:
        if self.unpacked is not None:
            return self.unpacked
        return frozen_base.fingerprint(self.body)

    @torch.no_grad()
    def _check_logits(self) -> None:
        """Check that the model does not change its logits after the last layer.

        Some models scale them; this decoder does not.

        Raises:
            UserError: the model's own logits after a grey picture differ from this decoder's.
        """
        was = self.training
        inputs = self.eval().inputs(torch.full((1, 3, 64, 64), 128, dtype=torch.uint8))
        inputs |= self.beginning(1)
        theirs = self.body(**inputs).logits[:, -1].float()
        ours = logits(self.body, self.read_prompt(inputs)["first"])
        self.train(was)
        if not torch.allclose(F.softmax(ours, -1), F.softmax(theirs, -1), atol=1e-3):
            raise UserError(
                f"{self.source.decoder}: '{self.source.model}' ({self.body.config.model_type}) "
                "changes its logits after the last layer: not supported"
            )

    def train(self, mode: bool = True) -> "Decoder":
        super().train(mode)
        self.body.get_encoder(modality="image").eval()
        return self

    def start(self, f: Features) -> State:
        inputs: dict[str, Any] = self.inputs(prompts.pictures(f.grid))
        with self._recomputed():
            return self.read_prompt(inputs | self.beginning(len(f)))

    def inputs(self, pictures: Tensor) -> dict[str, Any]:
        """Return what the model reads for pictures (B, 3, S, S) uint8.

        This is ids (B, T), the pixels in the model's own layout, and more.
        """
        if self.processor is None:
            self.processor = prompts.processor(self.source, self.body, self.words)
        return prompts.inputs(self.processor, self.body, self.source, self.prompt, pictures)

    def run(self, tokens: Tensor, s: State) -> tuple[Tensor, State]:
        """Tokens (B, T) after what the state holds -> hidden (B, T, E).

        The very first token is <start>. Its hidden vector is in the state. Padding is at the end,
        so no mask is needed.
        """
        read, hidden = s, list[Tensor]()
        if "first" in s:
            hidden, tokens = [s["first"][:, None]], tokens[:, 1:]
            read = {name: value for name, value in s.items() if name != "first"}
        if tokens.shape[1]:
            with self._recomputed():
                seen, changed = self.read_words(tokens, read)
            hidden.append(seen)
            read = {**read, **changed}
        return torch.cat(hidden, 1), read

    def project(self, hidden: Tensor) -> Tensor:
        """Return logits in float32, without rows of the vocabulary that no token has."""
        return logits(self.body, hidden)[..., : self.words]

    def _recomputed(self) -> AbstractContextManager[None]:
        wanted = self.checkpointing and self.training and torch.is_grad_enabled()
        return recomputed(self.body) if wanted else nullcontext()


def logits(body: Any, hidden: Tensor) -> Tensor:
    """Hidden (..., E) -> (..., V) float32."""
    about = body.config.get_text_config()
    if getattr(about, "scale_decoder_outputs", False):  # T5, but not its version 1.1
        hidden = hidden * about.hidden_size**-0.5
    found: Tensor = body.get_output_embeddings()(hidden).float()
    cap = getattr(about, "final_logit_softcapping", None)
    return found if cap is None else torch.tanh(found / cap) * cap

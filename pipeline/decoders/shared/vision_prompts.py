"""What a vision-language model reads of pictures and a prompt, prepared by its own processor.

B pictures, T tokens, S side of the incoming pictures.
"""

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from pipeline.core.errors import UserError, brief
from pipeline.decoders.shared.hub_source import Source


def load_processor(where: str, **at: Any) -> Any:
    from transformers import AutoProcessor

    found = AutoProcessor.from_pretrained(where, **at)
    if not hasattr(found, "image_processor") or not hasattr(found.tokenizer, "backend_tokenizer"):
        raise ValueError("it has no processor of pictures, or no fast tokenizer")
    return found


class WordsProcessor:
    """Reads pictures and prompts for a model with random weights, whose vocabulary is the captions'
    words."""

    chat_template = None

    def __init__(self, images: Any, body: Any, words: int):
        self.image_processor, self.body, self.words = images, body, words

    def __call__(self, text: list[str], images: list[list[Tensor]], **_: Any) -> dict[str, Any]:
        """Return the tokens of the picture, then one token for every word of the prompt.

        Any token of the vocabulary may stand for a word of the prompt.
        """
        first = "channels_first"  # a picture of 3 x 3 pixels could be read either way
        read = self.image_processor(images=images, return_tensors="pt", input_data_format=first)
        pixels = {name: value for name, value in read.items() if isinstance(value, Tensor)}
        count = _picture_tokens(self.body, pixels, len(images))
        word = [4 + n % max(1, self.words - 4) for n, _ in enumerate(text[0].split())]
        ids = torch.tensor([[image_token(self.body.config)] * count + (word or [4])])
        return {**pixels, "input_ids": ids.expand(len(images), -1)}


@torch.no_grad()
def _picture_tokens(body: Any, pixels: dict[str, Tensor], pictures: int) -> int:
    """Return how many tokens stand for one picture: one for each vector that the model makes of
    it."""
    takes = inspect.signature(body.get_image_features).parameters
    device = body.device
    out = body.get_image_features(
        **{name: value.to(device) for name, value in pixels.items() if name in takes}
    )
    found = getattr(out, "pooler_output", out)
    parts = list(found) if isinstance(found, (list, tuple)) else [found]
    return sum(part.numel() // part.shape[-1] for part in parts) // pictures


def processor(source: Source, body: Any, words: int) -> Any:
    """Return the processor that makes tensors of pictures and a prompt.

    It is the model's own. For random weights without a tokenizer, only its image processor is used.
    """
    from transformers import AutoImageProcessor
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

    if not source.has_own_words:
        return source.read(load_processor)
    if source.has("preprocessor_config.json"):
        return WordsProcessor(source.read(AutoImageProcessor.from_pretrained), body, words)
    kinds: Any = IMAGE_PROCESSOR_MAPPING[type(body.config)]
    return WordsProcessor(kinds.get("torchvision", kinds["pil"])(), body, words)


def image_token(config: Any) -> int:
    """Return the id of the token that stands for a part of the picture."""
    found = getattr(config, "image_token_id", None)
    return int(config.image_token_index if found is None else found)


def pictures(grid: Tensor) -> Tensor:
    """Return features of the encoder `pixels` (B, S * S, 3) as pictures (B, 3, S, S) uint8."""
    side = round(grid.shape[1] ** 0.5)
    square = grid.transpose(1, 2).unflatten(2, (side, side))
    return square.round().clamp(0, 255).to(torch.uint8)


def turn(prompt: str) -> list[dict[str, Any]]:
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    return [{"role": "user", "content": content}]


def asked(processor: Any, prompt: str) -> str:
    """Return the prompt in the model's chat template, or unchanged if it has none."""
    if not processor.chat_template:
        return prompt
    return str(processor.apply_chat_template(turn(prompt), add_generation_prompt=True))


def inputs(
    processor: Any, body: Any, source: Source, prompt: str, pictures: Tensor
) -> dict[str, Tensor]:
    """Return what the model reads for pictures (B, 3, S, S) and the prompt.

    This is `input_ids` (B, T), the pixels in the model's own layout, and more.

    Raises:
        UserError: the processor refuses the picture, or the prompt has no place for it.
    """
    text = asked(processor, prompt)
    try:
        read = processor(
            text=[text] * len(pictures),
            images=[[picture] for picture in pictures.cpu()],
            return_tensors="pt",
        )
    except Exception as error:  # processors have no error of their own
        side = pictures.shape[-1]
        raise UserError(
            f"{source.decoder}: the processor of '{source.model}' refuses a picture of "
            f"{side} x {side} pixels with this prompt ({brief(error)}): change image_size of the "
            "encoder pixels, or prompt"
        ) from None
    found = {name: value for name, value in read.items() if isinstance(value, Tensor)}
    ids = found["input_ids"]
    if not (ids == image_token(body.config)).any(1).all():
        raise UserError(
            f"{source.decoder}: no token of '{source.model}' stands for the picture in this "
            "prompt: give a model with a chat template, or write its image token into prompt"
        )
    takes = inspect.signature(body.forward).parameters
    found = {name: value for name, value in found.items() if name in takes and name != "labels"}
    found |= {"attention_mask": torch.ones_like(ids), **_types(found, body.config, takes)}
    return {
        name: value.to(body.device, body.dtype if value.is_floating_point() else None)
        for name, value in found.items()
    }


def _types(found: dict[str, Tensor], config: Any, takes: Iterable[str]) -> dict[str, Tensor]:
    """Return which tokens belong to the picture.

    The names are those that the model takes and its processor did not give.
    """
    ids = found["input_ids"]
    of_picture = (ids == image_token(config)).long()
    if config.model_type == "paligemma":  # 0: every position before the caption sees it
        of_picture = torch.zeros_like(of_picture)
    names = [name for name in ("mm_token_type_ids", "token_type_ids") if name in takes]
    return {name: of_picture for name in names if name not in found}

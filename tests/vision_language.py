"""Tiny vision-language models in the format of a model hub, with their processors and chat
templates. They have a few thousand random weights."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    LlavaProcessor,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2VLVideoProcessor,
)

from pipeline.data.checked import read_json
from pipeline.data.files import write_json
from pipeline.features.features import Features

MODELS = Path(__file__).parent / "models"
TEXTS = ["a red dog runs on grass", "two cats sit on a blue mat", "a picture of a green box"]
# Side of the input pictures in pixels. The models see them as 8 x 8 pixels.
SIDE = 12
IMAGE = {"llava": "<image>", "qwen2_5_vl": "<|image_pad|>", "paligemma": "<image>"}
SPECIALS = [
    "<eos>", "<bos>", "<pad>", "<unk>", "<image>", "<|image_pad|>", "<|video_pad|>",
    "<|vision_start|>", "<|vision_end|>", "<turn>", "</turn>",
]  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<turn>{{ m['role'] }} {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}{% endif %}{% endfor %}</turn>"
    "{% endfor %}{% if add_generation_prompt %}<turn>assistant {% endif %}"
)


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE without merges: 256 bytes and the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = {piece: n for n, piece in enumerate([*SPECIALS, *alphabet])}
    inner = Inner(models.BPE(pieces, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(SPECIALS)
    named = {"eos_token": "<eos>", "bos_token": "<bos>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **named)


def _processor(kind: str) -> Any:
    images = AutoImageProcessor.from_pretrained(MODELS / kind)
    tokenizer, mark = _tokenizer(), IMAGE[kind]
    template = TEMPLATE.replace("IMAGE", mark)
    if kind == "llava":
        sizes = {"patch_size": 4, "num_additional_image_tokens": 1}
        about = {"vision_feature_select_strategy": "default", "chat_template": template}
        return LlavaProcessor(images, tokenizer, **sizes, **about)
    if kind == "paligemma":
        images.image_seq_length = 4
        return PaliGemmaProcessor(images, tokenizer)
    tokenizer.image_token, tokenizer.video_token = mark, "<|video_pad|>"
    around = template.replace(mark, f"<|vision_start|>{mark}<|vision_end|>")
    return Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=around)


def publish(folder: Path, kind: str, seed: int = 2) -> Any:
    """Write the model of tests/models/<kind>, with random weights and its processor, into `folder`.
    Return it as a model of transformers."""
    content = read_json(MODELS / kind / "config.json")
    ids = {token: n for n, token in enumerate(SPECIALS)}
    for name in list(content):
        if name.startswith("image_token"):
            content[name] = ids[IMAGE[kind]]
    if kind == "qwen2_5_vl":
        content |= {
            "video_token_id": ids["<|video_pad|>"],
            "vision_start_token_id": ids["<|vision_start|>"],
            "vision_end_token_id": ids["<|vision_end|>"],
        }
    words = {"vocab_size": len(SPECIALS) + 256, "eos_token_id": 0, "bos_token_id": 1}
    content["text_config"] |= {**words, "pad_token_id": 2, "max_position_embeddings": 512}
    content["tie_word_embeddings"] = content["text_config"]["tie_word_embeddings"] = False
    body: Any = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**content))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in body.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.8)
    body.generation_config.eos_token_id = [0, ids["</turn>"]]
    body.generation_config.pad_token_id = 2
    body.save_pretrained(folder)
    _processor(kind).save_pretrained(folder)
    if kind == "paligemma":  # save_pretrained does not write image_seq_length.
        written = read_json(folder / "processor_config.json")
        written.setdefault("image_processor", {})["image_seq_length"] = 4
        write_json(folder / "processor_config.json", written)
    return body.eval()


def features(n: int = 4) -> Features:
    generator = torch.Generator().manual_seed(3)
    grid = torch.randint(0, 256, (n, SIDE * SIDE, 3), generator=generator).float()
    return Features(grid, grid.mean(1))

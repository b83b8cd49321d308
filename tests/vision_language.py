"""Tiny vision-language models in the format of a model hub, with their processors and chat
templates. They have a few thousand random weights."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    Blip2Processor,
    Florence2Processor,
    LlavaProcessor,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2VLVideoProcessor,
)

from pipeline.data.checked import read_json
from pipeline.data.files import write_json
from pipeline.decoders.shared.contract import Sizes
from pipeline.decoders.shared.model_folder import build_decoder, read_vocabulary
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.decoders.shared.vision_decoder import Decoder
from pipeline.features.features import Features

MODELS = Path(__file__).parent / "models"
TEXTS = ["a red dog runs on grass", "two cats sit on a blue mat", "a picture of a green box"]
PROMPT = "say it"
# Side of the input pictures in pixels. The models see them as 8 x 8 pixels.
SIDE = 12
IMAGE = {"llava": "<image>", "qwen2_5_vl": "<|image_pad|>", "paligemma": "<image>"}
IMAGE |= {"florence2": "<image>", "blip-2-t5": "<image>"}
# Tokens with which a caption of an encoder-decoder model begins.
OPENINGS = {"florence2": [2, 1], "blip-2-t5": [2]}
SPECIALS = [
    "<eos>", "<bos>", "<pad>", "<unk>", "<image>", "<|image_pad|>", "<|video_pad|>",
    "<|vision_start|>", "<|vision_end|>", "<turn>", "</turn>",
]  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<turn>{{ m['role'] }} {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}{% endif %}{% endfor %}</turn>"
    "{% endfor %}{% if add_generation_prompt %}<turn>assistant {% endif %}"
)


def _tokenizer(**more: Any) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE without merges: 256 bytes and the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = {piece: n for n, piece in enumerate([*SPECIALS, *alphabet])}
    inner = Inner(models.BPE(pieces, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(SPECIALS)
    named = {"eos_token": "<eos>", "bos_token": "<bos>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **named, **more)


def _processor(kind: str) -> Any:
    images = AutoImageProcessor.from_pretrained(MODELS / kind)
    tokenizer, mark = _tokenizer(), IMAGE[kind]
    template = TEMPLATE.replace("IMAGE", mark)
    if kind == "llava":
        sizes = {"patch_size": 4, "num_additional_image_tokens": 1}
        about = {"vision_feature_select_strategy": "default", "chat_template": template}
        return LlavaProcessor(images, tokenizer, **sizes, **about)
    if kind == "florence2":
        own = _tokenizer(extra_special_tokens={"image_token": mark})
        return Florence2Processor(images, own)
    if kind == "blip-2-t5":
        return Blip2Processor(images, tokenizer, num_query_tokens=4)
    if kind == "paligemma":
        images.image_seq_length = 4
        return PaliGemmaProcessor(images, tokenizer)
    tokenizer.image_token, tokenizer.video_token = mark, "<|video_pad|>"
    around = template.replace(mark, f"<|vision_start|>{mark}<|vision_end|>")
    return Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=around)


def publish(
    folder: Path,
    kind: str,
    seed: int = 2,
    text: dict[str, Any] | None = None,
    spread: float = 0.8,
) -> Any:
    """Write the model of tests/models/<kind>, with random weights and its processor, into `folder`.
    Return it as a model of transformers.

    Args:
        text: further keys of its text_config.
        spread: standard deviation of the weights.
    """
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
    content["text_config"] |= {**words, "pad_token_id": 2}
    if kind != "blip-2-t5":  # the positions of T5 have no limit
        content["text_config"]["max_position_embeddings"] = 512
    content["tie_word_embeddings"] = content["text_config"]["tie_word_embeddings"] = False
    content["text_config"] |= text or {}
    body: Any = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**content))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in body.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * spread)
        if kind in OPENINGS:  # or they would say one word, whatever they see
            for name, weight in body.named_parameters():
                if name.endswith("bias"):
                    weight.zero_()
                elif "norm" in name:
                    weight.fill_(1.0)
    body.generation_config.eos_token_id = [0, ids["</turn>"]]
    body.generation_config.pad_token_id = 2
    if kind in OPENINGS:
        _begin(body, OPENINGS[kind])
    body.save_pretrained(folder)
    _processor(kind).save_pretrained(folder)
    if kind == "paligemma":  # save_pretrained does not write image_seq_length.
        written = read_json(folder / "processor_config.json")
        written.setdefault("image_processor", {})["image_seq_length"] = 4
        write_json(folder / "processor_config.json", written)
    return body.eval()


def _begin(body: Any, opening: list[int]) -> None:
    """Let captions of an encoder-decoder model begin with `opening`, and end with <eos> alone."""
    told = [body.generation_config]
    body.config.get_text_config().decoder_start_token_id = opening[0]
    if hasattr(body, "language_model"):  # BLIP-2 generates with what its language model is told
        told.append(body.language_model.generation_config)
    for config in told:
        config.eos_token_id, config.pad_token_id, config.forced_eos_token_id = 0, 2, None
        config.decoder_start_token_id, *forced = opening
        config.forced_bos_token_id = forced[0] if forced else None


def features(n: int = 4) -> Features:
    generator = torch.Generator().manual_seed(3)
    grid = torch.randint(0, 256, (n, SIDE * SIDE, 3), generator=generator).float()
    return Features(grid, grid.mean(1))


def decoder_of(folder: Path) -> str:
    """Return the decoder for a model in a folder that is named after its kind."""
    return "vlm_seq2seq" if folder.name in OPENINGS else "vlm"


def opened(folder: Path, **args: Any) -> tuple[Decoder, Tokenizer, Sizes, dict[str, Any]]:
    args = {"model": str(folder), "prompt": PROMPT, **args}
    tokenizer, known = read_vocabulary(decoder_of(folder), TEXTS, 1, args, "args")
    sizes = Sizes(3, 3, len(tokenizer), known)
    torch.manual_seed(0)
    decoder = build_decoder(decoder_of(folder), sizes, args)
    decoder.load_pretrained(tokenizer)
    return decoder.eval(), tokenizer, sizes, args  # type: ignore[return-value]


def pictures(count: int) -> list[Image.Image]:
    grid = features(count).grid.view(count, SIDE, SIDE, 3).numpy().astype("uint8")
    return [Image.fromarray(picture) for picture in grid]


def tuned(decoder: Decoder) -> Decoder:
    """Return the decoder with an adapter that has an effect: at first its second factor is zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in decoder.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator))
    return decoder


def base_weights(decoder: Decoder) -> dict[str, torch.Tensor]:
    every = decoder.body.state_dict()
    return {name: weight.clone() for name, weight in every.items() if ".lora_" not in name}


def question(processor: Any) -> str:
    """Return the prompt in the model's chat template, if it has one."""
    if not processor.chat_template:
        return PROMPT
    content = [{"type": "image"}, {"type": "text", "text": PROMPT}]
    turns = [{"role": "user", "content": content}]
    return str(processor.apply_chat_template(turns, add_generation_prompt=True))


def losses_on_one_caption(decoder: Decoder, tokenizer: Tokenizer, steps: int = 24) -> list[float]:
    """Train the decoder on `a red dog` for four pictures. Return the loss of every step."""
    trained = [weight for weight in decoder.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(trained, 0.02)
    tokens = torch.tensor(tokenizer.encode(["a red dog"] * 4))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = decoder.train().loss(features(), tokens, torch.ones_like(tokens, dtype=torch.bool))
        loss.total.backward()
        optimizer.step()
        losses.append(loss.cross_entropy.item())
    return losses

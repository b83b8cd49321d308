"""Tiny captioners in the format of a model hub, and the project's decoders loaded from them. They
have a few thousand random weights, which are far from zero."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

from pipeline.data.checked import read_json
from pipeline.data.files import write_json
from pipeline.decoders.shared.contract import Sizes
from pipeline.decoders.shared.model_folder import build_decoder, read_vocabulary
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.features.features import Features

MODELS = Path(__file__).parent / "models"
TEXTS = ["a red dog runs on grass", "two cats sit on a blue mat", "a picture of a green box"]
SPECIALS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
PIECES = [
    *SPECIALS,
    *sorted({word for text in TEXTS for word in text.split()}),
    "##s",
    "##ing",
    ".",
    "'",
]
SIDE = 4
MEAN, STD = [0.5, 0.4, 0.3], [0.5, 0.25, 0.2]


def bert_tokenizer() -> Inner:
    """Return a lower-case WordPiece tokenizer that encodes a text as [CLS] words [SEP]."""
    inner = Inner(models.WordPiece({piece: n for n, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.add_special_tokens(SPECIALS)
    ends = [("[CLS]", 1), ("[SEP]", 2)]
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    return inner


def their_tokenizer(folder: Path) -> Any:
    special = {
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
    }
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)


def publish(
    folder: Path,
    kind: str,
    words: dict[str, Any],
    untied: bool = False,
    part: str = "",
    varied: bool = False,
) -> Any:
    """Write a tiny model of the kind tests/models/<kind> and its tokenizer into `folder`.

    The model reads pictures of 4 x 4 pixels.

    Args:
        words: Further values of config.json: of its section `part`, or of the top level.
        untied: The output layer does not share the weights of the word embedding.
        varied: Biases are zero and the other weights three times as large. Otherwise the random
            biases can outweigh the picture, and the model repeats one word.

    Returns:
        The model as a class of transformers.
    """
    content = read_json(MODELS / kind / "config.json")
    content["vision_config"] |= {"image_size": SIDE, "patch_size": 2}
    (content[part] if part else content).update(words)
    content["tie_word_embeddings"] = not untied
    if part:
        content[part]["tie_word_embeddings"] = not untied
    body: Any = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**content))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in body.named_parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.4)
            if varied:
                weight.mul_(0 if name.endswith("bias") else 3)
    body.save_pretrained(folder)
    bert_tokenizer().save(str(folder / "tokenizer.json"))
    write_json(folder / "preprocessor_config.json", {"image_mean": MEAN, "image_std": STD})
    return body.eval()


def read(kind: str, **args: Any) -> tuple[Tokenizer, Sizes]:
    tokenizer, known = read_vocabulary(kind, TEXTS, 1, args, "args")
    return tokenizer, Sizes(3, 3, len(tokenizer), known)


def opened(kind: str, **args: Any) -> tuple[Any, Tokenizer]:
    tokenizer, sizes = read(kind, **args)
    decoder = build_decoder(kind, sizes, args)
    decoder.load_pretrained(tokenizer)
    return decoder.eval(), tokenizer


def features(n: int = 4) -> Features:
    grid = torch.randint(
        0, 256, (n, SIDE * SIDE, 3), generator=torch.Generator().manual_seed(3)
    ).float()
    return Features(grid, grid.mean(1))


def pixels(f: Features) -> Tensor:
    """Return pixels (B, 3, S, S), normalized as the image processor of transformers does."""
    pictures = f.grid.view(-1, SIDE, SIDE, 3).permute(0, 3, 1, 2)
    return (pictures / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def captions(
    tokenizer: Tokenizer, start: list[int], rows: int = 4, length: int = 6
) -> tuple[Tensor, Tensor]:
    """Return the same random captions twice: for our decoder, (R, T), and for the model of
    transformers, whose captions begin with `start`."""
    words = torch.randint(
        4, len(PIECES), (rows, length - 1), generator=torch.Generator().manual_seed(5)
    )
    ours = torch.cat([torch.full((rows, 1), tokenizer.special.start), words], 1)
    return ours, torch.cat([torch.tensor([start]).expand(rows, -1), words], 1)

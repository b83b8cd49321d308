"""CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023) from transformers: pictures and texts in
one space.

The `model_type` in a model's config.json says which of the two it is. The pooled vector is the
picture's embedding in the space that it shares with texts. Its length is 1 unless `normalise` is
off. The grid is the patches of the last layer after the vision tower's last layer norm, without
CLIP's class token. SigLIP's own head reads the patches there, and CLIP's class token passes the
same norm before it is projected.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.errors import UserError, brief
from pipeline.core.hub import cure, unusable
from pipeline.encoders.shared.base import Shapes, shapes_of
from pipeline.features.features import Features
from pipeline.images.scaling import less_long, middle

# config.json of the models that can be costed and built at random without network access. Keys that
# are not named have their usual values.
KNOWN: dict[str, dict[str, Any]] = {
    "openai/clip-vit-base-patch32": {
        "model_type": "clip",
        "projection_dim": 512,
        "text_config": {
            "hidden_size": 512,
            "num_attention_heads": 8,
            "num_hidden_layers": 12,
            "intermediate_size": 2048,
        },
        "vision_config": {
            "hidden_size": 768,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "intermediate_size": 3072,
            "patch_size": 32,
            "image_size": 224,
        },
    },
    "openai/clip-vit-large-patch14": {
        "model_type": "clip",
        "projection_dim": 768,
        "text_config": {
            "hidden_size": 768,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "intermediate_size": 3072,
        },
        "vision_config": {
            "hidden_size": 1024,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "intermediate_size": 4096,
            "patch_size": 14,
            "image_size": 224,
        },
    },
    "google/siglip-base-patch16-224": {
        "model_type": "siglip",
        "text_config": {
            "hidden_size": 768,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "intermediate_size": 3072,
            "vocab_size": 32000,
            "max_position_embeddings": 64,
            "bos_token_id": None,
            "eos_token_id": 1,
        },
        "vision_config": {
            "hidden_size": 768,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "intermediate_size": 3072,
            "patch_size": 16,
            "image_size": 224,
        },
    },
}

# Number of texts in one pass of the text tower.
TEXTS = 256


class Encoder(nn.Module):
    """Both towers of a CLIP or SigLIP model, evaluated without gradients.

    Args:
        model: name on the hub, or a folder. The folder holds config.json and, as far as they are
            needed, weights, preprocessor_config.json and tokenizer files.
        weights: `hub` (the model's own, from the hub, its cache or the folder) or `random` (seeded,
            for tests). With `random`, the folder may hold config.json alone. Without tokenizer
            files, texts are then read byte by byte.
        normalise: scale pooled vectors to length 1. Otherwise they stay as the projection gives
            them, which ClipCap's weights expect.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, *, model: str, weights: Literal["hub", "random"] = "hub", normalise: bool = True
    ):
        super().__init__()
        self.model, self.weights, self.normalise = model, weights, normalise
        self.config = _config(model, weights)
        self.body = (
            _random(self.config, model) if weights == "random" else _published(self.config, model)
        )
        self.processor = _processor(self.config, model, weights)
        self.crops = bool(self.processor.do_center_crop)
        self.register_buffer("mean", torch.tensor(self.processor.image_mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(self.processor.image_std).view(1, 3, 1, 1) * 255)
        self.eval().requires_grad_(False)
        self._tokenizer: Any = None
        example = self._example()
        self.positions, self.grid_dim = example.grid.shape[1:]
        self.pooled_dim = example.pooled.shape[1]

    def _example(self) -> Features:
        """Return the features of one black picture, for their shapes."""
        pixels = self.transform(Image.new("RGB", (8, 8)))[None].to(self.mean.device)
        try:
            return self(pixels)
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"'{self.model}' cannot see the pictures that its own "
                f"preprocessor_config.json makes ({brief(error)}): "
                "make the sizes there agree with config.json"
            ) from None

    def transform(self, image: Image.Image) -> Tensor:
        """RGB image -> (3, S, S) uint8, scaled and cropped by the model's image processor from
        transformers, with Pillow.

        A very long picture is shortened first, because the processor would scale all of it and then
        crop.
        """
        size = self.processor.size
        image = middle(image) if size.shortest_edge else less_long(image)
        done = self.processor(image, do_rescale=False, do_normalize=False, return_tensors="np")
        return torch.tensor(done["pixel_values"][0], device="cpu")

    @torch.inference_mode()
    def forward(self, pixels: Tensor) -> Features:
        """(B, 3, S, S) uint8 -> grid (B, P, D) and pooled (B, D'), float32."""
        x = (pixels.float() - self.mean) / self.std
        with torch.autocast("cuda", torch.bfloat16, enabled=x.is_cuda):
            out = self.body.get_image_features(pixel_values=x)
            grid = out.last_hidden_state
            if self.config.model_type == "clip":
                grid = self.body.vision_model.post_layernorm(grid[:, 1:])
        pooled = out.pooler_output.float()
        return Features(grid.float(), F.normalize(pooled, dim=-1) if self.normalise else pooled)

    @torch.inference_mode()
    def texts(self, texts: list[str]) -> Tensor:
        """N texts -> their embeddings (N, D') of length 1, float32. A text that is too long for the
        model is truncated."""
        parts = [self._texts(texts[start : start + TEXTS]) for start in range(0, len(texts), TEXTS)]
        return torch.cat(parts) if parts else self.mean.new_zeros(0, self.pooled_dim)

    def _texts(self, texts: list[str]) -> Tensor:
        """Embed texts in one pass. SigLIP was trained on texts padded to its full length, and sees
        the padding."""
        padding = "max_length" if self.config.model_type == "siglip" else "longest"
        longest = self.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            texts, padding=padding, truncation=True, max_length=longest, return_tensors="pt"
        )
        ids = tokens["input_ids"].to(self.mean.device)
        with torch.autocast("cuda", torch.bfloat16, enabled=ids.is_cuda):
            out = self.body.get_text_features(input_ids=ids)
        return F.normalize(out.pooler_output.float(), dim=-1)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the text tower. It is loaded for the first text, because pictures need
        none."""
        if self._tokenizer is None:
            self._tokenizer = _tokenizer(self.config, self.model, self.weights)
        return self._tokenizer


def shapes(**args: Any) -> Shapes:
    return shapes_of(Encoder, **{**args, "weights": "random"})


def _config(model: str, weights: str) -> Any:
    """Return the model's config.json as a config object of transformers."""
    known = weights == "random" and model in KNOWN and not Path(model).is_dir()
    content = KNOWN[model] if known else _config_json(model)
    kind = content.get("model_type")
    if kind not in ("clip", "siglip"):
        raise UserError(
            f"'{model}' is a model of type '{kind}': this encoder takes clip and siglip "
            "(see its config.json)"
        )
    from transformers import CLIPConfig, SiglipConfig

    try:
        return (CLIPConfig if kind == "clip" else SiglipConfig).from_dict(content)
    except Exception as error:  # transformers' checks of a config have exceptions of their own
        raise UserError(f"config.json of '{model}' cannot be used ({brief(error)})") from None


def _config_json(model: str) -> dict[str, Any]:
    folder = Path(model)
    if not folder.is_dir():
        _fetchable(model)
        from transformers import PreTrainedConfig

        return _from_hub(model, lambda: PreTrainedConfig.get_config_dict(model)[0])
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"{folder} has no config.json: {cure(model)}")
    try:
        content = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({brief(error)})") from None
    return content if isinstance(content, dict) else {}


def _fetchable(model: str) -> None:
    """Raise a UserError unless `model` can be a name on the hub."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(model)
    except HFValidationError:
        raise UserError(
            f"model '{model}': no such folder, and no name on the hub (owner/name)"
        ) from None


def _from_hub(model: str, load: Callable[[], Any]) -> Any:
    """Return what `load` reads from the hub, its cache or the folder `model`."""
    try:
        return load()
    except Exception as error:  # transformers, the hub and the network fail in many ways
        instead = "name a local folder as `model`"
        raise unusable(f"'{model}'", model, error, instead) from None


def _class(config: Any) -> Any:
    from transformers import CLIPModel, SiglipModel

    return CLIPModel if config.model_type == "clip" else SiglipModel


def _random(config: Any, model: str) -> Any:
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return _class(config)(config)
    except Exception as error:
        raise UserError(
            f"config.json of '{model}' describes no model that can be built ({brief(error)})"
        ) from None


def _published(config: Any, model: str) -> Any:
    """Return the model with all of its weights. transformers would fill missing ones at random,
    with a warning."""
    with torch.random.fork_rng():
        load = _class(config).from_pretrained
        body, info = _from_hub(
            model, lambda: load(model, config=config, dtype=torch.float32, output_loading_info=True)
        )
    wrong = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if wrong:
        raise UserError(
            f"the weights of '{model}' lack {len(wrong)} parts of the model (first: {wrong[0]})"
        )
    return body


def _processor(config: Any, model: str, weights: str) -> Any:
    """Return the model's image processor from transformers in its Pillow form, with which the
    models were trained."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    cls = CLIPImageProcessorPil if config.model_type == "clip" else SiglipImageProcessorPil
    if weights != "random" or (Path(model) / "preprocessor_config.json").is_file():
        return _from_hub(model, lambda: cls.from_pretrained(model))
    side = config.vision_config.image_size
    square = {"height": side, "width": side}
    return (
        cls(size={"shortest_edge": side}, crop_size=square)
        if config.model_type == "clip"
        else cls(size=square)
    )


def _tokenizer(config: Any, model: str, weights: str) -> Any:
    from transformers import AutoTokenizer

    if weights == "random" and not any(
        (Path(model) / name).is_file() for name in ("tokenizer.json", "vocab.json")
    ):
        return _byte_tokenizer(config)
    tokenizer = _from_hub(model, lambda: AutoTokenizer.from_pretrained(model))
    if len(tokenizer) < 256:
        # Without files, transformers builds a tokenizer that knows only its special tokens.
        raise UserError(
            f"'{model}' has no tokenizer files: put tokenizer.json there, or vocab.json "
            "and merges.txt"
        )
    return tokenizer


def _byte_tokenizer(config: Any) -> Any:
    """Return CLIP's tokenizer without its merges, for tests only. It has one token per byte, the
    first 512 entries of its vocabulary."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    text = config.text_config
    if text.vocab_size < 514:
        raise UserError(
            f"text_config.vocab_size is {text.vocab_size}: texts read byte by byte need 514 or more"
        )
    end = text.eos_token_id if 513 <= text.eos_token_id < text.vocab_size else text.vocab_size - 1
    letters = sorted(ByteLevel.alphabet())
    vocabulary = {
        token: n for n, token in enumerate(letters + [f"{letter}</w>" for letter in letters])
    }
    return CLIPTokenizer(
        vocab={**vocabulary, "<|startoftext|>": end - 1, "<|endoftext|>": end}, merges=[]
    )

"""A captioner as a model of transformers.

It is loaded with `AutoModel.from_pretrained(folder, trust_remote_code=True)`. An exported folder
holds this file as modeling_captionlab.py, with its own decoder and encoder in place of the two that
are imported here. Every file that it imports lies flat beside it.
"""

import json
from functools import cache
from pathlib import Path
from shutil import copymode
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BatchFeature, PreTrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils import cached_file

from pipeline.captioning.captions import Caption, caption_features
from pipeline.decoders.merge import Decoder
from pipeline.decoders.shared.contract import Sizes
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.encoders.timm_model import Encoder
from pipeline.features.features import Features
from pipeline.features.quantise import as_stored
from pipeline.images.reading import read_image

# Arguments that say where files come from.
HUB = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
# Files of a model other than its weights, its config and its code.
BESIDE = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "README.md")


class CaptionlabConfig(PreTrainedConfig):
    """The config of an exported captioner.

    `captioner` holds what the project keeps in a model's config.json (encoder, decoder, sizes), and
    `decode`.
    """

    model_type = "captionlab"

    def __init__(self, captioner: dict[str, Any] | None = None, **others: Any):
        self.captioner = captioner or {}
        super().__init__(**others)


class CaptionlabImageProcessor(ImageProcessingMixin):
    """Turns pictures into the pixels of `CaptionlabModel.forward`, as the project does."""

    model_input_names: ClassVar = ["pixel_values"]

    def __init__(self, encoder: dict[str, Any] | None = None, **others: Any):
        """Make the processor of an encoder.

        Args:
            encoder: arguments of the encoder.
        """
        self.encoder = encoder or {}
        super().__init__(**others)

    def __call__(self, images: Any, return_tensors: Any = None, **_: Any) -> BatchFeature:
        """Return pixel_values (B, 3, S, S), uint8.

        Args:
            images: one picture, or a list of pictures: paths, bytes, PIL images or arrays.

        Raises:
            ImageError: one of the pictures cannot be read.
        """
        transform = _encoder(json.dumps(self.encoder)).transform
        several = images if isinstance(images, list | tuple) else [images]
        pixels = torch.stack([transform(opened(image)) for image in several])
        return BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)


@cache
def _encoder(args: str) -> Encoder:
    """Return an encoder for its `transform` alone; its weights may be random."""
    return Encoder(**json.loads(args))


def opened(image: Any) -> Any:
    """Return a picture as RGB and upright. A string is a path."""
    return read_image(Path(image) if isinstance(image, str) else image)


class CaptionlabModel(PreTrainedModel):
    config_class = CaptionlabConfig
    main_input_name = "pixel_values"

    def __init__(self, config: CaptionlabConfig):
        super().__init__(config)
        about = config.captioner
        self.encoder = Encoder(**about["encoder"]["args"])
        self.decoder = Decoder(Sizes(**about["sizes"]), **about["args"])
        self.tokenizer: Tokenizer | None = None
        self.beside: dict[str, bytes] = {}
        self.post_init()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, name: str, *_: Any, config: Any = None, **options: Any
    ) -> "CaptionlabModel":
        """Build the whole model, then load its weights.

        transformers' own way leaves tensors empty that are no weights, such as a mask.
        """
        hub = {key: value for key, value in options.items() if key in HUB}
        model = cls(config or CaptionlabConfig.from_pretrained(name, **hub))
        weights, *beside = (
            Path(str(cached_file(name, file, **hub))) for file in ("model.safetensors", *BESIDE)
        )
        model.load_state_dict(load_file(weights))
        model.tokenizer = Tokenizer.load(beside[0])
        model.beside = {file.name: file.read_bytes() for file in beside}
        return model.eval().requires_grad_(False)

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        """Return logits (B, T, V).

        Args:
            pixel_values: pixels (B, 3, S, S) from `CaptionlabImageProcessor`, uint8.
            input_ids: tokens (B, T), starting with <start>.
        """
        return self.decoder(self.features(pixel_values), input_ids)

    def features(self, pixel_values: Tensor) -> Features:
        return as_stored(
            self.encoder(pixel_values), self.config.captioner["encoder"].get("dtype", "float16")
        )

    def caption(self, images: Any, **decode: Any) -> Any:
        """Caption pictures: paths, bytes, PIL images or arrays.

        Args:
            images: one picture, or a list of pictures.
            decode: overrides of the model's own decoding; `beam=1` is greedy.

        Returns:
            A string for one picture, a list of strings for a list.

        Raises:
            ImageError: one of the pictures cannot be read.

        Example:
            >>> model.caption("photo.jpg")
            'a dog runs through the grass'
        """
        one = not isinstance(images, list | tuple)
        texts = [caption.text for caption in self.captions([images] if one else images, **decode)]
        return texts[0] if one else texts

    @torch.inference_mode()
    def captions(self, images: list[Any], **decode: Any) -> list[Caption]:
        """Caption a list of pictures like `caption`, with log-probability and alternatives."""
        assert self.tokenizer
        pixels = [self.encoder.transform(opened(image)) for image in images]
        f = self.features(torch.stack(pixels).to(self.device))
        return caption_features(
            self.decoder, self.tokenizer, f, {**self.config.captioner["decode"], **decode}
        )

    def save_pretrained(self, save_directory: Any, *_: Any, **options: Any) -> None:
        """Write the whole folder: weights, config, tokenizer, card and code.

        `from_pretrained` reads the folder again, and `push_to_hub` publishes it.

        Args:
            options: the options of transformers, which are ignored.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.beside.items():
            (folder / name).write_bytes(content)
        custom_object_save(self, folder, config=self.config)  # type: ignore[arg-type]
        self.config.save_pretrained(folder)
        # Each tensor is copied: safetensors refuses tensors that share memory, as tied weights do.
        save_file(
            {k: v.detach().cpu().clone().contiguous() for k, v in self.state_dict().items()},
            folder / "model.safetensors",
            metadata={"format": "pt"},
        )
        # Permissions follow the umask; safetensors gives its files to their owner alone.
        copymode(folder / "config.json", folder / "model.safetensors")

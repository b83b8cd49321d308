"""Images -> captions with a model folder: what the command line, MLflow and the page call."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.decode import Caption, caption_features
from pipeline.decoders.base import Decoder
from pipeline.devices import pick_device
from pipeline.encoders.base import Encoder, Features
from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.images import read_image, upright_rgb
from pipeline.model import load_model
from pipeline.registry import load
from pipeline.tokenizers import Tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image


GREEDY = {"beam": 1, "max_tokens": 50, "length_penalty": 0.0, "alternatives": 1}
GREEDY |= {"samples": 0, "temperature": 1.0, "top_k": 0, "seed": 1}


class Captioner:
    """A trained decoder with its encoder."""

    def __init__(self, encoder: Encoder, decoder: Decoder, tokenizer: Tokenizer, decode: dict[str, Any], device: str):
        self.encoder, self.decoder, self.tokenizer, self.decode, self.device = encoder, decoder, tokenizer, decode, device

    @classmethod
    def load(cls, folder: Path, device: str | None = None, decode: dict[str, Any] | None = None) -> "Captioner":
        """Open models/<variant>/ or a copy of it.

        Args:
            decode: the keys of params.yaml's `decode`; else the folder's decode.json, else greedy.
        """
        device = device or pick_device()
        decoder, tokenizer, config = load_model(Path(folder), device)
        encoder = load("encoders", config["encoder"]["name"]).Encoder(**config["encoder"]["args"]).to(device)
        if decode is None:
            file = Path(folder) / "decode.json"
            decode = {**GREEDY, **(read_json(file) if file.is_file() else {})}  # older models do not tell of samples
        return cls(encoder, decoder, tokenizer, decode, device)

    def caption(
        self, images: "Sequence[bytes | Path | Image]", beam: int | None = None, samples: int | None = None
    ) -> list[Caption]:
        """One caption per image, decoded as in training's `decode` unless `beam` or `samples` says otherwise.

        Raises:
            ImageError: an image cannot be read.
        """
        import torch

        if not images:
            return []
        pixels = torch.stack([self.encoder.transform(self._read(image)) for image in images])
        f = self.encoder(pixels.to(self.device))
        f = Features(f.grid.half().float(), f.pooled.half().float())  # features are stored as float16: the same here
        return caption_features(self.decoder, self.tokenizer, f, self._decoding(beam, samples))

    def _decoding(self, beam: int | None, samples: int | None) -> dict[str, Any]:
        if beam and samples:
            raise UserError("a beam searches and samples are drawn: name one of beam and samples")
        if beam:
            return {**self.decode, "beam": beam, "samples": 0}
        return {**self.decode, "samples": samples} if samples else self.decode

    @staticmethod
    def _read(image: "bytes | Path | Image") -> "Image":
        return read_image(image) if isinstance(image, bytes | Path) else upright_rgb(image)

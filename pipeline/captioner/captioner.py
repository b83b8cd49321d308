"""Images -> captions with a model folder: what the command line, MLflow and the page call."""

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.captioner.served import ServedPicture
from pipeline.captioning.attention import explain
from pipeline.captioning.captions import Caption, caption_features
from pipeline.core.errors import UserError
from pipeline.core.machine import pick_device
from pipeline.core.registry import check_args, load
from pipeline.data.checked import read_json
from pipeline.decoders.shared.contract import Decoder
from pipeline.decoders.shared.model_folder import load_model, read_config
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.encoders.shared.base import Encoder
from pipeline.features.features import Features
from pipeline.features.quantise import as_stored
from pipeline.images.reading import ImageError, read_image

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    Picture = bytes | Path | Image | np.ndarray

BATCH = 32
"pictures in one forward pass; what is said of a picture does not depend on it"
GREEDY = {"beam": 1, "max_tokens": 50, "length_penalty": 0.0, "alternatives": 1}
GREEDY |= {"samples": 0, "temperature": 1.0, "top_k": 0, "seed": 1}


class Captioner:
    """A trained decoder with its encoder; `config` is its config.json, `card` its README.md or
    ''."""

    config: dict[str, Any]
    card: str

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        tokenizer: Tokenizer,
        decode: dict[str, Any],
        device: str,
    ):
        self.encoder, self.decoder, self.tokenizer, self.decode, self.device = (
            encoder,
            decoder,
            tokenizer,
            decode,
            device,
        )

    @classmethod
    def load(
        cls, folder: Path, device: str | None = None, decode: dict[str, Any] | None = None
    ) -> "Captioner":
        """Open models/<variant>/ or a copy of it.

        Args:
            decode: the keys of params.yaml's `decode`; else the folder's decode.json, else greedy.
        """
        device = device or pick_device()
        decoder, tokenizer, config = load_model(Path(folder), device)
        about = read_config(Path(folder))["encoder"]
        build = load("encoders", about["name"]).Encoder
        check_args(build.__init__, about["args"], f"{folder}/config.json: encoder.args")
        encoder = build(**about["args"]).to(device)
        if decode is None:
            decode = _decode_of(Path(folder) / "decode.json")
        captioner, card = (
            cls(encoder, decoder, tokenizer, decode, device),
            Path(folder) / "README.md",
        )
        captioner.config, captioner.card = config, card.read_text("utf-8") if card.is_file() else ""
        return captioner

    def caption(
        self, images: "Sequence[Picture]", beam: int | None = None, samples: int | None = None
    ) -> list[Caption]:
        """One caption per image, decoded as in training's `decode` unless `beam` or `samples` says
        otherwise.

        Args:
            images: content of picture files, their paths, opened pictures, or arrays (H, W, 3) of 0
                to 255.

        Raises:
            ImageError: an image cannot be read.
        """
        found = self.caption_each(images, beam, samples)
        for caption in found:
            if isinstance(caption, ImageError):
                raise caption
        return [caption for caption in found if isinstance(caption, Caption)]

    def caption_each(
        self, images: "Sequence[Picture]", beam: int | None = None, samples: int | None = None
    ) -> list[Caption | ImageError]:
        """Like `caption`, but an image that cannot be read has the reason in its place, and the
        others their captions."""
        decoding = self._decoding(beam, samples)
        found: list[Caption | ImageError] = []
        for start in range(0, len(images), BATCH):
            pixels = [self.prepare(image) for image in images[start : start + BATCH]]
            captions = iter(
                self._say([p for p in pixels if not isinstance(p, ImageError)], decoding)
            )
            found += [p if isinstance(p, ImageError) else next(captions) for p in pixels]
        return found

    def decoding_as(self, **keys: Any) -> "Captioner":
        """The same weights with other values for some keys of `decode`."""
        other = copy(self)
        other.decode = {**self.decode, **keys}
        return other

    def attention(self, image: "Picture", text: str) -> list[tuple[str, list[float]]]:
        """Each word of this image's caption with its weights (P,), as `explain` gives them.

        Raises:
            ImageError: the image cannot be read.
        """
        f = self.encoder(self.encoder.transform(read_image(image))[None].to(self.device))
        return explain(self.decoder, self.tokenizer, self.as_stored(f), text)

    def prepare(self, image: "Picture | ServedPicture") -> "Tensor | ImageError":
        """What the encoder takes, (3, S, S) uint8, or why the picture cannot be read."""
        try:
            return self.encoder.transform(_read(image))
        except ImageError as error:
            return error

    def say(self, pixels: "list[Tensor]") -> list[Caption]:
        """One caption for each of what `prepare` gave."""
        return self._say(pixels, self.decode)

    def _say(self, pixels: "list[Tensor]", decoding: dict[str, Any]) -> list[Caption]:
        import torch

        if not pixels:
            return []
        f = self.encoder(torch.stack(pixels).to(self.device))
        return caption_features(self.decoder, self.tokenizer, self.as_stored(f), decoding)

    def as_stored(self, f: Features) -> Features:
        """Rounded as those were that the decoder learned from."""
        return as_stored(f, self.config["encoder"].get("dtype", "float16"))

    def _decoding(self, beam: int | None, samples: int | None) -> dict[str, Any]:
        if beam and samples:
            raise UserError("a beam searches and samples are drawn: name one of beam and samples")
        if beam:
            return {**self.decode, "beam": beam, "samples": 0}
        return {**self.decode, "samples": samples} if samples else self.decode


def _decode_of(file: Path) -> dict[str, Any]:
    """What the model was scored with; greedy where the folder does not say. Older models do not
    tell of samples.

    Raises:
        UserError: a key that is none, or a value that `decode` in params.yaml may not have.
    """
    return whole_decode(read_json(file) if file.is_file() else {}, file, "dvc repro writes it anew")


def whole_decode(told: Any, file: Path, cure: str) -> dict[str, Any]:
    """What a file tells of decoding, with greedy search's values for what it does not.

    Raises:
        UserError: as for `_decode_of`; `cure` is its end.
    """
    from pipeline.experiment.params import Decoding, problems_of

    whole = {"also": [], **GREEDY, **told} if isinstance(told, dict) else told
    if problems := problems_of(Decoding, whole):
        raise UserError(f"{file}: {'; '.join(problems)}: {cure}")
    return {**GREEDY, **told}


def _read(image: "Picture | ServedPicture") -> "Image":
    return image.decode() if isinstance(image, ServedPicture) else read_image(image)

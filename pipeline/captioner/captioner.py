"""Images -> captions with a model folder. The command line, MLflow and the page call this."""

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

# Number of pictures in one forward pass. The caption of a picture does not depend on it.
BATCH = 32
GREEDY = {"beam": 1, "max_tokens": 50, "length_penalty": 0.0, "alternatives": 1}
GREEDY |= {"samples": 0, "temperature": 1.0, "top_k": 0, "seed": 1}


class Captioner:
    """A trained decoder with its encoder.

    `config` is its config.json; `card` is its README.md, or '' if there is none.
    """

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
            decode: the keys of params.yaml's `decode`. The default is the folder's decode.json, or
                else greedy search.
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
        """Return one caption per image.

        Decoding follows the model's `decode` settings unless `beam` or `samples` overrides them.

        Args:
            images: contents of picture files, their paths, opened pictures, or arrays (H, W, 3) of
                0 to 255.

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
        """Like `caption`, but return the error in place of an image that cannot be read.

        The other images get their captions.
        """
        decoding = self._decoding(beam, samples)
        found: list[Caption | ImageError] = []
        for start in range(0, len(images), BATCH):
            pixels = [self.prepare(image) for image in images[start : start + BATCH]]
            captions = iter(
                self.say_with([p for p in pixels if not isinstance(p, ImageError)], decoding)
            )
            found += [p if isinstance(p, ImageError) else next(captions) for p in pixels]
        return found

    def decoding_as(self, **keys: Any) -> "Captioner":
        """Return a captioner with the same weights and other values for some keys of `decode`."""
        other = copy(self)
        other.decode = {**self.decode, **keys}
        return other

    def attention(self, image: "Picture", text: str) -> list[tuple[str, list[float]]]:
        """Return each word of this image's caption with its weights (P,), as `explain` does.

        Raises:
            ImageError: the image cannot be read.
        """
        f = self.encoder(self.encoder.transform(read_image(image))[None].to(self.device))
        return explain(self.decoder, self.tokenizer, self.as_stored(f), text)

    def prepare(self, image: "Picture | ServedPicture") -> "Tensor | ImageError":
        """Return the encoder's input, (3, S, S) uint8, or the error if the picture cannot be
        read."""
        try:
            return self.encoder.transform(_read(image))
        except ImageError as error:
            return error

    def say(self, pixels: "list[Tensor]") -> list[Caption]:
        """Return one caption for each result of `prepare`."""
        return self.say_with(pixels, self.decode)

    def say_with(self, pixels: "list[Tensor]", decoding: dict[str, Any]) -> list[Caption]:
        """Do the same with other settings than `decode`."""
        import torch

        if not pixels:
            return []
        f = self.encoder(torch.stack(pixels).to(self.device))
        return caption_features(self.decoder, self.tokenizer, self.as_stored(f), decoding)

    def as_stored(self, f: Features) -> Features:
        """Round features like those that the decoder learned from."""
        return as_stored(f, self.config["encoder"].get("dtype", "float16"))

    def _decoding(self, beam: int | None, samples: int | None) -> dict[str, Any]:
        if beam and samples:
            raise UserError("beam and samples exclude each other: give only one")
        if beam:
            return {**self.decode, "beam": beam, "samples": 0}
        return {**self.decode, "samples": samples} if samples else self.decode


def _decode_of(file: Path) -> dict[str, Any]:
    """Return the settings that the model was scored with; greedy search if the folder does not say.

    Older models do not mention samples.

    Raises:
        UserError: a key is unknown, or a value is not allowed for `decode` in params.yaml.
    """
    return whole_decode(read_json(file) if file.is_file() else {}, file, "dvc repro writes it anew")


def whole_decode(told: Any, file: Path, cure: str) -> dict[str, Any]:
    """Return the decoding settings of a file, with the values of greedy search for missing ones.

    Raises:
        UserError: as for `_decode_of`; the message ends with `cure`.
    """
    from pipeline.experiment.params import Decoding, problems_of

    whole = {"also": [], **GREEDY, **told} if isinstance(told, dict) else told
    if problems := problems_of(Decoding, whole):
        raise UserError(f"{file}: {'; '.join(problems)}: {cure}")
    return {**GREEDY, **told}


def _read(image: "Picture | ServedPicture") -> "Image":
    return image.decode() if isinstance(image, ServedPicture) else read_image(image)

"""Caption pictures from Python: load a trained model by name, and get an answer per picture."""

import math
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from captionlab.extras import named_extras
from pipeline.core.errors import UserError, one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from pipeline.captioner.captioner import Captioner as Model
    from pipeline.captioning.captions import Alternative

    Picture: TypeAlias = str | os.PathLike[str] | bytes | NDArray[Any] | Image
    Word: TypeAlias = tuple[str, NDArray[np.float64]]

FORMS = "a path, the bytes of a picture file, an array (H, W, 3) or a PIL image"


@dataclass(frozen=True)
class Caption:
    """A model's caption of one picture, or the reason why there is none."""

    image: str
    "The path of the picture. A picture without a path has its position in the call, from 0."
    text: str = ""
    "The caption; '' if the picture cannot be read."
    log_prob: float = math.nan
    "Natural logarithm of the probability of the whole caption, including its end token."
    alternatives: "list[Alternative]" = field(default_factory=list)
    """The best captions, starting with `text` itself. Each has `text`, `log_prob` and the `score`
    that orders them: log_prob / tokens ** length_penalty, or the decoder's own judgement of a
    sample."""
    attention: "list[Word] | None" = None
    """Each word with the decoder's attention weights over the picture: an array of shape
    (rows, columns) that sums to 1. None if attention was not requested, or if the decoder does not
    attend to places of a picture."""
    error: str = ""
    "Why the picture cannot be read; '' if it has a caption."


class Captioner:
    """A trained model.

    Example:
        >>> from captionlab import Captioner
        >>> captioner = Captioner.load("champion")
        >>> captioner.caption("photo.jpg")[0].text
        'a brown dog runs on the beach'
    """

    def __init__(self, model: "Model", name: str):
        self.model = model
        "The pipeline's captioner: encoder, decoder, tokenizer and config."
        self.name = name
        "The name by which the model was requested."

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] = "champion",
        *,
        dataset: str | None = None,
        device: str | None = None,
    ) -> "Captioner":
        """Open a model from the workspace in the current folder, from MLflow, or from any folder.

        The model decodes as it does for the result tables. A variant of the workspace decodes as
        params.yaml says. Any other model decodes as its own decode.json says. One without that file
        decodes as params.yaml of its own workspace says, or else greedily.

        Args:
            model: champion, a variant, a model folder, `runs:/RUN/captioner`,
                `models:/NAME/VERSION` or `models:/NAME@ALIAS`.
            dataset: data set whose champion to load; required if several data sets have one.
            device: name of a torch device; by default the fastest available.

        Raises:
            UserError: there is no such model, MLflow does not answer, or a package is not
                installed.

        Example:
            >>> Captioner.load("soft-attention").decoding["beam"]
            3
        """
        name = os.fspath(model)
        with named_extras(), warnings.catch_warnings():
            # Libraries draw their progress with widgets, which a notebook may lack.
            warnings.filterwarnings("ignore", message="IProgress not found")
            from captionlab.models import open_captioner

            return cls(open_captioner(name, dataset, device), name)

    @property
    def decoding(self) -> dict[str, Any]:
        """The decoding options, unless a call overrides them: the keys of `decode` in params.yaml.

        Example:
            >>> captioner.decoding["max_tokens"]
            30
        """
        return dict(self.model.decode)

    def caption(
        self,
        images: "Picture | Iterable[Picture]",
        *,
        beam: int | None = None,
        samples: int | None = None,
        alternatives: int | None = None,
        attention: bool = False,
    ) -> list[Caption]:
        """Return one answer per picture, in order. A broken picture has the reason in `error`.

        Args:
            images: one or more pictures: paths, bytes of picture files, arrays (H, W, 3) of 0 to
                255, PIL images. A folder stands for all pictures below it.
            beam: width of the beam search; 1 is greedy.
            samples: number of captions drawn per picture; the best is kept.
            alternatives: number of captions kept per picture, at most `beam` or `samples`.
            attention: also return where the decoder looked for each word; takes a second pass.

        Raises:
            UserError: there are no pictures, a value is not a picture, a folder has no pictures,
                or the numbers contradict each other.

        Example:
            >>> captions = captioner.caption("photos/", beam=5, alternatives=3)
            >>> [(c.image, c.text or c.error) for c in captions]
            [('photos/1.jpg', 'a dog runs'), ('photos/2.jpg', 'truncated')]
        """
        pictures = list(_pictures(images))
        if not pictures:
            raise UserError(f"no pictures to caption: give {FORMS}, or a folder")
        model = self._decoding_with(beam, samples, alternatives)
        found = model.caption_each([picture for _, picture in pictures], beam, samples)
        return [
            _error(name, said)
            if isinstance(said, UserError)
            else Caption(
                name,
                said.text,
                said.log_prob,
                said.alternatives,
                _attention(model, picture, said.text) if attention else None,
            )
            for (name, picture), said in zip(pictures, found, strict=True)
        ]

    def _decoding_with(
        self, beam: int | None, samples: int | None, alternatives: int | None
    ) -> "Model":
        numbers = {"beam": beam, "samples": samples, "alternatives": alternatives}
        for name, number in numbers.items():
            if number is not None and number < 1:
                raise UserError(f"{name} is {number}: give 1 or more")
        if alternatives is None:
            return self.model
        own = self.model.decode
        width = beam or samples or own["samples"] or own["beam"]
        if alternatives > width:
            way = "samples" if samples or (own["samples"] and not beam) else "beam"
            raise UserError(
                f"alternatives is {alternatives}, but {way} is {width}: give a larger {way}"
            )
        return self.model.decoding_as(alternatives=alternatives)


def _error(name: str, reason: UserError) -> Caption:
    return Caption(name, error=one_line(reason))


def _pictures(images: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, picture) for each picture given, including those in folders."""
    listed = [images] if _is_picture(images) else images
    if not isinstance(listed, Iterable):
        raise UserError(
            f"one of type {type(images).__name__} is not a picture: give {FORMS}, or a folder"
        )
    for position, picture in enumerate(listed):
        if not _is_picture(picture):
            kind = type(picture).__name__
            raise UserError(f"picture {position} is of type {kind}: give {FORMS}, or a folder")
        if isinstance(picture, str | os.PathLike):
            yield from _files(Path(picture))
        else:
            yield str(position), picture


def _is_picture(value: Any) -> bool:
    import numpy as np
    from PIL.Image import Image

    # an array with more axes holds several pictures
    return isinstance(value, str | os.PathLike | bytes | Image) or (
        isinstance(value, np.ndarray) and value.ndim < 4
    )


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    from pipeline.captioner.folder import find_images

    for name in find_images([path]) if path.is_dir() else [str(path)]:
        yield name, Path(name)


def _attention(model: "Model", picture: Any, text: str) -> "list[Word] | None":
    import numpy as np

    from pipeline.captioning.attention import grid_shape

    words = model.attention(picture, text)
    shape = grid_shape(len(words[0][1])) if words else None
    if shape is None:
        return None
    return [(word, np.array(weights).reshape(shape)) for word, weights in words]

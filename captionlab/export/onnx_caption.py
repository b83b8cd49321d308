"""Caption pictures with onnxruntime: `python caption.py photo.jpg ...` in an exported folder.

This needs onnxruntime, numpy, pillow and tokenizers, but not torch. Of the code that trained the
model, it needs only the files beside this one. They read and scale pictures, and search, as the
project does.

There are three graphs. `encoder` takes pixels (B, 3, S, S), 0-255. `start` turns features into the
state before the first word. `step` reads one word per row. Captions are decoded as `decode` of
config.json says, which is how the model was scored.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer

from captionlab.export.onnx_search import Array, Hypothesis, State, beam_search, chances_of, sample
from pipeline.core.errors import UserError, one_line, printable, say, show_all
from pipeline.images.reading import ImageError, read_image
from pipeline.images.scaling import square

# Pictures in one pass of the graphs.
BATCH = 32


# Keys of config.json that captioning needs, and those of its `decode`.
KEYS = {"image", "reads", "dtype", "start", "end", "never", "decode"}
DECODE = {"beam", "max_tokens", "length_penalty", "samples", "temperature", "top_k", "seed"}


class Captioner:
    def __init__(self, folder: Path = Path(__file__).parent):
        """Read the exported folder.

        Raises:
            UserError: one of its files is missing, damaged or does not fit the others.
        """
        self.about = _config(folder / "config.json")
        needed = ["encoder"] if self.about["image"] else []
        self.graphs = {
            name: _opened(onnxruntime.InferenceSession, folder / f"{name}.onnx")
            for name in [*needed, "start", "step"]
        }
        self.tokenizer = _opened(Tokenizer.from_file, folder / "tokenizer.json")
        words = self.tokenizer.get_vocab_size()
        if words <= max(self.about["start"], self.about["end"], *self.about["never"]):
            raise _damaged(folder / "tokenizer.json", f"it has {words} words")

    def __call__(self, images: Sequence[Path | Image.Image], **decode: Any) -> list[str]:
        """Return one caption per image.

        Args:
            decode: as for `captions`.

        Raises:
            ImageError: an image cannot be read.
        """
        pixels = np.stack([self.pixels(image) for image in images])
        return self.captions(*self.run("encoder", {"pixels": pixels}).values(), **decode)

    def pixels(self, image: Path | Image.Image) -> Array:
        """Return the pixels of an image, (3, S, S) uint8."""
        about = self.about["image"]
        if about is None:
            raise SystemExit(
                "this model was exported without its encoder: give `captions` its features"
            )
        resampling = Image.Resampling[about["resampling"]]
        picture = square(read_image(image), about["side"], about["resize"], resampling)
        return np.asarray(picture).transpose(2, 0, 1)

    def caption_each(
        self, images: Sequence[Path | Image.Image], **decode: Any
    ) -> Iterator[tuple[Path | Image.Image, str | ImageError]]:
        """Yield each image with its caption, or with the error if it cannot be read."""
        for start in range(0, len(images), BATCH):
            some = images[start : start + BATCH]
            pixels = [self._read(image) for image in some]
            good = [p for p in pixels if not isinstance(p, ImageError)]
            found = self.run("encoder", {"pixels": np.stack(good)}).values() if good else ()
            texts = iter(self.captions(*found, **decode) if good else [])
            for image, p in zip(some, pixels, strict=True):
                yield image, p if isinstance(p, ImageError) else next(texts)

    def _read(self, image: Path | Image.Image) -> Array | ImageError:
        try:
            return self.pixels(image)
        except ImageError as error:
            return error

    def captions(self, grid: Array, pooled: Array, **decode: Any) -> list[str]:
        """Return the captions for features (B, P, D) and (B, D').

        Args:
            decode: overrides of the model's own decoding: beam (1 is greedy), max_tokens,
                length_penalty, samples (0 searches), temperature, top_k, seed.
        """
        found = self.hypotheses(grid, pooled, **decode)
        texts = [self.tokenizer.decode(h[0].tokens, skip_special_tokens=True) for h in found]
        return [" ".join(text.split()) for text in texts]

    def hypotheses(self, grid: Array, pooled: Array, **decode: Any) -> list[list[Hypothesis]]:
        """Return the hypotheses of each picture, best first.

        Raises:
            UserError: the model's probabilities are not finite for a picture.
        """
        how = {**self.about["decode"], **decode}
        if unknown := decode.keys() - self.about["decode"].keys():
            known = ", ".join(self.about["decode"])
            raise TypeError(f"unknown: {', '.join(sorted(unknown))}; decoding has {known}")
        grid, pooled = self.as_stored(grid), self.as_stored(pooled)
        state = self.run("start", {"grid": grid, "pooled": pooled})
        special = self.about["start"], self.about["end"]
        longest, penalty = how["max_tokens"], how["length_penalty"]
        if not how["samples"]:
            search = (how["beam"], longest, penalty)
            return _finite(beam_search(self.step, state, len(pooled), *special, *search))
        read = [{"grid": grid, "pooled": pooled}[part] for part in self.about["reads"]]
        chances = chances_of(read, how["samples"], longest, how["seed"])
        draw = (how["temperature"], how["top_k"], penalty)
        return _finite(sample(self.step, state, chances, *special, *draw))

    def step(self, words: Array, state: State) -> tuple[Array, State]:
        """Return log-probabilities (R, V) after words (R,), and the changed part of the state.

        Tokens that are never generated have -inf.
        """
        new = self.run("step", {"tokens": words, **state})
        log_probs = new.pop("log_probs")
        log_probs[:, self.about["never"]] = -np.inf
        return log_probs, {f"state_{k.removeprefix('next_')}": v for k, v in new.items()}

    def as_stored(self, x: Array) -> Array:
        """Return vectors (..., D) rounded like the features in training."""
        if self.about["dtype"] != "int8":
            return x.astype(np.float16).astype(np.float32)
        scale = np.abs(x).max(-1, keepdims=True) / np.float32(127)
        return np.rint(x / np.maximum(scale, np.finfo(np.float32).tiny)) * scale

    def run(self, graph: str, inputs: dict[str, Array]) -> dict[str, Any]:
        session = self.graphs[graph]
        wanted = {
            i.name for i in session.get_inputs()
        }  # a decoder that reads pooled vectors does not use the grid
        names = [o.name for o in session.get_outputs()]
        found = session.run(names, {k: v for k, v in inputs.items() if k in wanted})
        return dict(zip(names, found, strict=True))


def _opened(read: Callable[[str], Any], path: Path) -> Any:
    """Return what a library reads from a file. Both libraries raise errors of many kinds."""
    if not path.is_file():
        raise _damaged(path, "it is not there")
    try:
        return read(str(path))
    except Exception as error:
        raise _damaged(path, one_line(error)) from None


def _config(path: Path) -> dict[str, Any]:
    """Return config.json with the keys that captioning needs."""
    about = _opened(lambda name: json.loads(Path(name).read_text("utf-8")), path)
    if not isinstance(about, dict) or not isinstance(about.get("decode"), dict):
        raise _damaged(path, "it is not the file of an exported model")
    missing = sorted(KEYS - about.keys()) + sorted(DECODE - about["decode"].keys())
    if missing:
        raise _damaged(path, f"it lacks {', '.join(missing)}")
    tokens = [about["start"], about["end"]]
    tokens += about["never"] if isinstance(about["never"], list) else [None]
    if not all(type(token) is int and token >= 0 for token in tokens):
        raise _damaged(path, "start, end and never are not numbers of tokens")
    return about


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} cannot be used: {why}: export the model again")


def _finite(found: list[list[Hypothesis]]) -> list[list[Hypothesis]]:
    """Return what was found if every picture has hypotheses, all of them with a probability."""
    for hypotheses in found:
        if not hypotheses or not all(np.isfinite(h.log_prob) for h in hypotheses):
            raise UserError(
                "the model's probabilities are not finite for a picture: train it with a lower "
                "train.lr, and export it again"
            )
    return found


def main() -> int:
    show_all()
    parser = argparse.ArgumentParser(description="Caption pictures, as the model was scored.")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("--beam", type=_width, help="width of a beam search; 1 is greedy")
    asked = parser.parse_args()
    decode = {"beam": asked.beam, "samples": 0} if asked.beam else {}
    try:
        return _say_captions(asked.images, decode)
    except UserError as error:
        say(f"error: {one_line(error)}", file=sys.stderr)
        return 2


def _say_captions(images: Sequence[Path], decode: dict[str, Any]) -> int:
    """Print each picture's caption, or why it has none. Return the exit status."""
    broken = 0
    for path, text in Captioner().caption_each(images, **decode):
        if isinstance(text, ImageError):
            broken += 1
            say(f"error: {path}: {one_line(text)}", file=sys.stderr)
        else:
            print(f"{printable(path)}\t{printable(text)}", flush=True)
    return 2 if broken else 0


def _width(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 999:
        raise argparse.ArgumentTypeError(f"{printable(text)}: give a whole number, 1 to 999")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())

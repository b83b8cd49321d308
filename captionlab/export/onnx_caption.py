"""Greedy captions with onnxruntime: `python caption.py photo.jpg ...`, in the folder of an exported
model.

Needs onnxruntime, numpy, pillow and tokenizers; neither torch nor the code that trained the model,
but for the files beside this one, which read and scale pictures as the project does. Three graphs:
`encoder` sees pixels (B, 3, S, S), 0-255; `start` makes of features the state before the first
word; `step` reads one word per picture.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer

from pipeline.core.errors import one_line, printable, say, show_all
from pipeline.images.reading import ImageError, read_image
from pipeline.images.scaling import square

BATCH = 32
"pictures in one pass of the graphs"


class Captioner:
    def __init__(self, folder: Path = Path(__file__).parent):
        self.about = json.loads((folder / "config.json").read_text("utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.graphs = {
            path.stem: onnxruntime.InferenceSession(path) for path in sorted(folder.glob("*.onnx"))
        }

    def __call__(self, images: Sequence[Path | Image.Image]) -> list[str]:
        """A caption per image. Raises an ImageError where one of them cannot be read."""
        pixels = np.stack([self.pixels(image) for image in images])
        return self.captions(*self.run("encoder", {"pixels": pixels}).values())

    def pixels(self, image: Path | Image.Image) -> np.ndarray:
        """(3, S, S) uint8."""
        about = self.about["image"]
        if about is None:
            raise SystemExit(
                "this model was exported without its encoder: give `captions` its features"
            )
        resampling = Image.Resampling[about["resampling"]]
        picture = square(read_image(image), about["side"], about["resize"], resampling)
        return np.asarray(picture).transpose(2, 0, 1)

    def caption_each(
        self, images: Sequence[Path | Image.Image]
    ) -> Iterator[tuple[Path | Image.Image, str | ImageError]]:
        """Each image with its caption, or with why it cannot be read."""
        for start in range(0, len(images), BATCH):
            some = images[start : start + BATCH]
            pixels = [self._read(image) for image in some]
            good = [p for p in pixels if not isinstance(p, ImageError)]
            found = self.run("encoder", {"pixels": np.stack(good)}).values() if good else ()
            texts = iter(self.captions(*found) if good else [])
            for image, p in zip(some, pixels, strict=True):
                yield image, p if isinstance(p, ImageError) else next(texts)

    def _read(self, image: Path | Image.Image) -> np.ndarray | ImageError:
        try:
            return self.pixels(image)
        except ImageError as error:
            return error

    def captions(self, grid: np.ndarray, pooled: np.ndarray) -> list[str]:
        """Features (B, P, D) and (B, D')."""
        found = self.tokens(grid, pooled)
        return [
            " ".join(self.tokenizer.decode(ids, skip_special_tokens=True).split()) for ids in found
        ]

    def tokens(self, grid: np.ndarray, pooled: np.ndarray) -> list[list[int]]:
        """The likeliest word at each step, to the end token."""
        state = self.run("start", {"grid": self.as_stored(grid), "pooled": self.as_stored(pooled)})
        words = np.full(len(pooled), self.about["start"], np.int64)
        out: list[list[int]] = [[] for _ in words]
        open_ones = set(range(len(words)))
        for _ in range(self.about["max_tokens"]):
            new = self.run("step", {"tokens": words, **state})
            log_probs = new.pop("log_probs")  # (B, V)
            log_probs[:, self.about["never"]] = -np.inf
            words, state = (
                log_probs.argmax(1),
                state | {f"state_{k.removeprefix('next_')}": v for k, v in new.items()},
            )
            for row in sorted(open_ones):
                out[row].append(int(words[row]))
            open_ones = {row for row in open_ones if words[row] != self.about["end"]}
            if not open_ones:
                break
        return out

    def as_stored(self, x: np.ndarray) -> np.ndarray:
        """Vectors (..., D) rounded as those of training were."""
        if self.about["dtype"] != "int8":
            return x.astype(np.float16).astype(np.float32)
        scale = np.abs(x).max(-1, keepdims=True) / np.float32(127)
        return np.rint(x / np.maximum(scale, np.finfo(np.float32).tiny)) * scale

    def run(self, graph: str, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        session = self.graphs[graph]
        wanted = {
            i.name for i in session.get_inputs()
        }  # a decoder of pooled vectors has no use for the grid
        names = [o.name for o in session.get_outputs()]
        found = session.run(names, {k: v for k, v in inputs.items() if k in wanted})
        return dict(zip(names, found, strict=True))


if __name__ == "__main__":
    show_all()
    paths = [Path(name) for name in sys.argv[1:]]
    if not paths:
        raise SystemExit("usage: python caption.py IMAGE...")
    broken = 0
    for path, text in Captioner().caption_each(paths):
        if isinstance(text, ImageError):
            broken += 1
            say(f"error: {path}: {one_line(text)}", file=sys.stderr)
        else:
            print(f"{printable(path)}\t{printable(text)}", flush=True)
    if broken:
        raise SystemExit(2)

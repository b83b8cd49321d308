"""Greedy captions with onnxruntime: `python caption.py photo.jpg ...`, in the folder of an exported
model.

Needs onnxruntime, numpy, pillow and tokenizers; neither torch nor the code that trained the model.
Three graphs: `encoder` sees pixels (B, 3, S, S), 0-255; `start` makes of features the state before
the first word; `step` reads one word per picture.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer


class Captioner:
    def __init__(self, folder: Path = Path(__file__).parent):
        self.about = json.loads((folder / "config.json").read_text("utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.graphs = {
            path.stem: onnxruntime.InferenceSession(path) for path in sorted(folder.glob("*.onnx"))
        }

    def __call__(self, images: Sequence[Path | Image.Image]) -> list[str]:
        pixels = np.stack([self.pixels(image) for image in images])
        return self.captions(*self.run("encoder", {"pixels": pixels}).values())

    def pixels(self, image: Path | Image.Image) -> np.ndarray:
        """(3, S, S) uint8."""
        about = self.about["image"]
        if about is None:
            raise SystemExit(
                "this model was exported without its encoder: give `captions` its features"
            )
        picture, side = (
            _rgb(image if isinstance(image, Image.Image) else Image.open(image)),
            about["side"],
        )
        resampling = Image.Resampling[about["resampling"]]
        if about["resize"] == "crop":
            scale = side / min(picture.size)
            size = (
                max(side, round(picture.width * scale)),
                max(side, round(picture.height * scale)),
            )
            left, top = (size[0] - side) // 2, (size[1] - side) // 2
            picture = picture.resize(size, resampling).crop((left, top, left + side, top + side))
        else:
            picture = picture.resize((side, side), resampling)
        return np.asarray(picture).transpose(2, 0, 1)

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


def _rgb(image: Image.Image) -> Image.Image:
    """Upright, transparency on white."""
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


if __name__ == "__main__":
    paths = [Path(name) for name in sys.argv[1:]]
    if not paths:
        raise SystemExit("usage: python caption.py IMAGE...")
    for path, text in zip(paths, Captioner()(paths), strict=True):
        print(f"{path}\t{text}")

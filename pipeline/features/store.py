"""Read data/features/<name>/: the features of images by their ids, from memory maps. Values are
float16, int8 or the encoder's own type."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, PositiveInt

from pipeline.core.errors import UserError
from pipeline.data.array_on_disk import ArrayOnDisk, taken
from pipeline.data.checked import RESTORE, read_checked, readable
from pipeline.data.corpus import rows_of
from pipeline.data.files import digest
from pipeline.data.image_ids import ImageIds
from pipeline.features.features import Features, Keep, Part, parts
from pipeline.features.parts import Parts
from pipeline.features.quantise import from_int8, not_finite

if TYPE_CHECKING:
    from torch import Tensor


# Number of images whose vectors are read at once for a digest.
ROWS = 4096


class Manifest(BaseModel):
    """The part of manifest.json that a reader of arrays needs."""

    dtype: Literal["float16", "int8"] = "float16"
    "Type of the stored vectors. Early feature sets do not say that they are float16."
    keep: Keep = "both"
    "The parts that were written."
    shapes: dict[Part, list[PositiveInt]] = {}
    "Shapes of both parts as the encoder makes them, kept or not."


class Shapes(NamedTuple):
    """Shapes of the features as their encoder makes them, kept or not."""

    positions: int
    grid_dim: int
    pooled_dim: int


class Origin(BaseModel):
    """The part of manifest.json that says how the features were made."""

    encoder: str
    args: dict[str, Any]
    dataset: str


class FeatureStore:
    """The folder data/features/<name>/, opened by memory map. Nothing is read before it is asked
    for.

    Raises:
        UserError: a file does not exist, is damaged, or does not fit the others.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        if not (folder / "manifest.json").is_file():
            raise UserError(f"{folder} holds no features: run dvc repro")
        self.manifest = read_checked(folder / "manifest.json", Manifest)
        # `rows` holds the row of the arrays for each of `ids`.
        self.ids, self.rows = _index(folder / "ids.parquet")
        self.keep: Keep = self.manifest.get("keep", "both")
        # The grid is (N, P, D), the pooled vectors are (N, D').
        self.arrays: dict[str, Parts] = {part: self._map(part) for part in parts(self.keep)}
        self.scales: dict[str, Parts] = {}
        if self.manifest.get("dtype") == "int8":
            self.scales = {part: self._map(f"{part}_scale") for part in self.arrays}  # (N, P), (N,)
        self._check_shapes()
        self.shapes = self._shapes()

    def _check_shapes(self) -> None:
        """Check that the arrays have the same number of images, and the expected dimensions and
        dtypes. Every row in ids.parquet must exist."""
        kept = self.manifest.get("dtype", "float16")
        expected = {"grid": (3, {kept, "uint8"}), "pooled": (2, {kept})}
        expected |= {f"{name}_scale": (n - 1, {"float32"}) for name, (n, _) in expected.items()}
        scales = {f"{name}_scale": array for name, array in self.scales.items()}
        images = len(next(iter(self.arrays.values())))
        for name, array in {**self.arrays, **scales}.items():
            depth, dtypes = expected[name]
            if (
                array.ndim != depth
                or array.dtype.name not in dtypes
                or len(array) != images
                or 0 in array.shape
            ):
                raise UserError(
                    f"{self.folder / name}-*.npy hold {array.dtype} {array.shape}, which do not "
                    f"fit the other files there: {RESTORE}"
                )
        if len(self.rows) and not 0 <= self.rows.min() <= self.rows.max() < images:
            raise UserError(
                f"{self.folder / 'ids.parquet'} refers to rows that do not exist: {RESTORE}"
            )

    def _shapes(self) -> Shapes:
        arrays = {part: array.shape for part, array in self.arrays.items()}
        told = {**self.manifest.get("shapes", {}), **arrays}
        try:
            (_, positions, grid_dim), (_, pooled_dim) = told["grid"], told["pooled"]
        except (KeyError, ValueError):
            raise UserError(
                f"{self.folder / 'manifest.json'} does not give the shapes of the "
                "parts that are not kept: "
                f"{RESTORE}"
            ) from None
        return Shapes(positions, grid_dim, pooled_dim)

    def digest(self) -> str:
        """Return a digest that stands for all vectors in fingerprints, so that other features are
        noticed.

        It covers the pooled vectors. If they are not kept, it covers the middle vector of each
        grid. A whole grid is never read.
        """
        found = hashlib.md5()
        if "pooled" in self.arrays:
            for file in sorted(self.folder.glob("pooled-*.npy")):
                found.update(digest(file).encode())
            return found.hexdigest()
        middle = self.shapes.positions // 2
        for grid in self.arrays["grid"].arrays:
            for start in range(0, len(grid), ROWS):
                found.update(grid[start : start + ROWS, middle].tobytes())
        return found.hexdigest()

    def made_by(self) -> dict[str, Any]:
        """Return the encoder of these features, as a model's config.json describes it, and their
        data set.

        Raises:
            UserError: the manifest does not say.
        """
        seen = read_checked(self.folder / "manifest.json", Origin)
        dtype = seen.get("dtype", "float16")
        encoder = {"name": seen["encoder"], "args": seen["args"], "dtype": dtype}
        return {"encoder": encoder, "dataset": seen["dataset"]}

    def _map(self, name: str) -> Parts:
        return Parts(self.folder, name)

    def get(self, image_ids: Sequence[str], device: str = "cpu") -> Features:
        """Return the features of these images in float32. A part that is not kept is empty.

        Raises:
            KeyError: an image has no features.
            UserError: a value is not finite.
        """
        places = self.ids.find(image_ids)
        if (places < 0).any():
            raise KeyError(image_ids[int(places.argmin())])
        rows = self.rows[places]
        found = {part: self._vectors(part, rows, device) for part in parts("both")}
        for part, vectors in found.items():
            if (row := not_finite(vectors)) is not None:
                raise UserError(
                    f"{self.folder / part}-*.npy: the values of image {image_ids[row]} are not "
                    f"finite: {RESTORE}"
                )
        return Features(**found)

    def _vectors(self, name: Part, rows: NDArray[np.int64], device: str) -> "Tensor":
        import torch

        if name not in self.arrays:
            shape = (0, self.shapes.grid_dim) if name == "grid" else (0,)
            return torch.empty(len(rows), *shape, device=device)
        stored = torch.from_numpy(self.arrays[name][rows]).to(device)
        if not self.scales:
            return stored.float()
        return from_int8(stored, torch.from_numpy(self.scales[name][rows]).to(device))

    def check(self, image_ids: Iterable[str], where: str) -> None:
        """Raise a UserError if an image has no features."""
        if missing := self.ids.lacking(image_ids):
            raise UserError(
                f"{where}: {len(missing)} images have no features (first: {missing[0]}): "
                "see rejected.parquet there"
            )


def _index(path: Path) -> tuple[ImageIds, NDArray[np.int64]]:
    """Return the ids, and the row of the arrays for each, both from temporary files."""
    with readable(path):
        found = ArrayOnDisk()
        found.extend(np.empty(0, np.int64))
        for part in rows_of(path, ["image_id", "row"]):
            if part["row"].dtype != np.int64 or part["image_id"].isna().any():
                raise ValueError("an image without an id or a row")
            found.extend(part["row"].to_numpy())
        rows = found.array()
        texts = (text for part in rows_of(path, ["image_id"]) for text in part["image_id"])
        ids, order = ImageIds.placed(texts)
        return ids, rows if order is None else taken(rows, order)

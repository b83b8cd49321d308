"""Images -> data/features/<name>/: memory maps (float16, int8 or the encoder's own type), resumable
after any interruption."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.errors import UserError
from pipeline.data.files import read_json
from pipeline.data.image_ids import ImageIds
from pipeline.features.features import Features
from pipeline.features.quantise import from_int8

if TYPE_CHECKING:
    from torch import Tensor


class FeatureStore:
    """data/features/<name>/ opened by memory map; nothing is read before it is asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        if not (folder / "manifest.json").is_file():
            raise UserError(f"{folder} holds no features: run dvc repro")
        self.manifest = read_json(folder / "manifest.json")
        table = pq.read_table(folder / "ids.parquet", columns=["image_id", "row"]).sort_by(
            "image_id"
        )
        self.ids = ImageIds(text.as_py() for text in table["image_id"])
        self.rows = table["row"].to_numpy()
        "of the arrays, of each of `ids`"
        self.scales: dict[str, np.memmap] = {}
        self.grid, self.pooled = self._map("grid"), self._map("pooled")  # (N, P, D), (N, D')
        if self.manifest.get("dtype") == "int8":
            self.scales = {
                "grid": self._map("grid_scale"),
                "pooled": self._map("pooled_scale"),
            }  # (N, P), (N,)

    def _map(self, name: str) -> np.memmap:
        array: np.memmap = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return array

    def get(self, image_ids: Sequence[str], device: str = "cpu") -> Features:
        """Features of these images, float32.

        Raises:
            KeyError: one has none.
        """
        places = self.ids.find(image_ids)
        if (places < 0).any():
            raise KeyError(image_ids[int(places.argmin())])
        rows = self.rows[places]
        return Features(self._vectors("grid", rows, device), self._vectors("pooled", rows, device))

    def _vectors(self, name: str, rows: NDArray[np.int64], device: str) -> "Tensor":
        import torch

        stored = torch.from_numpy(getattr(self, name)[rows]).to(device)
        if not self.scales:
            return stored.float()
        return from_int8(stored, torch.from_numpy(self.scales[name][rows]).to(device))

    def check(self, image_ids: Iterable[str], where: str) -> None:
        """Raises a UserError when an image has no features."""
        if missing := self.ids.lacking(image_ids):
            raise UserError(
                f"{where}: {len(missing)} images have no features (first: {missing[0]}): "
                "see rejected.parquet there"
            )

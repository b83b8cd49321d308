"""Images become float16 memory maps.

The arrays do not depend on the batch size, interruptions or broken files.
"""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.core.errors import UserError
from pipeline.data.checked import read_json
from pipeline.data.shards import Shards
from pipeline.extraction.extract import extract
from pipeline.features.features import Features
from pipeline.features.store import FeatureStore
from tests.pictures import exchange, png, put_pictures

N = 40


class TinyEncoder:
    """Makes two grid positions of three numbers, and four pooled numbers, from 2 x 2 pixels.

    It may fail at a given batch.
    """

    positions, grid_dim, pooled_dim = 2, 3, 4

    def __init__(self, fail_at: int | None = None):
        self.fail_at, self.batches = fail_at, 0
        self.kill_at: int | None = None
        self.seen: list[int] = []

    def to(self, device: str) -> "TinyEncoder":
        return self

    def transform(self, image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image.resize((2, 2)))).permute(2, 0, 1)

    def __call__(self, pixels: Tensor) -> Features:
        if self.batches == self.fail_at:
            raise KeyboardInterrupt
        if self.batches == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.batches += 1
        self.seen += pixels[:, 0, 0, 0].tolist()
        x = pixels.float().sqrt()
        return Features(x[:, :, 0].transpose(1, 2) / 3, x.flatten(1)[:, :4] / 7)


def plain(n: int) -> Image.Image:
    return Image.new("RGB", (8, 6), (5 * n + 1, n, 200 - n))


def pictures(root: Path, count: int = N) -> Shards:
    """Write `count` plain pictures; picture n has the red value 5 n + 1."""
    return put_pictures(root, {f"i{n:02}": plain(n) for n in range(count)})


def run(
    encoder: TinyEncoder,
    images: Shards,
    tmp_path: Path,
    name: str = "f",
    batch: int = 2,
    **about: Any,
) -> Path:
    about = {"encoder": "tiny", "args": {}, **about}
    extract(encoder, images, tmp_path / name, about, "cpu", threads=2, batch=batch)
    return tmp_path / name


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def direct(*numbers: int) -> Features:
    """Return the features of the plain pictures with these numbers."""
    encoder = TinyEncoder()
    return encoder(torch.stack([encoder.transform(plain(n)) for n in numbers]))


def test_the_stored_features_are_the_encoders_own_as_float16(tmp_path: Path) -> None:
    images = pictures(tmp_path / "raw")
    folder, expected = run(TinyEncoder(), images, tmp_path), direct(*range(N))
    grid, pooled = (
        np.concatenate([np.load(file) for file in sorted(folder.glob(f"{name}-*.npy"))])
        for name in ("grid", "pooled")
    )
    assert (grid.dtype, grid.shape) == (np.float16, (N, 2, 3))
    assert (pooled.dtype, pooled.shape) == (np.float16, (N, 4))
    assert np.array_equal(grid, expected.grid.half().numpy())
    assert np.array_equal(pooled, expected.pooled.half().numpy())
    # Picture 3 has the red value 16, whose square root is 4.
    assert pooled[3].tolist() == pytest.approx([4 / 7, 4 / 7, 4 / 7, 4 / 7], abs=1e-3)


def test_the_folder_holds_what_the_row_trail_promises(tmp_path: Path) -> None:
    folder = run(TinyEncoder(), pictures(tmp_path / "raw", 3), tmp_path, dataset="d")
    assert sorted(contents(folder)) == [
        "grid-00000.npy",
        "ids.parquet",
        "manifest.json",
        "pooled-00000.npy",
        "rejected.parquet",
    ]
    assert read_json(folder / "manifest.json") == {
        "encoder": "tiny", "args": {}, "dataset": "d", "dtype": "float16", "keep": "both",
        "crops": False,
        "rejected": 0, "shapes": {"grid": [3, 2, 3], "pooled": [3, 4]},
    }  # fmt: skip
    ids = pd.read_parquet(folder / "ids.parquet")
    assert ids.to_dict("list") == {"image_id": ["i00", "i01", "i02"], "row": [0, 1, 2]}
    assert list(pd.read_parquet(folder / "rejected.parquet").columns) == ["image_id", "reason"]


@pytest.mark.parametrize("seen", ["crops", "pads"])
def test_the_manifest_says_whether_the_encoder_saw_a_cut_or_a_filled_square(
    tmp_path: Path, seen: str
) -> None:
    encoder: Any = TinyEncoder()
    setattr(encoder, seen, True)
    manifest = read_json(run(encoder, pictures(tmp_path / "raw", 2), tmp_path) / "manifest.json")
    expected = {"crops": {"crops": True}, "pads": {"crops": False, "pads": True}}[seen]
    assert {key: manifest[key] for key in ("crops", "pads") if key in manifest} == expected


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("keep", ["grid", "pooled"])
def test_a_part_alone_is_written_as_it_is_beside_the_other(
    tmp_path: Path, keep: str, dtype: str
) -> None:
    images = pictures(tmp_path / "raw", 5)
    both = run(TinyEncoder(), images, tmp_path, "both", dtype=dtype)
    one = run(TinyEncoder(), images, tmp_path, "one", dtype=dtype, keep=keep)
    names = [f"{keep}-00000.npy"] + [f"{keep}_scale-00000.npy"] * (dtype == "int8")
    assert sorted(file.name for file in one.glob("*.npy")) == names
    assert all((one / name).read_bytes() == (both / name).read_bytes() for name in names)
    whole, part = FeatureStore(both), FeatureStore(one)
    assert part.shapes == whole.shapes == (2, 3, 4)
    assert part.keep == keep
    found, expected = part.get(["i03", "i01"]), whole.get(["i03", "i01"])
    assert torch.equal(getattr(found, keep), getattr(expected, keep))
    empty = (2, 0) if keep == "grid" else (2, 0, 3)
    assert (found.pooled if keep == "grid" else found.grid).shape == empty
    assert len(found) == 2


def test_an_interrupted_run_that_kept_more_leaves_no_file_of_it(tmp_path: Path) -> None:
    images = pictures(tmp_path / "raw")
    with pytest.raises(KeyboardInterrupt):
        run(TinyEncoder(fail_at=17), images, tmp_path, dtype="int8")
    found = contents(run(TinyEncoder(), images, tmp_path, keep="pooled"))
    assert found == contents(run(TinyEncoder(), images, tmp_path, "whole", keep="pooled"))


@pytest.mark.parametrize("keep", ["grid", "pooled", "both"])
def test_one_other_picture_is_another_digest(tmp_path: Path, keep: str) -> None:
    images = pictures(tmp_path / "raw")
    before = FeatureStore(run(TinyEncoder(), images, tmp_path, keep=keep)).digest()
    assert FeatureStore(run(TinyEncoder(), images, tmp_path, keep=keep)).digest() == before
    exchange(tmp_path / "raw", i39=Image.new("RGB", (8, 6), (9, 9, 9)))
    images = Shards(tmp_path / "raw")
    assert FeatureStore(run(TinyEncoder(), images, tmp_path, keep=keep)).digest() != before


@pytest.mark.parametrize("batch", [1, 7, 40, 64])
def test_the_batch_changes_nothing(tmp_path: Path, batch: int) -> None:
    images = pictures(tmp_path / "raw")
    assert contents(run(TinyEncoder(), images, tmp_path, "a", batch)) == contents(
        run(TinyEncoder(), images, tmp_path, "b", 2)
    )


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    images = pictures(tmp_path / "raw")
    first = contents(run(TinyEncoder(), images, tmp_path))
    assert contents(run(TinyEncoder(), images, tmp_path)) == first


def test_an_interrupted_run_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    images = pictures(tmp_path / "raw")
    with pytest.raises(KeyboardInterrupt):
        run(TinyEncoder(fail_at=17), images, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".f.part", "raw"]


def test_an_interrupted_run_continues_where_it_was_remembered(tmp_path: Path) -> None:
    """Progress is saved after every shard of 16 images.

    Of 40 images in pairs, 32 are done when the 18th batch fails.
    """
    images = pictures(tmp_path / "raw")
    with pytest.raises(KeyboardInterrupt):
        run(TinyEncoder(fail_at=17), images, tmp_path)
    second = TinyEncoder()
    folder = run(second, images, tmp_path)
    assert second.seen == [5 * n + 1 for n in range(32, 40)]
    assert contents(folder) == contents(run(TinyEncoder(), images, tmp_path, "whole"))
    assert not (tmp_path / ".f.part").exists()


def test_a_run_interrupted_twice_continues_twice(tmp_path: Path) -> None:
    images = pictures(tmp_path / "raw", 50)
    for fail_at in (17, 15):  # the second run dies before it saves any progress
        with pytest.raises(KeyboardInterrupt):
            run(TinyEncoder(fail_at=fail_at), images, tmp_path, batch=1)
    last = TinyEncoder()
    folder = run(last, images, tmp_path, batch=1)
    assert last.seen == [5 * n + 1 for n in range(16, 50)]
    assert contents(folder) == contents(run(TinyEncoder(), images, tmp_path, "whole"))


def test_a_broken_image_before_the_interruption_is_still_set_aside_after_it(tmp_path: Path) -> None:
    images = pictures(tmp_path / "raw")
    exchange(tmp_path / "raw", i03=b"", i39=b"")
    with pytest.raises(KeyboardInterrupt):
        run(TinyEncoder(fail_at=17), images, tmp_path)
    folder = run(TinyEncoder(), images, tmp_path)
    assert pd.read_parquet(folder / "rejected.parquet").image_id.tolist() == ["i03", "i39"]
    assert contents(folder) == contents(run(TinyEncoder(), images, tmp_path, "whole"))


@pytest.mark.parametrize("change", ["args", "images"])
def test_a_run_of_another_feature_set_starts_anew(tmp_path: Path, change: str) -> None:
    images = pictures(tmp_path / "raw")
    with pytest.raises(KeyboardInterrupt):
        run(TinyEncoder(fail_at=17), images, tmp_path)
    about = {"args": {"size": 3}} if change == "args" else {}
    if change == "images":
        exchange(tmp_path / "raw", i39=None)
        images = Shards(tmp_path / "raw")
    second = TinyEncoder()
    folder = run(second, images, tmp_path, **about)
    assert second.seen == [5 * n + 1 for n in range(len(images))]
    assert contents(folder) == contents(run(TinyEncoder(), images, tmp_path, "whole", **about))


def test_a_finished_folder_is_replaced_only_when_the_next_is_whole(tmp_path: Path) -> None:
    images = pictures(tmp_path / "raw")
    before = contents(run(TinyEncoder(), images, tmp_path))
    with pytest.raises(KeyboardInterrupt):
        run(TinyEncoder(fail_at=3), images, tmp_path)
    assert contents(tmp_path / "f") == before


def test_broken_images_are_set_aside_with_a_reason_and_the_others_keep_their_rows(
    tmp_path: Path,
) -> None:
    images = pictures(tmp_path / "raw", 6)
    whole = png(Image.effect_noise((64, 64), 80))
    broken = {"i01": b"", "i02": b"no picture at all", "i04": whole[: len(whole) // 2]}
    exchange(tmp_path / "raw", **broken, i05=None)
    folder = run(TinyEncoder(), images, tmp_path)
    rejected = pd.read_parquet(folder / "rejected.parquet").set_index("image_id").reason.to_dict()
    assert rejected == {
        "i01": "empty file",
        "i02": "not a picture",
        "i04": "truncated",
    }
    store, expected = FeatureStore(folder), direct(0, 3)
    assert dict(zip(store.ids, store.rows, strict=True)) == {"i00": 0, "i03": 3}
    assert torch.equal(store.get(["i03", "i00"]).pooled, expected.pooled.half().float().flip(0))
    assert read_json(folder / "manifest.json")["rejected"] == 3


def test_a_batch_of_broken_images_only_is_no_stop(tmp_path: Path) -> None:
    images = pictures(tmp_path / "raw", 5)
    exchange(tmp_path / "raw", i02=b"", i03=b"")
    assert list(FeatureStore(run(TinyEncoder(), images, tmp_path)).ids) == ["i00", "i01", "i04"]


def test_no_readable_image_is_one_line_and_no_folder(tmp_path: Path) -> None:
    images = put_pictures(tmp_path / "raw", dict.fromkeys(("i00", "i01", "i02"), b""))
    message = (
        r"^no image could be read for these features \(first: empty file\): check the data "
        r"set's images$"
    )
    with pytest.raises(UserError, match=message):
        run(TinyEncoder(), images, tmp_path)
    assert not (tmp_path / "f").exists()


def test_a_store_gives_rows_in_the_order_asked_for_and_repeats_them(tmp_path: Path) -> None:
    images = pictures(tmp_path / "raw", 4)
    store = FeatureStore(run(TinyEncoder(), images, tmp_path))
    found, expected = store.get(["i02", "i00", "i02"]), direct(2, 0, 2)
    assert torch.equal(found.grid, expected.grid.half().float())
    assert torch.equal(found.pooled, expected.pooled.half().float())
    assert found.grid.dtype == torch.float32


def test_a_run_between_that_began_anew_leaves_nothing_to_resume_for_the_first(
    tmp_path: Path,
) -> None:
    images = pictures(tmp_path / "raw")
    for fail_at, args in ((17, {}), (2, {"size": 3})):
        with pytest.raises(KeyboardInterrupt):
            run(TinyEncoder(fail_at=fail_at), images, tmp_path, args=args)
    last = TinyEncoder()
    run(last, images, tmp_path)
    assert last.seen == [5 * n + 1 for n in range(40)]


def test_pictures_that_changed_since_the_interruption_are_seen_anew(tmp_path: Path) -> None:
    images = pictures(tmp_path / "raw")
    with pytest.raises(KeyboardInterrupt):
        run(TinyEncoder(fail_at=17), images, tmp_path)
    exchange(tmp_path / "raw", i00=Image.new("RGB", (8, 6), (255, 0, 0)))
    folder = run(TinyEncoder(), images, tmp_path)
    assert contents(folder) == contents(run(TinyEncoder(), images, tmp_path, "whole"))


def test_repaired_pictures_are_read_after_a_run_that_could_read_none(tmp_path: Path) -> None:
    images = put_pictures(tmp_path / "raw", dict.fromkeys(("i00", "i01", "i02"), b""))
    with pytest.raises(UserError):
        run(TinyEncoder(), images, tmp_path)
    exchange(tmp_path / "raw", i00=plain(0), i01=plain(1), i02=plain(2))
    assert list(FeatureStore(run(TinyEncoder(), images, tmp_path)).ids) == ["i00", "i01", "i02"]


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/none holds no features: run dvc repro$"):
        FeatureStore(tmp_path / "none")


def _rewrite(name: str, change: Any) -> Any:
    def apply(folder: Path) -> None:
        np.save(folder / name, change(np.load(folder / name)))

    return apply


def _ids(**changes: Any) -> Any:
    def apply(folder: Path) -> None:
        pd.read_parquet(folder / "ids.parquet").assign(**changes).to_parquet(folder / "ids.parquet")

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: (f / "grid-00000.npy").write_bytes(b""),
            r"grid-00000\.npy is not a readable array: EOFError",
        ),
        (
            lambda f: (f / "grid-00000.npy").write_bytes((f / "grid-00000.npy").read_bytes()[:-10]),
            r"grid-00000\.npy is not a readable array: ValueError",
        ),
        (
            lambda f: (f / "pooled-00000.npy").unlink(),
            r"pooled-00000\.npy is not a readable array: FileNotFound",
        ),
        (
            _rewrite("grid-00000.npy", lambda a: a[:, 0]),
            r"grid-\*\.npy hold float16 \(3, 3\), which do",
        ),
        (
            _rewrite("grid-00000.npy", lambda a: a.astype("f8")),
            r"grid-\*\.npy hold float64 \(3, 2, 3\)",
        ),
        (
            _rewrite("pooled-00000.npy", lambda a: a[:2]),
            r"pooled-\*\.npy hold float16 \(2, 4\), which",
        ),
        (_ids(row=[0, 1, 9]), r"ids\.parquet refers to rows that do not exist"),
        (
            _ids(row=["0", "1", "2"]),
            r"ids\.parquet is not a readable Parquet file: an image without",
        ),
        (
            _ids(image_id=["a", "a", "b"]),
            r"ids\.parquet is not a readable .*: image ids that are not in",
        ),
        (_ids(image_id=[1, 2, 3]), r"ids\.parquet is not a readable Parquet file"),
        (
            lambda f: (f / "ids.parquet").write_bytes(b"PAR1"),
            r"ids\.parquet is not a readable Parquet file",
        ),
        (
            lambda f: (f / "manifest.json").write_text("{"),
            r"manifest\.json is not a readable JSON file",
        ),
        (
            lambda f: (f / "manifest.json").write_text('{"dtype": "float64"}'),
            r"manifest\.json: dtype: expected 'float16' or 'int8', found",
        ),
        (
            lambda f: (f / "manifest.json").write_text('{"keep": "none"}'),
            r"manifest\.json: keep: expected 'pooled', 'grid' or 'both', found",
        ),
        (
            lambda f: (f / "manifest.json").write_text('{"keep": "pooled"}'),
            r"manifest\.json does not give the shapes of the parts that are not kept",
        ),
    ],
)
def test_tampered_features_are_one_line(tmp_path, change, message):
    run(TinyEncoder(), pictures(tmp_path / "raw", 3), tmp_path)
    change(tmp_path / "f")
    with pytest.raises(UserError, match=message) as error:
        FeatureStore(tmp_path / "f")
    assert "\n" not in str(error.value)


def test_a_manifest_that_does_not_say_how_features_were_made_is_one_line(tmp_path):
    run(TinyEncoder(), pictures(tmp_path / "raw", 3), tmp_path)
    (tmp_path / "f/manifest.json").write_text('{"encoder": "pixels", "args": {}}')
    with pytest.raises(UserError, match=r"manifest\.json: dataset: missing"):
        FeatureStore(tmp_path / "f").made_by()


def test_a_shard_that_breaks_is_one_line_and_costs_no_finished_shard(tmp_path: Path) -> None:
    images = pictures(tmp_path / "raw")
    shard = tmp_path / "raw/shards/000001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:5000])
    with pytest.raises(UserError, match=r"000001\.tar: byte \d+ does not begin the"):
        run(TinyEncoder(), images, tmp_path)
    shard.write_bytes(whole)
    second = TinyEncoder()
    folder = run(second, images, tmp_path)
    assert second.seen == [5 * n + 1 for n in range(16, 40)]
    assert contents(folder) == contents(run(TinyEncoder(), images, tmp_path, "whole"))


def test_a_shard_that_changed_after_it_was_done_is_seen_anew_with_those_behind_it(
    tmp_path: Path,
) -> None:
    images = pictures(tmp_path / "raw")
    with pytest.raises(KeyboardInterrupt):
        run(TinyEncoder(fail_at=17), images, tmp_path)
    os.utime(tmp_path / "raw/shards/000001.tar", (1, 1))
    second = TinyEncoder()
    run(second, images, tmp_path)
    assert second.seen == [5 * n + 1 for n in range(16, 40)]


def test_there_is_a_part_for_each_shard_and_none_of_an_interrupted_run_of_more(
    tmp_path: Path,
) -> None:
    images = pictures(tmp_path / "raw")
    with pytest.raises(KeyboardInterrupt):
        run(TinyEncoder(fail_at=17), images, tmp_path)
    few = {f"i{n:02}": None for n in range(16, 40)}
    exchange(tmp_path / "raw", **few)
    folder = run(TinyEncoder(), Shards(tmp_path / "raw"), tmp_path)
    assert [path.name for path in sorted(folder.glob("*.npy"))] == [
        "grid-00000.npy",
        "pooled-00000.npy",
    ]
    assert len(FeatureStore(folder).ids) == 16


def test_a_killed_run_keeps_the_shards_that_were_done(tmp_path: Path) -> None:
    """SIGKILL leaves no time to tidy up, so the unfinished part is written again."""
    images = pictures(tmp_path / "raw")
    expected = contents(run(TinyEncoder(), images, tmp_path, "whole"))
    child = os.fork()
    if child == 0:
        encoder = TinyEncoder()
        encoder.kill_at = 17
        try:
            run(encoder, images, tmp_path)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    second = TinyEncoder()
    assert contents(run(second, images, tmp_path)) == expected
    assert second.seen == [5 * n + 1 for n in range(32, 40)]


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_feature_that_is_not_finite_is_named_when_it_is_read(
    tmp_path: Path, dtype: str, value: float
) -> None:
    run(TinyEncoder(), pictures(tmp_path / "raw", 3), tmp_path, dtype=dtype)
    file = "pooled-00000.npy" if dtype == "float16" else "pooled_scale-00000.npy"

    def spoil(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.reshape(3, -1)[1, 0] = value
        return array

    _rewrite(file, spoil)(tmp_path / "f")
    store = FeatureStore(tmp_path / "f")
    first, second, third = pd.read_parquet(tmp_path / "f/ids.parquet").image_id
    assert len(store.get([first, third])) == 2
    with pytest.raises(UserError, match=rf"pooled-\*\.npy: the values of image {second} are not"):
        store.get([third, second])


@pytest.mark.parametrize(
    ("dtype", "factor", "cure"),
    [
        ("float16", 1e9, "write dtype: int8, whose range is that of float32"),
        ("int8", float("inf"), "the encoder's weights or its computation are at fault"),
    ],
)
def test_features_that_cannot_be_stored_are_no_features(
    tmp_path: Path, dtype: str, factor: float, cure: str
) -> None:
    class Large(TinyEncoder):
        def __call__(self, pixels: Any) -> Features:
            f = super().__call__(pixels)
            return Features(f.grid, f.pooled.abs().add(1).mul(factor))

    with pytest.raises(UserError, match=rf"^the pooled.* of image .* is not finite.*: {cure}"):
        run(Large(), pictures(tmp_path / "raw", 3), tmp_path, dtype=dtype)
    assert not (tmp_path / "f").exists()

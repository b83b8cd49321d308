"""Features in int8: steps computed by hand, and the bound of the error.

Fresh features are rounded in the same way wherever a model sees them.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from captionlab.export.onnx_caption import Captioner as Exported
from pipeline.core import registry
from pipeline.core.errors import UserError
from pipeline.data.checked import read_json
from pipeline.features.features import Features
from pipeline.features.quantise import as_stored, from_int8, grid_dtype, to_int8
from pipeline.features.store import FeatureStore
from tests.features.test_store import N, TinyEncoder, contents, direct, pictures, run


def test_the_largest_of_a_vector_becomes_127_and_zeros_stay_zeros() -> None:
    values, scale = to_int8(torch.tensor([[0.0, 6.35, -12.7, 0.04], [0.0, 0.0, 0.0, 0.0]]))
    assert (values.dtype, scale.dtype) == (torch.int8, torch.float32)
    assert values.tolist() == [[0, 64, -127, 0], [0, 0, 0, 0]]  # 63.5 is rounded to even
    assert scale.tolist() == pytest.approx([0.1, 0.0])
    assert from_int8(values, scale).flatten().tolist() == pytest.approx(
        [0.0, 6.4, -12.7, 0.0, 0.0, 0.0, 0.0, 0.0]
    )


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e6, 1e30])
def test_an_error_is_at_most_half_a_step_and_what_is_rounded_once_stays(size: float) -> None:
    x = torch.randn(40, 7, 30, generator=torch.Generator().manual_seed(0)) * size
    values, scale = to_int8(x)
    once = from_int8(values, scale)
    assert ((once - x).abs() <= 0.5001 * scale[..., None]).all()
    assert (values.abs().amax(-1) == 127).all()
    assert torch.allclose(from_int8(*to_int8(once)), once, rtol=1e-5, atol=0)


def test_a_store_in_int8_gives_what_fresh_features_are_rounded_to_and_is_half_the_size(
    tmp_path: Path,
) -> None:
    images = pictures(tmp_path / "raw")
    store = FeatureStore(run(TinyEncoder(), images, tmp_path, dtype="int8"))
    found, expected = store.get(list(store.ids)), as_stored(direct(*range(N)), "int8")
    assert store.manifest["dtype"] == "int8"
    assert (store.arrays["grid"].dtype, store.arrays["pooled"].dtype) == (np.int8, np.int8)
    half = FeatureStore(run(TinyEncoder(), images, tmp_path, "whole"))
    assert store.arrays["grid"].nbytes == half.arrays["grid"].nbytes / 2
    assert torch.equal(found.grid, expected.grid)
    assert torch.equal(found.pooled, expected.pooled)
    assert torch.equal(store.get(["i07", "i03"]).grid, expected.grid[[7, 3]])


def test_an_interrupted_extraction_to_int8_goes_on_to_the_same_files(tmp_path: Path) -> None:
    images = pictures(tmp_path / "raw")
    whole = contents(run(TinyEncoder(), images, tmp_path, dtype="int8"))
    with pytest.raises(KeyboardInterrupt):
        run(TinyEncoder(fail_at=17), images, tmp_path, "again", dtype="int8")
    encoder = TinyEncoder()
    assert contents(run(encoder, images, tmp_path, "again", dtype="int8")) == whole
    assert 0 < len(encoder.seen) < len(images)


def test_a_manifest_names_the_type_even_where_nobody_asked(tmp_path: Path) -> None:
    folder = run(TinyEncoder(), pictures(tmp_path / "raw", 4), tmp_path)
    assert read_json(folder / "manifest.json")["dtype"] == "float16"


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_an_exported_graph_rounds_as_the_project_does(dtype: str) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4, 50)).astype(np.float32)
    x[1, 2] = 0
    exported = Exported.__new__(Exported)
    exported.about = {"dtype": dtype}
    ours = as_stored(Features(torch.from_numpy(x), torch.from_numpy(x[:, 0])), dtype)
    assert np.array_equal(exported.as_stored(x), ours.grid.numpy())
    assert np.array_equal(exported.as_stored(x[:, 0]), ours.pooled.numpy())


@pytest.mark.parametrize("name", registry.names("encoders"))
def test_int8_is_refused_where_an_encoder_keeps_its_own_type(name: str) -> None:
    encoder = registry.load("encoders", name).Encoder
    own = getattr(encoder, "grid_dtype", None)
    assert grid_dtype(encoder, "float16") == (own or "float16")
    if own:
        with pytest.raises(
            UserError,
            match=f"is not for this encoder: it keeps its grid as {own}: write dtype: float16$",
        ):
            grid_dtype(encoder, "int8")
    else:
        assert grid_dtype(encoder, "int8") == "int8"

"""What every encoder promises; timm models have timm's own preprocessing and names."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor

from pipeline.core import registry
from pipeline.core.errors import UserError
from pipeline.encoders.shared.base import Encoder, Shapes
from pipeline.encoders.timm_model import DRAWS, Branch, drawn
from pipeline.extraction.extract import extract
from pipeline.features.store import FeatureStore
from tests.pictures import put_pictures

MODELS = Path(__file__).parents[1] / "models"
TIMM = {"model": "test_efficientnet", "weights": "random", "image_size": 64, "resize": "squash"}
# Arguments that make each encoder file small and independent of the network. A new file adds its
# own, under its name (file or file/case).
SMALL: dict[str, dict[str, Any]] = {
    "clip": {"model": str(MODELS / "clip"), "weights": "random"},
    "clip/siglip": {"model": str(MODELS / "siglip"), "weights": "random"},
    "pixels": {"image_size": 32},
    "timm_model": TIMM,
    "timm_model/grid": {**TIMM, "grid": 3},
    "timm_model/scales": {**TIMM, "scales": 2},
    "timm_model/mirror": {**TIMM, "mirror": True, "resize": "crop"},
    "timm_model/stochastic": {
        **TIMM,
        "model": "test_vit",
        "image_size": 160,
        "stochastic_depth": True,
        "drop_path": 0.4,
    },
}


def module(name: str) -> Any:
    return registry.load("encoders", name.split("/")[0])


def build(name: str = "timm_model", **changes: Any) -> Any:
    return module(name).Encoder(**{**SMALL[name], **changes})


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    assert ours.shape == theirs.shape
    difference = (ours - theirs).abs()
    assert torch.allclose(ours, theirs, atol=tolerance), (
        f"max {difference.max():.2e} mean {difference.mean():.2e}"
    )


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return a picture of coarse random patches, whose detail survives resizing."""
    cells = np.random.default_rng(seed).integers(
        0, 256, (height // 20, width // 20, 3), dtype=np.uint8
    )
    return Image.fromarray(cells).resize((width, height), Image.Resampling.NEAREST)


def clock() -> Image.Image:
    """Return a picture of a round white clock that shows about four o'clock."""
    image = Image.new("RGB", (224, 224), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((22, 22, 202, 202), fill=(250, 250, 245), outline="black", width=8)
    for hour in range(12):
        x, y = math.sin(hour * math.pi / 6), -math.cos(hour * math.pi / 6)
        draw.line((112 + 70 * x, 112 + 70 * y, 112 + 84 * x, 112 + 84 * y), fill="black", width=6)
    draw.line((112, 112, 112, 52), fill="black", width=6)
    draw.line((112, 112, 150, 135), fill="black", width=6)
    return image


@pytest.fixture(params=sorted({*registry.names("encoders"), *SMALL}))
def name(request: pytest.FixtureRequest) -> str:
    assert request.param in SMALL, f"give {request.param} small arguments in SMALL"
    return request.param


@pytest.fixture(scope="module")
def lite0() -> Any:
    return build(model="tf_efficientnet_lite0", weights="package", image_size=224)


def test_an_encoder_gives_what_it_announces(name: str) -> None:
    encoder: Encoder = build(name).to("cpu")
    pixels = torch.stack(
        [encoder.transform(noise(*size)) for size in ((60, 100), (320, 240), (64, 64))]
    )
    features = encoder(pixels)
    assert pixels.dtype == torch.uint8
    assert features.grid.shape == (3, encoder.positions, encoder.grid_dim)
    assert features.pooled.shape == (3, encoder.pooled_dim)
    assert features.grid.dtype == features.pooled.dtype == torch.float32


def test_an_image_alone_equals_the_image_in_a_batch(name: str) -> None:
    encoder = build(name)
    pixels = torch.stack([encoder.transform(noise(80, 80, seed)) for seed in range(5)])
    together = encoder(pixels)
    for n in range(5):
        alone = encoder(pixels[n : n + 1])
        close(alone.grid[0], together.grid[n], 1e-4)
        close(alone.pooled[0], together.pooled[n], 1e-4)


def test_different_pictures_have_different_features(name: str) -> None:
    encoder = build(name)
    features = encoder(torch.stack([encoder.transform(noise(80, 80, seed)) for seed in range(2)]))
    assert not torch.allclose(features.pooled[0], features.pooled[1], rtol=1e-2)
    assert not torch.allclose(features.grid[0], features.grid[1], rtol=1e-2)


def test_the_shapes_are_the_encoders_own_and_need_no_weights(name: str) -> None:
    encoder = build(name)
    parameters = sum(weight.numel() for weight in encoder.parameters())
    expected = Shapes(encoder.positions, encoder.grid_dim, encoder.pooled_dim, parameters)
    elsewhere = {"weights": "hub"} if "weights" in SMALL[name] else {}
    assert module(name).shapes(**{**SMALL[name], **elsewhere}) == expected


def test_an_encoder_is_frozen_and_built_the_same_twice_without_touching_the_seed(name: str) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, second = build(name), build(name)
    assert torch.equal(torch.rand(1), expected)
    pixels = first.transform(noise(80, 80))[None]
    assert torch.equal(first(pixels).pooled, second(pixels).pooled)
    assert not first(pixels).pooled.requires_grad
    assert not any(weight.requires_grad for weight in first.parameters())


def test_an_encoders_arguments_can_be_checked_by_name_and_type(name: str) -> None:
    target = module(name).Encoder.__init__
    registry.check_args(target, SMALL[name], "args")
    with pytest.raises(UserError, match=r"^args: unknown argument 'colour'"):
        registry.check_args(target, {**SMALL[name], "colour": 1}, "args")


def test_the_package_weights_are_all_of_the_model_and_see_a_clock(lite0: Any) -> None:
    """Class 409 of ImageNet's 1000 classes is `analog clock`."""
    pixels = lite0.transform(clock())[None]
    logits = lite0.body.forward_head(
        lite0.body.forward_features((pixels.float() - lite0.mean) / lite0.std)
    )
    assert logits.argmax().item() == 409
    assert logits.softmax(-1).max().item() > 0.7
    assert (lite0.positions, lite0.grid_dim, lite0.pooled_dim) == (49, 1280, 1280)


@pytest.mark.parametrize(("resize", "mode"), [("squash", "squash"), ("crop", "center")])
def test_features_equal_timms_own_transform_and_forward(
    lite0: Any, monkeypatch: pytest.MonkeyPatch, resize: str, mode: str
) -> None:
    monkeypatch.setattr(lite0, "resize", resize)
    config = {**resolve_model_data_config(lite0.body), "crop_pct": 1.0, "crop_mode": mode}
    picture = noise(300, 200)
    with torch.inference_mode():
        theirs = lite0.body.forward_features(
            create_transform(**config)(picture)[None]
        )  # (1, 1280, 7, 7)
    ours = lite0(lite0.transform(picture)[None])
    close(ours.grid[0], theirs[0].reshape(1280, 49).T, 2e-3)


@pytest.mark.parametrize("model", ["tf_efficientnet_lite0", "test_resnet"])
def test_the_mean_of_the_grid_is_the_pooled_vector_where_the_model_pools_by_mean(
    lite0: Any, model: str
) -> None:
    encoder = lite0 if model == "tf_efficientnet_lite0" else build(model=model)
    features = encoder(encoder.transform(noise(240, 240))[None])
    close(features.grid.mean(1), features.pooled, 1e-4)


def test_the_grid_of_a_vision_transformer_is_its_patches_without_class_tokens() -> None:
    encoder = build(model="test_vit", image_size=160)
    pixels = encoder.transform(noise(160, 160))[None]
    with torch.inference_mode():
        tokens = encoder.body.forward_features((pixels.float() - encoder.mean) / encoder.std)
    assert (tokens.shape[1], encoder.positions, encoder.grid_dim) == (101, 100, 64)
    close(encoder(pixels).grid, tokens[:, 1:], 1e-5)


@pytest.mark.parametrize("model", ["pit_ti_224", "crossvit_9_240"])
def test_a_network_that_keeps_no_map_of_the_picture_has_one_position(model: str) -> None:
    found = registry.load("encoders", "timm_model").shapes(
        model=model, weights="random", image_size=int(model[-3:])
    )
    assert found.positions == 1


def test_a_model_with_channels_last_is_no_grid_of_channels() -> None:
    encoder = build(model="test_mambaout", image_size=160)
    pixels = encoder.transform(noise(160, 160))[None]
    with torch.inference_mode():
        maps = encoder.body.forward_features(
            (pixels.float() - encoder.mean) / encoder.std
        )  # (1, 5, 5, 64)
    assert (encoder.positions, encoder.grid_dim) == (25, 64)
    close(encoder(pixels).grid[0, 7], maps[0, 1, 2], 1e-5)


PAPERS = {
    # name: side of the picture, positions, widths of grid and pooled vector, million parameters
    "convnext_tiny": (224, 49, 768, 768, 28.589),
    "convnext_small": (224, 49, 768, 768, 50.224),
    "convnext_base": (224, 49, 1024, 1024, 88.591),
    "convnext_large": (224, 49, 1536, 1536, 197.767),
    "resnet18": (224, 49, 512, 512, 11.690),
    "resnet50": (224, 49, 2048, 2048, 25.557),
    "resnet101": (224, 49, 2048, 2048, 44.549),
    "resnet152": (224, 49, 2048, 2048, 60.193),
    "resnext101_32x8d": (224, 49, 2048, 2048, 88.791),
    "vgg16": (224, 49, 512, 4096, 138.358),
    "mobilenetv3_large_100": (224, 49, 960, 1280, 5.483),
    "inception_v3": (299, 64, 2048, 2048, 23.835),
    "vit_base_patch16_224": (224, 196, 768, 768, 86.568),
    "deit_base_patch16_224": (224, 196, 768, 768, 86.568),
    "tf_efficientnet_lite0": (224, 49, 1280, 1280, 4.652),
}


@pytest.mark.parametrize("model", PAPERS)
def test_the_papers_encoders_have_the_shapes_and_sizes_that_are_published(model: str) -> None:
    size, positions, grid, pooled, millions = PAPERS[model]
    found = module("timm_model").shapes(model=model, weights="hub", image_size=size)
    assert found[:3] == (positions, grid, pooled)
    assert found.parameters / 1e6 == pytest.approx(millions, abs=5e-4)


@pytest.mark.parametrize(
    ("model", "mean", "std", "resampling"),
    [
        ("resnet18", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], Image.Resampling.BICUBIC),
        (
            "resnext50_32x4d.tv_in1k",
            [0.485, 0.456, 0.406],
            [0.229, 0.224, 0.225],
            Image.Resampling.BILINEAR,
        ),
        ("test_vit", [0.5, 0.5, 0.5], [0.5, 0.5, 0.5], Image.Resampling.BICUBIC),
    ],
)
def test_mean_deviation_and_interpolation_are_those_of_the_models_weights(
    model: str, mean: list[float], std: list[float], resampling: Image.Resampling
) -> None:
    encoder = build(model=model, image_size=160)
    assert (encoder.mean.flatten() / 255).tolist() == pytest.approx(mean)
    assert (encoder.std.flatten() / 255).tolist() == pytest.approx(std)
    assert encoder.resampling == resampling


@pytest.mark.parametrize(
    ("model", "side"), [("test_resnet", 4), ("test_vit", 10), ("test_mambaout", 4)]
)
def test_a_grid_of_half_the_side_holds_the_mean_of_each_four_positions(
    model: str, side: int
) -> None:
    size = 160 if model == "test_vit" else 128
    whole, half = (build(model=model, image_size=size, grid=grid) for grid in (0, side // 2))
    pixels = whole.transform(noise(size, size))[None]
    rows = whole(pixels).grid[0].unflatten(0, (side // 2, 2, side // 2, 2))
    close(half(pixels).grid[0], rows.mean((1, 3)).flatten(0, 1), 1e-5)


def test_a_second_scale_adds_the_mean_of_its_four_finer_positions_to_each() -> None:
    plain, two = build(), build(scales=2)
    pixels = plain.transform(noise(64, 64))[None]
    with torch.inference_mode():
        maps = plain.body.forward_intermediates((pixels.float() - plain.mean) / plain.std)[1]
    finer = [m for m in maps if m.shape[2:] == (4, 4)][-1][0]  # (D, 4, 4), the last map has 2 x 2
    squares = finer.unflatten(1, (2, 2)).unflatten(3, (2, 2)).mean((2, 4)).flatten(1).T
    one, both = plain(pixels), two(pixels)
    close(both.grid[0], torch.cat([one.grid[0], squares], -1), 1e-5)
    close(both.pooled[0], torch.cat([one.pooled[0], finer.mean((1, 2))]), 1e-5)


@pytest.mark.parametrize(
    ("model", "cure"),
    [
        (
            "test_efficientnet",
            "scales is 9, and the maps of this model have 5 different resolutions: lower",
        ),
        ("test_vit", "scales is 9, and the maps of this model have 1 different resolutions: lower"),
        ("crossvit_9_240", "timm gives no earlier maps of this model: set scales to 1"),
    ],
)
def test_more_scales_than_a_network_has_are_one_line(model: str, cure: str) -> None:
    size = {"test_efficientnet": 64, "test_vit": 160, "crossvit_9_240": 240}[model]
    with pytest.raises(UserError, match=cure):
        build(model=model, image_size=size, scales=9)


def test_features_with_the_mirror_image_are_the_mean_of_both_with_the_grid_mirrored_back() -> None:
    plain, both = build(), build(mirror=True)
    pixels = plain.transform(noise(64, 64))[None]
    one, other = plain(pixels), plain(pixels.flip(-1))
    found = both(pixels)
    close(found.pooled, (one.pooled + other.pooled) / 2, 1e-5)
    for place, mirrored in enumerate([1, 0, 3, 2]):  # of 2 x 2 positions
        close(found.grid[0, place], (one.grid[0, place] + other.grid[0, mirrored]) / 2, 1e-5)


def test_eight_by_eight_positions_can_be_pooled_to_the_seven_by_seven_of_a_paper() -> None:
    convnext = module("timm_model").shapes(
        model="convnext_tiny", weights="hub", image_size=256, grid=7
    )
    assert convnext == Shapes(49, 768, 768, 28_589_128)


def test_a_branch_is_kept_and_scaled_up_or_left_out_by_its_draw() -> None:
    token = DRAWS.set(torch.tensor([[0.9, 0.3], [0.9, 0.2], [0.1, 0.9]]))
    out = Branch(1, 0.25)(torch.ones(3, 2))
    DRAWS.reset(token)
    close(out, torch.tensor([[4 / 3, 4 / 3], [0, 0], [4 / 3, 4 / 3]]), 1e-6)


@pytest.mark.parametrize(
    ("model", "rates"),
    [
        ("test_convnext", [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4]),
        ("test_vit", [0.08, 0.08, 0.16, 0.16, 0.24, 0.24, 0.32, 0.32, 0.4, 0.4]),
    ],
)
def test_stochastic_depth_equals_timms_own_in_training_mode_with_the_same_draws(
    monkeypatch: pytest.MonkeyPatch, model: str, rates: list[float]
) -> None:
    ours = build("timm_model/stochastic", model=model)
    torch.manual_seed(0)
    theirs = timm.create_model(model, drop_path_rate=0.4).eval()
    depths = [m for m in theirs.modules() if isinstance(m, timm.layers.DropPath)]
    assert [m.drop_prob for m in depths] == pytest.approx(rates)
    for name, weight in [*ours.body.named_parameters(), *theirs.named_parameters()]:
        if name.endswith("gamma"):  # ConvNeXt first scales its branches by a millionth
            weight.data.fill_(1)
    pixels = torch.stack([ours.transform(noise(160, 160, seed)) for seed in range(4)])
    with torch.inference_mode():
        calm = theirs.forward_features((pixels.float() - ours.mean) / ours.std)
    with drawn(pixels, len(rates)):
        draws = DRAWS.get()
    running: list[int] = []
    for n, depth in enumerate(depths):
        depth.train().register_forward_pre_hook(lambda *_, n=n: running.append(n))
    monkeypatch.setattr(
        Tensor,
        "bernoulli_",
        lambda mask, keep: mask.copy_((draws[:, running[-1]] >= 1 - keep).view(mask.shape)),
    )
    with torch.inference_mode():
        maps = theirs.forward_features((pixels.float() - ours.mean) / ours.std)
    close(ours(pixels).grid, ours._grid(maps), 1e-4)
    assert (maps - calm).flatten(1).abs().amax(1).min() > 1e-2, (
        "in every picture something was left out or scaled up"
    )


def test_stochastic_depth_leaves_out_its_share() -> None:
    pixels = torch.randint(
        0, 256, (500, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    with drawn(pixels, 4):
        assert DRAWS.get().lt(0.4).float().mean(0).tolist() == pytest.approx([0.4] * 4, abs=0.06)


def test_the_grid_of_pixels_is_the_picture_and_the_pooled_vector_its_mean_colour() -> None:
    encoder = build("pixels", image_size=60)
    pixels = encoder.transform(stripes())[None]
    features = encoder(pixels)
    assert torch.equal(features.grid.transpose(1, 2).unflatten(2, (60, 60)), pixels.float())
    assert features.grid[0, [0, 30, 59]].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert features.pooled[0].tolist() == pytest.approx([85, 85, 85], abs=1)


def test_pixels_are_stored_as_bytes_and_come_back_as_they_were(tmp_path: Path) -> None:
    encoder = build("pixels", image_size=24)
    shards = put_pictures(tmp_path / "raw", {"a": noise(80, 60), "b": noise(60, 80, 1)})
    extract(encoder, shards, tmp_path / "f", {}, "cpu", threads=1)
    store = FeatureStore(tmp_path / "f")
    assert (
        store.arrays["grid"].dtype,
        store.arrays["grid"].shape,
        store.arrays["pooled"].dtype,
    ) == (
        np.uint8,
        (2, 576, 3),
        np.float16,
    )
    expected = encoder(
        torch.stack([encoder.transform(noise(60, 80, 1)), encoder.transform(noise(80, 60))])
    )
    found = store.get(["b", "a"])
    assert torch.equal(found.grid, expected.grid)
    assert torch.equal(found.grid, expected.grid.half().float()), "as the captioner sees an upload"
    assert torch.equal(found.pooled, expected.pooled.half().float())


def test_pixels_of_no_size_are_one_line() -> None:
    with pytest.raises(
        UserError, match=r"^pixels: image_size is 0: give the side of the picture in pixels$"
    ):
        build("pixels", image_size=0)


def stripes() -> Image.Image:
    """Return a picture of 120 x 60 pixels: red, green and blue thirds from left to right."""
    image = Image.new("RGB", (120, 60), "red")
    image.paste((0, 255, 0), (40, 0, 80, 60))
    image.paste("blue", (80, 0, 120, 60))
    return image


@pytest.mark.parametrize("name", ["timm_model", "pixels"])
@pytest.mark.parametrize("rotate", [False, True])
def test_squash_keeps_the_whole_picture_and_crop_its_middle(name: str, rotate: bool) -> None:
    image = stripes().transpose(Image.Transpose.TRANSPOSE) if rotate else stripes()
    encoders = [build(name, image_size=60, resize=resize) for resize in ("squash", "crop")]
    assert [encoder.crops for encoder in encoders] == [False, True]
    squashed, cropped = (encoder.transform(image) for encoder in encoders)
    if rotate:
        squashed, cropped = squashed.transpose(1, 2), cropped.transpose(1, 2)
    assert squashed.shape == cropped.shape == (3, 60, 60)
    assert squashed[:, 30, [5, 30, 55]].T.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert cropped[:, 30, [5, 30, 55]].T.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    # The widths of the green third.
    assert [int((part[1, 30] > 127).sum()) for part in (squashed, cropped)] == [20, 40]


@pytest.mark.parametrize("name", ["timm_model", "pixels"])
@pytest.mark.parametrize("rotate", [False, True])
def test_pad_keeps_the_whole_picture_and_its_shape(name: str, rotate: bool) -> None:
    image = stripes().transpose(Image.Transpose.TRANSPOSE) if rotate else stripes()
    encoder = build(name, image_size=60, resize="pad")
    assert (encoder.crops, encoder.pads) == (False, True)
    padded = encoder.transform(image)
    if rotate:
        padded = padded.transpose(1, 2)
    assert padded.shape == (3, 60, 60)
    assert padded[:, 30, [5, 30, 55]].T.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert padded[:, [0, 14, 45, 59], 30].T.tolist() == [[122, 116, 104]] * 4
    # The thirds are 20 wide and, as the picture is twice as wide as high, 30 high.
    assert int((padded[1, 30] > 127).sum()) == 20
    assert int((padded[1, :, 30] > 127).sum()) == 30


@pytest.mark.parametrize("size", [(61, 60), (1, 1), (500, 3), (59, 333)])
@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_a_picture_of_any_shape_becomes_a_square(size: tuple[int, int], resize: str) -> None:
    assert build(resize=resize).transform(Image.new("RGB", size, "red")).shape == (3, 64, 64)


def test_local_weights_are_loaded_strictly_from_either_format(tmp_path: Path) -> None:
    torch.manual_seed(3)
    body = timm.create_model("test_efficientnet")
    save_file(body.state_dict(), tmp_path / "w.safetensors")
    torch.save(body.state_dict(), tmp_path / "w.pth")
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    first, second, other = (
        build(weights=weights)(pixels).pooled
        for weights in (str(tmp_path / "w.safetensors"), str(tmp_path / "w.pth"), "random")
    )
    assert torch.equal(first, second)
    assert not torch.allclose(first, other, rtol=1e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "resnet5"}, r"^timm has no model 'resnet5' \(did you mean resnet50, "),
        ({"model": "zzz"}, r"^timm has no model 'zzz': timm\.list_models\(\) names all$"),
        (
            {"model": "test_resnet.no_tag"},
            r"^timm cannot build 'test_resnet.no_tag' \(.*Invalid pretrained tag \(no_tag\)",
        ),
        (
            {"model": "shop:resnet18"},
            r"^timm cannot build 'shop:resnet18' \(.*Unknown model source 'shop'",
        ),
        (
            {"weights": "imagenet"},
            "^weights 'imagenet': not hub, package or random, and no such file$",
        ),
        (
            {"weights": "package"},
            "^no installed package has weights for 'test_efficientnet': there is one for tf_eff",
        ),
        (
            {"model": "vit_tiny_patch16_224"},
            r"^'vit_tiny_patch16_224' does not accept pictures of 64 x 64 pixels \(.*\(224\).*: "
            r"change image_size$",
        ),
        ({"image_size": 0}, "^'test_efficientnet' does not accept pictures of 0 x 0 pixels"),
        (
            {"grid": -1},
            "^grid is -1: give the positions along a side, or 0 for the map as it comes$",
        ),
        (
            {"stochastic_depth": True},
            "^stochastic_depth with drop_path 0.0: give a rate above 0 and below 1$",
        ),
        ({"drop_path": 0.1}, "^drop_path 0.1 does nothing without stochastic_depth: true$"),
        (
            {"model": "vgg11", "stochastic_depth": True, "drop_path": 0.1},
            "^'vgg11' has no stochastic depth in timm: leave stochastic_depth out$",
        ),
    ],
)
def test_what_cannot_be_built_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        build(**changes)
    assert "\n" not in str(error.value)


def test_weights_of_another_model_or_a_broken_file_are_one_line(tmp_path: Path) -> None:
    other, broken = tmp_path / "other.safetensors", tmp_path / "broken.pth"
    save_file({"a": torch.zeros(1)}, other)
    broken.write_bytes(b"junk")
    with pytest.raises(
        UserError,
        match=r"^weights '.*other.safetensors' are not those of 'test_efficientnet' .*Missing key",
    ):
        build(weights=str(other))
    with pytest.raises(
        UserError, match=r"^weights '.*broken.pth' cannot be read \(.*\): expected a state dict$"
    ):
        build(weights=str(broken))


@pytest.mark.timeout(60)
def test_hub_weights_without_network_are_one_line_that_says_where_to_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"^the weights of 'test_efficientnet' cannot be used \(.*HF_HOME"
    ) as error:
        build(weights="hub")
    assert "\n" not in str(error.value)

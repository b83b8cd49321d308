"""Exported models give the same captions as the project, in processes where it is not installed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from captionlab.export import export, onnx, onnx_search
from captionlab.export.hf import _processor
from pipeline.captioner.captioner import Captioner
from pipeline.captioning.captions import caption_features
from pipeline.core import registry
from pipeline.core.errors import UserError
from pipeline.data.files import write_json
from pipeline.decoders.shared.contract import Sizes
from pipeline.decoders.shared.model_folder import build_decoder, read_vocabulary, save_model
from pipeline.decoders.shared.tokenizers import word_tokenizer
from pipeline.decoding import sampling
from pipeline.decoding.generation import Hypothesis
from pipeline.decoding.search import beam_search, greedy
from pipeline.encoders.pixels import Encoder as PixelsEncoder
from pipeline.images.reading import read_image
from tests.captioner.test_captioner import BEAM, SEES, TEXTS, picture, small_args, write_model
from tests.decoders.test_properties import FILES

pytestmark = pytest.mark.slow

ENCODER = {"model": "test_efficientnet", "weights": "random", "image_size": 96}
COUNT = 6
WITHOUT = ["dvc", "mlflow", "great_expectations", "pipeline"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{n}.png" for n in range(COUNT)]
    for n, path in enumerate(paths):
        picture(n).save(path)
    return paths


def tiny_model(folder: Path, name: str, encoder_args: dict[str, Any] = ENCODER) -> Path:
    """Write a model with random weights. Those that read the image are a hundred times larger,
    because the features of a random network hardly differ between pictures."""
    encoder = registry.load("encoders", "timm_model").Encoder(**encoder_args)
    args = small_args(name, folder.parent)
    tokenizer, known = read_vocabulary(name, TEXTS, 1, args, "args")
    sizes = Sizes(encoder.grid_dim, encoder.pooled_dim, len(tokenizer), known)
    torch.manual_seed(0)
    decoder = build_decoder(name, sizes, args)
    with torch.no_grad():
        for weight in decoder.parameters():
            of_image = weight.ndim == 2 and weight.shape[1] == encoder.grid_dim
            weight.copy_(torch.randn_like(weight) * (50 if of_image else 0.5))
    config = {
        "decoder": name,
        "args": args,
        "sizes": asdict(sizes),
        "encoder": {"name": "timm_model", "args": encoder_args},
    }
    save_model(folder, decoder, tokenizer, config)
    write_json(folder / "decode.json", BEAM)
    return folder


def run_without(packages: list[str], code: str, *arguments: Path) -> list[str]:
    """Run code in a process in which importing any of these packages raises ImportError. Return the
    lines that it prints."""
    head = f"import sys\nsys.modules |= dict.fromkeys({packages!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", head + code, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


SAID = """
import caption
from pathlib import Path
paths = [Path(p) for p in sys.argv[1:]]
print(*caption.Captioner()(paths), *caption.Captioner()(paths, beam=1), sep="\\n")
"""


@pytest.mark.parametrize("name", ["soft_attention", "transformer"])
def test_the_graphs_of_onnx_say_what_the_project_says_by_the_rows_search_and_greedily(
    name: str, tmp_path: Path, pictures: list[Path]
) -> None:
    captioner = Captioner.load(tiny_model(tmp_path / "model", name), "cpu")
    by_row, greedily = ([c.text for c in captioner.caption(pictures, b)] for b in (None, 1))
    # Otherwise, neither the search nor the pictures would affect the captions.
    assert by_row != greedily
    assert len(set(by_row)) > 1
    export(captioner, tmp_path / "onnx", "onnx", "# Card\n")
    at = f"sys.path.insert(0, {str(tmp_path / 'onnx')!r})\n"
    without = [*WITHOUT, "captionlab", "torch", "timm", "transformers"]
    assert run_without(without, at + SAID, *pictures) == by_row + greedily
    readme = (tmp_path / "onnx/README.md").read_text()
    assert readme.startswith("# Card\n")
    assert "`encoder.onnx`: pixels" in readme
    f = captioner.encoder(captioner.encoder.transform(picture(0))[None])
    with pytest.raises(
        UserError, match=r"cannot be exported to ONNX \(its graphs say something else\)"
    ):
        onnx._compare(tmp_path / "onnx", [Hypothesis((2,), 0.0)], None, f, name)


# Decoding keys that override the row's own. The vocabulary is smaller than 40 beams.
DECODINGS = [
    {},
    {"beam": 1},
    {"beam": 2, "length_penalty": 0.0, "max_tokens": 3},
    {"beam": 40, "length_penalty": 1.5},
    {"samples": 3, "temperature": 2.0, "seed": 7},
    {"samples": 2, "top_k": 4, "length_penalty": 0.0},
]


@pytest.mark.parametrize("name", onnx.WORK)
def test_the_loop_of_onnx_decodes_as_the_project_does_however_it_is_asked_to(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Covers a beam wider than the vocabulary, truncated captions, samples, and two pictures after
    many."""
    monkeypatch.setitem(SEES, name, "pixels")  # The graph of this encoder is made at once.
    write_model(tmp_path / "model", name)
    captioner = Captioner.load(tmp_path / "model", "cpu", BEAM)
    export(captioner, tmp_path / "onnx", "onnx", "# Card\n")
    exported = onnx._exported_captioner(tmp_path / "onnx")
    seen = [captioner.encoder.transform(picture(n)) for n in range(COUNT)]
    f = captioner.as_stored(captioner.encoder(torch.stack(seen)))
    for asked in DECODINGS:
        decoding = {**BEAM, **asked}
        ours = caption_features(captioner.decoder, captioner.tokenizer, f, decoding)
        assert exported.captions(f.grid.numpy(), f.pooled.numpy(), **asked) == [
            caption.text for caption in ours
        ], asked
        best = [h[0] for h in exported.hypotheses(f.grid.numpy(), f.pooled.numpy(), **asked)]
        assert [len(h.tokens) for h in best] == [caption.tokens for caption in ours]
        expected = [caption.log_prob for caption in ours]
        assert [h.log_prob for h in best] == pytest.approx(expected, abs=1e-3)
    two = exported.captions(f.grid[:2].numpy(), f.pooled[:2].numpy())
    assert two == exported.captions(f.grid.numpy(), f.pooled.numpy())[:2]
    with pytest.raises(TypeError, match="unknown: beem; decoding has alternatives, beam"):
        exported.captions(f.grid.numpy(), f.pooled.numpy(), beem=1)
    step = exported.step
    monkeypatch.setattr(exported, "step", lambda *given: (step(*given)[0] * np.nan, {}))
    for search in ({}, {"beam": 1}, {"samples": 2}):
        with pytest.raises(Exception, match=r"^the model's probabilities are not finite for a pic"):
            exported.captions(f.grid.numpy(), f.pooled.numpy(), **search)


def test_the_words_that_are_drawn_without_torch_are_those_of_torch() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(0, 3, (200, 50)).astype(np.float32)
    scores[:, 7] = -np.inf
    chances = generator.random(200)
    chances[:2] = 0.0, 1 - 2**-53
    for top_k in (0, 1, 5, 49, 50):
        theirs = sampling.draw_by(torch.from_numpy(chances), torch.from_numpy(scores), top_k)
        assert onnx_search.draw_by(chances, scores, top_k).tolist() == theirs.tolist()


def hard_pictures(folder: Path) -> list[Path]:
    """Write pictures that are hard to read, and return their paths: 16-bit grey, floats from 0 to
    1, transparent, rotated by EXIF, very long and very wide."""
    values = np.random.default_rng(3).uniform(0, 1, (40, 50))
    turned = Image.Exif()
    turned[0x0112] = 6
    clear = Image.fromarray((np.dstack([values] * 4) * 255).astype(np.uint8), "RGBA")
    saved: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "grey16.png": (Image.fromarray((values * 65535).astype(np.uint16)), {}),
        "float.tif": (Image.fromarray(values.astype(np.float32)), {}),
        "clear.png": (clear, {}),
        "turned.jpg": (picture(0), {"exif": turned}),
        "long.png": (picture(1).resize((2, 60_000)), {}),
        "wide.png": (picture(2).resize((60_000, 2)), {}),
    }
    for name, (image, options) in saved.items():
        image.save(folder / name, **options)
    return [folder / name for name in saved]


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_the_loop_of_onnx_reads_and_scales_every_picture_as_the_project_does(
    resize: str, tmp_path: Path, pictures: list[Path]
) -> None:
    model = tiny_model(tmp_path / "model", "merge", {**ENCODER, "resize": resize})
    captioner = Captioner.load(model, "cpu")
    export(captioner, tmp_path / "onnx", "onnx", "# Card\n")
    paths = [*pictures, *hard_pictures(tmp_path)]
    code = (
        "import caption\nfrom pathlib import Path\nc = caption.Captioner()\n"
        "print(*[c.pixels(Path(p)).tobytes().hex() for p in sys.argv[1:]], sep='\\n')"
    )
    at = f"sys.path.insert(0, {str(tmp_path / 'onnx')!r})\n"
    assert run_without([*WITHOUT, "torch"], at + code, *paths) == [
        captioner.encoder.transform(read_image(path)).contiguous().numpy().tobytes().hex()
        for path in paths
    ]


def test_the_loop_of_onnx_says_what_is_no_picture_and_captions_the_others(
    tmp_path: Path, pictures: list[Path]
) -> None:
    captioner = Captioner.load(tiny_model(tmp_path / "model", "merge"), "cpu")
    export(captioner, tmp_path / "onnx", "onnx", "# Card\n")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "text\x1b[2J.png").write_text("no picture")
    command = [sys.executable, tmp_path / "onnx/caption.py"]
    named = [pictures[0], tmp_path / "pipe.jpg", tmp_path / "text\x1b[2J.png", pictures[1]]
    done = subprocess.run([*command, *named], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stdout.splitlines() == [
        f"{path}\t{said.text}"
        for path, said in zip(
            (pictures[0], pictures[1]), captioner.caption(pictures[:2]), strict=True
        )
    ]
    assert done.stderr.splitlines() == [
        f"error: {tmp_path}/pipe.jpg: not a regular file (a folder, pipe or device): name a "
        "picture's file",
        f"error: {tmp_path}/text\\x1b[2J.png: not a picture",
    ]
    done = subprocess.run([*command, named[1]], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    asked = [*command, "--beam", "1", named[0]]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=120)
    (greedily,) = captioner.caption(pictures[:1], beam=1)
    assert done.stdout == f"{pictures[0]}\t{greedily.text}\n"
    done = subprocess.run([*command, "--beam", "no", named[0]], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.endswith("--beam: no: give a whole number, 1 to 999\n")


def without(keys: list[str]) -> Any:
    """Return a change that takes a key out of a JSON file."""

    def change(file: Path) -> None:
        content = json.loads(file.read_text())
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]
        file.write_text(json.dumps(content))

    return change


def without_words(file: Path) -> None:
    content = json.loads(file.read_text())
    content["model"]["vocab"], content["added_tokens"] = {"a": 0}, []
    content["model"]["unk_token"] = "a"
    file.write_text(json.dumps(content))


BROKEN: list[tuple[str, Any, str]] = [
    ("config.json", lambda file: file.write_text("{"), "Expecting property name"),
    ("config.json", lambda file: file.write_text("[]"), "it is not the file of an exported model"),
    ("config.json", lambda file: file.write_bytes(b"\xff"), "can't decode byte 0xff"),
    ("config.json", Path.unlink, "it is not there"),
    ("config.json", without(["start"]), "it lacks start"),
    ("config.json", without(["decode", "beam"]), "it lacks beam"),
    ("step.onnx", Path.unlink, "it is not there"),
    ("encoder.onnx", Path.unlink, "it is not there"),
    ("start.onnx", lambda file: file.write_bytes(b"no graph"), ""),
    ("tokenizer.json", lambda file: file.write_text("{}"), ""),
    ("tokenizer.json", Path.unlink, "it is not there"),
    ("tokenizer.json", without_words, "it has 1 words"),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    captioner = Captioner.load(tiny_model(folder / "model", "merge"), "cpu")
    export(captioner, folder / "onnx", "onnx", "# Card\n")
    return folder / "onnx"


@pytest.mark.parametrize(("name", "change", "why"), BROKEN)
def test_a_damaged_folder_of_onnx_is_one_line(
    name: str, change: Any, why: str, exported: Path, tmp_path: Path, pictures: list[Path]
) -> None:
    folder = shutil.copytree(exported, tmp_path / "onnx")
    change(folder / name)
    command = [sys.executable, folder / "caption.py", pictures[0]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {folder}/{name} cannot be used: ")
    assert why in line
    assert line.endswith(": export the model again")


def test_what_torch_cannot_export_is_one_line_that_names_what_it_can(
    tmp_path: Path, captionlab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model(tmp_path / "model", "merge")

    def fails(*arguments: Any) -> None:
        raise RuntimeError("no graph\nof two lines")

    monkeypatch.setattr(onnx, "_decoder", fails)
    status, _, error = captionlab("export", "model", "--to", "out", "--format", "onnx")
    known = "blip, git, hard_attention, lstm, merge, prefix_lm, soft_attention, transformer"
    why = "RuntimeError: no graph of two lines"
    assert (status, error) == (
        2,
        f"error: merge cannot be exported to ONNX ({why}): these can: {known}\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


HF = """
from transformers import AutoModel, AutoTokenizer
from PIL import Image
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
print(*model.caption(sys.argv[2:]), *model.caption(sys.argv[2:], beam=1), sep="\\n")
tokens = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)("a red dog", return_tensors="pt")
print(*model(model.encoder.transform(Image.open(sys.argv[2]))[None], tokens.input_ids).shape)
"""


def test_a_folder_of_hugging_faces_layout_captions_without_the_project(
    tmp_path: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    captioner = Captioner.load(tiny_model(tmp_path / "model", "soft_attention"), "cpu")
    theirs = [c.text for beam in (3, 1) for c in captioner.caption(pictures, beam=beam)]
    export(captioner, tmp_path / "hf", "hf", "# Card\n")
    vocabulary = len(word_tokenizer(TEXTS, 1))
    assert run_without(WITHOUT, HF, tmp_path / "hf", *pictures) == [
        *theirs,
        f"1 5 {vocabulary}",
    ]  # <start> a red dog <end>
    assert {path.suffix for path in (tmp_path / "hf").iterdir()} == {
        ".json",
        ".md",
        ".py",
        ".safetensors",
    }
    assert "from pipeline" not in "".join(
        path.read_text() for path in (tmp_path / "hf").glob("*.py")
    )


@pytest.fixture(scope="module")
def copied_code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give transformers a temporary folder for the model code that it copies. By default it copies
    into the home directory."""
    from transformers import dynamic_module_utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules"))
        )
        patch.setattr(sys, "path", list(sys.path))
        yield


@pytest.fixture
def umask_027() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("copied_code")
@pytest.mark.parametrize("name", ["merge", "transformer"])
def test_a_model_saved_from_transformers_is_the_whole_folder_and_takes_one_picture_or_several(
    name: str, tmp_path: Path, pictures: list[Path], umask_027: None
) -> None:
    from transformers import AutoModel

    captioner = Captioner.load(tiny_model(tmp_path / "model", name), "cpu")
    expected = [caption.text for caption in captioner.caption(pictures)]
    export(captioner, tmp_path / "hf", "hf", "# Card\n")
    model = AutoModel.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    model.save_pretrained(tmp_path / "again")
    names = [sorted(p.name for p in (tmp_path / f).iterdir()) for f in ("hf", "again")]
    assert names[0] == names[1]
    files = [file for folder in ("hf", "again") for file in (tmp_path / folder).iterdir()]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o640}
    again = AutoModel.from_pretrained(tmp_path / "again", trust_remote_code=True)
    for one in (str(pictures[0]), pictures[0], pictures[0].read_bytes(), picture(0)):
        assert again.caption(one) == expected[0]
    assert again.caption(pictures) == again.caption([picture(n) for n in range(COUNT)]) == expected


def test_the_command_captions_with_an_exported_model_as_with_the_model_itself(
    tmp_path: Path, pictures: list[Path], captionlab: Any
) -> None:
    model = tiny_model(tmp_path / "model", "soft_attention")
    export(Captioner.load(model, "cpu"), tmp_path / "hf", "hf", "# Card\n")
    said = [captionlab("caption", pictures[0], "--model", tmp_path / f) for f in ("model", "hf")]
    assert said[0] == said[1]
    assert said[0][0] == 0
    config = json.loads((tmp_path / "hf/config.json").read_text())
    for change, message in [
        ({"captioner": "merge"}, "captioner: expected keys with values, found a text"),
        (
            {"captioner": {**config["captioner"], "decode": []}},
            "captioner.decode: expected keys with values, found a list",
        ),
        (
            {"captioner": {**config["captioner"], "decode": {"beam": 0}}},
            "beam: expected at least 1, found 0",
        ),
    ]:
        (tmp_path / "hf/config.json").write_text(json.dumps({**config, **change}))
        status, _, error = captionlab("caption", pictures[0], "--model", tmp_path / "hf")
        assert (status, error.count("\n")) == (2, 1)
        assert error.startswith(f"error: {tmp_path / 'hf'}/config.json: {message}")
        assert error.endswith(": captionlab export writes it anew\n")
    (tmp_path / "hf/config.json").write_text(json.dumps(config))
    (tmp_path / "hf/model.safetensors").write_bytes(b"cut")
    status, _, error = captionlab("caption", pictures[0], "--model", tmp_path / "hf")
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith(f"error: {tmp_path / 'hf'} is not a complete export (")


@pytest.mark.parametrize("name", ["blip", "git", "vit_gpt2", "adapter"])
def test_the_command_says_who_opens_a_model_of_transformers(
    name: str, tmp_path: Path, pictures: list[Path], captionlab: Any
) -> None:
    if name == "adapter":
        (tmp_path / "hf").mkdir()
        (tmp_path / "hf/adapter_config.json").write_text("{}")
    else:
        write_model(tmp_path / "model", name)
        export(Captioner.load(tmp_path / "model", "cpu", BEAM), tmp_path / "hf", "hf", "# Card\n")
    status, out, error = captionlab("caption", pictures[0], "--model", tmp_path / "hf")
    assert (status, out) == (2, "")
    theirs = "an adapter for peft" if name == "adapter" else "a model of transformers"
    assert error.splitlines()[-1] == (
        f"error: {tmp_path}/hf is {theirs}, which captionlab does not run: its README.md says how "
        "to open it, or name the model folder that it was exported from"
    )


@pytest.mark.usefixtures("copied_code")
@pytest.mark.parametrize("name", [n for n in registry.names("decoders") if n not in FILES])
def test_every_decoder_that_goes_with_its_code_says_what_it_says_in_the_project(
    name: str, tmp_path: Path, pictures: list[Path]
) -> None:
    from transformers import AutoImageProcessor, AutoModel

    captioner = Captioner.load(tiny_model(tmp_path / "model", name), "cpu")
    export(captioner, tmp_path / f"hf_{name}", "hf", "# Card\n")
    model = AutoModel.from_pretrained(tmp_path / f"hf_{name}", trust_remote_code=True)
    assert type(model.decoder).__module__.startswith("transformers_modules.")
    processor = AutoImageProcessor.from_pretrained(tmp_path / f"hf_{name}", trust_remote_code=True)
    ours = torch.stack([captioner.encoder.transform(read_image(path)) for path in pictures])
    theirs = processor([Image.open(path) for path in pictures], return_tensors="pt")
    assert theirs.keys() == {"pixel_values"}
    assert torch.equal(theirs["pixel_values"], ours)
    one = processor(str(pictures[0]), return_tensors="np")["pixel_values"]
    assert (one == ours[:1].numpy()).all()
    ids = torch.full((len(pictures), 1), captioner.tokenizer.special.start)
    assert model(**theirs, input_ids=ids).shape[:2] == ids.shape
    processor.save_pretrained(tmp_path / "processor")
    saved = json.loads((tmp_path / "processor/preprocessor_config.json").read_text())
    assert saved["encoder"] == processor.encoder
    assert model.captions(pictures) == [same_kind(c, model) for c in captioner.caption(pictures)]


def same_kind(caption: Any, model: Any) -> Any:
    """Convert a caption to the Caption class of the exported code."""
    return sys.modules[type(model).__module__].Caption(**asdict(caption))


@pytest.mark.parametrize("name", ["blip", "git", "vit_gpt2"])
def test_a_decoder_of_transformers_is_exported_as_that_model(
    name: str, tmp_path: Path, pictures: list[Path]
) -> None:
    """Compares greedy tokens, given the project's own pixels."""
    import transformers

    from captionlab.export.hf import NATIVE

    write_model(tmp_path / "model", name)
    captioner = Captioner.load(tmp_path / "model", "cpu", BEAM)
    export(captioner, tmp_path / "hf", "hf", "# Card\n")
    kind = json.loads((tmp_path / "hf/config.json").read_text())["model_type"]
    model = getattr(transformers, NATIVE[kind]).from_pretrained(tmp_path / "hf").eval()
    f = captioner.encoder(
        torch.stack([captioner.encoder.transform(picture(n)) for n in range(COUNT)])
    )
    special = captioner.tokenizer.special
    ours = greedy(captioner.decoder, f, special, 5)
    logits = first_logits(
        model,
        captioner.decoder.pixels(f.grid),
        captioner.decoder.ids[special.start].expand(COUNT, 1),
    )
    logits[
        :, [i for i in (special.pad, special.start, special.unknown) if i < logits.shape[1]]
    ] = -torch.inf
    assert logits.argmax(-1).tolist() == [hypothesis.tokens[0] for hypothesis in ours]
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    seen = processor([picture(0)], return_tensors="pt")["pixel_values"]
    assert (seen - captioner.decoder.pixels(f.grid)[:1]).abs().max() < 0.05
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "hf").decode(
        list(ours[0].tokens), skip_special_tokens=True
    )
    if name != "vit_gpt2":  # transformers has no processor for it that takes pictures and texts.
        pipe = transformers.pipeline("image-text-to-text", model=str(tmp_path / "hf"))
        (said,) = pipe(images=picture(0), text="", max_new_tokens=5)
        tokens = model.generate(pixel_values=seen, max_new_tokens=5)[0]
        assert said["generated_text"] == pipe.tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize(("size", "seam"), [((32, 20), 0), ((20, 32), 0), ((64, 40), 2)])
def test_the_image_processor_of_an_export_pads_as_the_encoder_does(
    size: tuple[int, int], seam: int, tmp_path: Path
) -> None:
    """transformers scales after it has filled, so rows beside the seam differ in the last case."""
    from transformers import AutoImageProcessor

    encoder = PixelsEncoder(image_size=32, resize="pad", interpolation="bicubic")
    clip = {"mean": torch.tensor(OPENAI_CLIP_MEAN), "std": torch.tensor(OPENAI_CLIP_STD)}
    captioner: Any = SimpleNamespace(encoder=encoder, decoder=SimpleNamespace(side=32, **clip))
    write_json(tmp_path / "preprocessor_config.json", _processor(captioner))
    image = picture(0).resize(size)
    found = AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt").pixel_values
    mean, std = (clip[name].view(3, 1, 1) for name in ("mean", "std"))
    theirs = (found[0] * std + mean) * 255
    apart = (theirs - encoder.transform(image)).abs().amax(0)
    top = (32 - 20) // 2
    beside = [row for edge in (top, top + 20) for row in range(edge - seam, edge + seam)]
    apart[beside] = 0
    assert apart.max() < 1.01 * bool(seam) + 0.01


def lively(decoder: Any, of_places: float, plain: bool) -> None:
    """Set weights with which the caption depends on the picture and on the beam width."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in decoder.named_parameters():
            if weight.ndim == 2:
                wide = "osition" in name or "wpe" in name
                weight.copy_(torch.randn_like(weight) * (of_places if wide else 0.5))
            elif plain and weight.ndim == 1:
                weight.fill_(float(name.endswith("weight")))


@pytest.mark.parametrize(
    ("name", "weights"), [("blip", (3, True)), ("git", (0.3, True)), ("vit_gpt2", (8, False))]
)
def test_the_model_of_transformers_searches_as_its_readme_says_and_finds_the_rows_captions(
    name: str, weights: tuple[float, bool], tmp_path: Path
) -> None:
    import transformers

    from captionlab.export.hf import NATIVE

    write_model(tmp_path / "model", name)
    captioner = Captioner.load(tmp_path / "model", "cpu", BEAM)
    lively(captioner.decoder, *weights)
    export(captioner, tmp_path / "hf", "hf", "# Card\n")
    kind = json.loads((tmp_path / "hf/config.json").read_text())["model_type"]
    model = getattr(transformers, NATIVE[kind]).from_pretrained(tmp_path / "hf").eval()
    readme = (tmp_path / "hf/README.md").read_text()
    call = readme[readme.index("model.generate(") : readme.index("\nprint(")]
    f = captioner.encoder(
        torch.stack([captioner.encoder.transform(picture(n)) for n in range(COUNT)])
    )
    seen = {"model": model, "pixels": {"pixel_values": captioner.decoder.pixels(f.grid)}}
    end = int(captioner.decoder.ids[captioner.tokenizer.special.end])
    theirs = [up_to(end, row[1:].tolist()) for row in eval(call, seen)]
    search = (captioner.tokenizer.special, 3, BEAM["max_tokens"], BEAM["length_penalty"])
    ours = [h[0].tokens for h in beam_search(captioner.decoder, f, *search)]
    assert theirs == [captioner.decoder.ids[list(tokens)].tolist() for tokens in ours]
    greedily = greedy(captioner.decoder, f, captioner.tokenizer.special, BEAM["max_tokens"])
    assert ours != [h.tokens for h in greedily]
    assert len(set(ours)) > 1
    if name != "blip":  # BLIP's `generate` does not read generation_config.json.
        own = model.generate(**seen["pixels"])
        assert [up_to(end, row[1:].tolist()) for row in own] == theirs


def up_to(end: int, tokens: list[int]) -> list[int]:
    """Return the tokens up to and including the end token."""
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def first_logits(model: Any, pixels: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return the logits for the first word of each caption."""
    with torch.no_grad():
        if model.config.model_type == "vision-encoder-decoder":
            return model(pixel_values=pixels, decoder_input_ids=ids).logits[:, -1]
        if model.config.model_type == "git":
            return model(pixel_values=pixels, input_ids=ids).logits[:, -1]
        image = model.vision_model(pixel_values=pixels).last_hidden_state
        return model.text_decoder(input_ids=ids, encoder_hidden_states=image).logits[:, -1]


def test_a_decoder_that_loads_an_encoder_by_name_is_refused_by_hf(
    tmp_path: Path, captionlab: Any
) -> None:
    write_model(tmp_path / "model", "blind")
    write_json(tmp_path / "model/decode.json", BEAM)
    status, _, error = captionlab(
        "export", tmp_path / "model", "--to", tmp_path / "out", "--format", "hf"
    )
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith("error: blind cannot be exported to hf: ")
    assert "merge, lstm, soft_attention, hard_attention, transformer, prefix_lm" in error
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_and_an_unknown_format_are_one_line_and_nothing_is_lost(
    tmp_path: Path, captionlab: Any
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("kept")
    status, _, error = captionlab("export", "champion", "--to", tmp_path / "out", "--format", "hf")
    assert (status, error) == (
        2,
        f"error: {tmp_path / 'out'} exists already: name a folder that is new or empty\n",
    )
    status, _, error = captionlab(
        "export", "champion", "--to", tmp_path / "new", "--format", "gguf"
    )
    assert (status, error) == (2, "error: unknown format 'gguf': there are hf, onnx\n")
    assert (tmp_path / "out/mine").read_text() == "kept"


def test_the_published_card_goes_along(
    tmp_path: Path, captionlab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny_model(tmp_path / "model", "merge")
    assert captionlab("export", model, "--to", tmp_path / "none", "--format", "hf")[0] == 0
    assert (
        "test_efficientnet: none, its weights are drawn at random"
        in (tmp_path / "none/README.md").read_text()
    )
    # The folder of the workspace and the export have other files, and are loaded otherwise.
    assert "pipeline.captioner" not in (tmp_path / "none/README.md").read_text()
    (model / "README.md").write_text("# Of its run\n")
    assert captionlab("export", model, "--to", tmp_path / "out", "--format", "hf")[0] == 0
    assert (tmp_path / "out/README.md").read_text().startswith("# Of its run\n\n## Use\n")
    shutil.rmtree(tmp_path / "out")

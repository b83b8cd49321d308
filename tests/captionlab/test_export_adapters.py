"""Exported adapters give the captions of the project, in plain transformers and peft."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from captionlab.export import export, hf_read
from pipeline.captioner.captioner import Captioner
from pipeline.core import registry
from pipeline.decoders.shared.model_folder import save_model
from pipeline.decoding.search import beam_search
from tests.adapted import PUBLISH, features, opened, tuned
from tests.captioner.test_captioner import BEAM, picture
from tests.captionlab.test_export import ENCODER, WITHOUT, first_logits, run_without, up_to
from tests.decoders.test_vlm import opened as opened_vlm
from tests.published import SIDE
from tests.vision_language import SIDE as VLM_SIDE
from tests.vision_language import publish

pytestmark = pytest.mark.slow

SAID = """
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
print(*model.caption(sys.argv[2:]), sep="\\n")
"""


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{n}.png" for n in range(4)]
    for n, path in enumerate(paths):
        picture(n).save(path)
    return paths


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("name", ["blip", "git", "vit_gpt2"])
def test_an_adapter_is_exported_to_peft_and_finds_the_rows_captions_on_its_base(
    name: str, dora: bool, tmp_path: Path
) -> None:
    from peft import AutoPeftModel
    from transformers import PreTrainedTokenizerFast

    PUBLISH[name](tmp_path / "base")
    decoder, tokenizer, about = opened(name, tmp_path / "base", lora={"rank": 2, "dora": dora})
    encoder = {"name": "pixels", "args": {"image_size": SIDE}}
    save_model(tmp_path / "m", tuned(decoder, 0.3), tokenizer, {**about, "encoder": encoder})
    captioner = Captioner.load(tmp_path / "m", "cpu", BEAM)
    export(captioner, tmp_path / "hf", "hf", "# Card\n")
    files = {path.name for path in (tmp_path / "hf").iterdir()}
    assert files == {
        *("README.md", "adapter_config.json", "adapter_model.safetensors"),
        *("preprocessor_config.json", "tokenizer.json"),
    }
    model = AutoPeftModel.from_pretrained(tmp_path / "hf").eval()
    readme = (tmp_path / "hf/README.md").read_text()
    assert f"the weights of `{tmp_path / 'base'}`" in readme
    call = readme[readme.index("model.generate(") : readme.index("\nprint(")]
    seen = {"model": model, "pixels": {"pixel_values": captioner.decoder.pixels(features().grid)}}
    end = int(captioner.decoder.ids[tokenizer.special.end])
    theirs = [up_to(end, row[1:].tolist()) for row in eval(call, seen)]
    search = (tokenizer.special, 3, BEAM["max_tokens"], BEAM["length_penalty"])
    ours = [h[0].tokens for h in beam_search(decoder, features(), *search)]
    assert theirs == [decoder.ids[list(tokens)].tolist() for tokens in ours]
    plain, _, _ = opened(name, tmp_path / "base")
    assert ours != [h[0].tokens for h in beam_search(plain, features(), *search)]
    words = PreTrainedTokenizerFast.from_pretrained(tmp_path / "hf")
    assert words.decode(list(ours[0]), skip_special_tokens=True) == tokenizer.decode(ours[0])


@pytest.mark.parametrize("name", ["blip", "git", "vit_gpt2"])
def test_an_adapter_in_random_weights_is_exported_as_the_whole_model(
    name: str, tmp_path: Path
) -> None:
    import transformers

    from captionlab.export.hf import NATIVE

    PUBLISH[name](tmp_path / "base")
    args = {"weights": "random", "lora": {"rank": 2}}
    decoder, tokenizer, about = opened(name, tmp_path / "base", **args)
    encoder = {"name": "pixels", "args": {"image_size": SIDE}}
    save_model(tmp_path / "m", tuned(decoder), tokenizer, {**about, "encoder": encoder})
    captioner = Captioner.load(tmp_path / "m", "cpu", BEAM)
    export(captioner, tmp_path / "hf", "hf", "# Card\n")
    kind = json.loads((tmp_path / "hf/config.json").read_text())["model_type"]
    model = getattr(transformers, NATIVE[kind]).from_pretrained(tmp_path / "hf").eval()
    f, start = features(), decoder.ids[tokenizer.special.start].expand(4, 1)
    theirs = first_logits(model, captioner.decoder.pixels(f.grid), start)
    with torch.no_grad():
        ours = decoder(f, torch.full((4, 1), tokenizer.special.start))[:, -1]
    assert torch.allclose(ours, theirs, atol=1e-3)


def test_a_prefix_lm_with_an_adapter_is_exported_whole_and_needs_neither_peft_nor_its_base(
    tmp_path: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    PUBLISH["prefix_lm"](tmp_path / "base")
    made = registry.load("encoders", "timm_model").Encoder(**ENCODER)
    decoder, tokenizer, about = opened(
        "prefix_lm", tmp_path / "base", made.pooled_dim, made.grid_dim, lora={"rank": 2}
    )
    with torch.no_grad():
        tuned(decoder, 0.3).mapping.hidden.weight.mul_(50)
    encoder = {"name": "timm_model", "args": ENCODER}
    save_model(tmp_path / "m", decoder, tokenizer, {**about, "encoder": encoder})
    captioner = Captioner.load(tmp_path / "m", "cpu", BEAM)
    expected = [caption.text for caption in captioner.caption(pictures)]
    assert len(set(expected)) > 1
    export(captioner, tmp_path / "hf_adapted", "hf", "# Card\n")
    (tmp_path / "base").rename(tmp_path / "gone")
    needs = (tmp_path / "hf_adapted/README.md").read_text()
    assert "peft" not in needs
    assert run_without([*WITHOUT, "peft"], SAID, tmp_path / "hf_adapted", *pictures) == expected
    again = hf_read.read(tmp_path / "hf_adapted", "cpu")
    assert [caption.text for caption in again.caption(pictures)] == expected


@pytest.mark.parametrize("name", ["blip", "git", "prefix_lm"])
def test_the_graphs_of_onnx_have_the_adapter_in_their_weights(name: str, tmp_path: Path) -> None:
    """`export` compares the graphs' captions with the project's."""
    PUBLISH[name](tmp_path / "base")
    decoder, tokenizer, about = opened(name, tmp_path / "base", lora={"rank": 2, "dora": True})
    encoder = {"name": "pixels", "args": {"image_size": SIDE}}
    save_model(tmp_path / "m", tuned(decoder, 0.3), tokenizer, {**about, "encoder": encoder})
    captioner = Captioner.load(tmp_path / "m", "cpu", BEAM)
    export(captioner, tmp_path / "onnx", "onnx", "# Card\n")
    assert b"lora_" not in (tmp_path / "onnx/step.onnx").read_bytes()


def test_a_vlm_with_an_adapter_in_random_weights_is_exported_as_the_whole_model(
    tmp_path: Path,
) -> None:
    from transformers import AutoModelForImageTextToText

    publish(tmp_path / "base", "llava")
    args = {"tune": "adapter", "lora": {"rank": 2}, "weights": "random"}
    decoder, tokenizer, sizes, args = opened_vlm(tmp_path / "base", **args)
    encoder = {"name": "pixels", "args": {"image_size": VLM_SIDE}}
    about = {"decoder": "vlm", "args": args, "sizes": asdict(sizes), "encoder": encoder}
    save_model(tmp_path / "m", tuned(decoder), tokenizer, about)
    captioner = Captioner.load(tmp_path / "m", "cpu", BEAM)
    export(captioner, tmp_path / "hf", "hf", "# Card\n")
    load = AutoModelForImageTextToText.from_pretrained
    model, info = load(tmp_path / "hf", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    asked = decoder.inputs(torch.arange(3 * VLM_SIDE**2).view(1, 3, VLM_SIDE, VLM_SIDE).byte())
    with torch.no_grad():
        ours, theirs = decoder.body(**asked).logits, model.eval()(**asked).logits
    assert torch.allclose(ours, theirs, atol=1e-3)

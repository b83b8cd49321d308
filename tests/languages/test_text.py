"""Captions in other languages, as cleaning and scoring see them."""

import subprocess
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.tokenizers.tokenizer_intl import TokenizerV14International
from sacrebleu.tokenizers.tokenizer_ja_mecab import TokenizerJaMecab
from sacrebleu.tokenizers.tokenizer_ko_mecab import TokenizerKoMecab
from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

from captionlab.extras import EXTRAS
from pipeline.cleaning.clean import clean_text
from pipeline.core.errors import UserError
from pipeline.languages import tokens as tokens_module
from pipeline.languages.languages import find_language, in_another_script, languages
from pipeline.languages.text import joined
from pipeline.languages.tokens import NEEDS, tokenizer, tokens
from pipeline.metrics import bleu, cider, rouge_l
from tests.languages.captions import LANGUAGES, published
from tests.workspace import ROOT, tiny_params, write_params

THEIRS = {
    "ar": TokenizerV14International, "de": TokenizerV14International,
    "hi": TokenizerV14International, "vi": TokenizerV14International,
    "ja": TokenizerJaMecab, "zh": TokenizerZh,
}  # fmt: skip


def cleaned(text: str, code: str, punctuation: str = "drop") -> str:
    options = SimpleNamespace(
        language=code, lower=True, punctuation=punctuation, one_letter_words="keep"
    )
    return clean_text(text, options)


@pytest.mark.parametrize(
    ("code", "raw", "expected"),
    [
        ("de", "Der „braune“ Hund – über's Gras!", "der braune hund über's gras"),
        ("de", "Ho\u0308lzerne Bru\u0308cke", "hölzerne brücke"),  # NFD
        ("fr", "L’été, près de l‘eau", "l'été près de l'eau"),
        ("ca", "Una paral·lela", "una paral·lela"),
        ("tr", "IŞIK İyi", "ışık iyi"),
        ("ar", "\u200fكلبٌ بنيّ، يركض؟\u200e", "كلبٌ بنيّ يركض"),
        ("he", "כלב־ים, חום.", "כלב ים חום"),
        ("fa", "سگ می\u200cدود.", "سگ می\u200cدود"),
        ("hi", "एक कुत्ता दौड़ता है।", "एक कुत्ता दौड़ता है"),
        ("hi", "क्\u200dष ✌️", "क्\u200dष"),
        ("zh", "一只狗，穿着T恤。", "一 只 狗 穿 着 t 恤"),
        ("ja", "犬が、草の上を走っている。", "犬 が 草 の 上 を 走っ て いる"),
        ("ko", "갈색 개가 달린다.", "갈색 개가 달린다"),
        ("th", "สุนัขวิ่งบนหญ้า", "สุนัข วิ่ง บน หญ้า"),
        ("vi", "Một con chó, nâu.", "một con chó nâu"),
    ],
)
def test_a_caption_is_cleaned_as_its_language_is_written(
    code: str, raw: str, expected: str
) -> None:
    wanted = unicodedata.normalize("NFC", expected)
    assert cleaned(raw, code) == wanted
    assert cleaned(wanted, code) == wanted


def test_punctuation_that_is_kept_is_a_token_where_there_are_no_spaces() -> None:
    assert cleaned("一只狗。", "zh", "keep") == "一 只 狗 。"
    assert cleaned("Ein Hund.", "de", "keep") == "ein hund."


@pytest.mark.parametrize("code", THEIRS)
def test_tokens_are_those_of_sacrebleu_without_punctuation(code: str) -> None:
    theirs = THEIRS[code]()
    for texts in published(code).values():
        for text in texts:
            words = theirs(unicodedata.normalize("NFC", text).lower()).split()
            known = [w for w in words if not all(unicodedata.category(c)[0] == "P" for c in w)]
            assert tokens(text, find_language(code)) == " ".join(known)


def test_korean_is_parted_as_sacrebleu_does() -> None:
    assert tokens("갈색 개가 달린다.", find_language("ko")) == "갈색 개 가 달린다"
    assert TokenizerKoMecab()("갈색 개가 달린다.").split()[:-1] == ["갈색", "개", "가", "달린다"]


@pytest.mark.parametrize("code", THEIRS)
def test_bleu_equals_sacrebleus_with_its_own_tokenizer(code: str) -> None:
    """The texts have no punctuation, because sacrebleu would compare it, too."""
    plain = {
        i: [cleaned(t, code).replace("'", " ") for t in two] for i, two in published(code).items()
    }
    texts = {i: [joined(t, find_language(code)) for t in two] for i, two in plain.items()}
    said = {i: texts[f"{(int(i) + 1) % 18:02}"][0] for i in texts}
    language = find_language(code)
    ours = bleu.score(
        {i: tokens(text, language) for i, text in said.items()},
        {i: [tokens(text, language) for text in two] for i, two in texts.items()},
    )
    theirs = BLEU(tokenize=language.tokenizer, lowercase=True, smooth_method="none")
    streams = [list(stream) for stream in zip(*texts.values(), strict=True)]
    expected = theirs.corpus_score(list(said.values()), streams).score / 100
    assert expected > 0.1
    assert ours.corpus["bleu_4"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_caption_that_is_its_reference_has_the_best_score(code: str) -> None:
    language = find_language(code)
    texts = {i: [tokens(t, language) for t in two] for i, two in published(code).items()}
    said = {i: two[0] for i, two in texts.items()}
    assert bleu.score(said, texts).corpus["bleu_1"] == pytest.approx(1)
    assert rouge_l.score(said, texts).corpus["rouge_l"] == 1
    assert cider.score(said, texts).corpus["cider"] > 3


def test_every_language_has_a_name_a_script_and_a_tokenizer_that_is_described() -> None:
    for code, language in languages().items():
        assert language.code == code
        assert language.direction == (
            "rtl" if code in {"ar", "fa", "he", "ps", "ur", "yi"} else "ltr"
        )
        assert language.tokenizer in tokens_module.SACREBLEU.keys() | {"ptb", "newmm"}
        assert all(name.isupper() for name in language.scripts)
        assert in_another_script(
            "дом" if "LATIN" in language.scripts and code != "sr" else "νερό", language
        ) or code in {"el", "sr"}


def test_the_page_counts_the_languages() -> None:
    page = (ROOT / "docs/howto/another-language.md").read_text("utf-8")
    assert f"{len(languages()) - 1} others are known" in page


def test_a_plan_says_which_tokenizer_is_not_installed(
    captionlab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    params = tiny_params()
    params["corpora"]["scenes"]["language"] = "ja"
    write_params(tmp_path, params)
    monkeypatch.setattr(tokens_module, "find_spec", lambda package: None)
    status, out, err = captionlab("plan", tmp_path / "params.yaml")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: the tokenizer ja-mecab needs the package MeCab")


def test_a_foreign_name_does_not_make_a_caption_foreign() -> None:
    assert not in_another_script("一件 Manchester United T恤", find_language("zh"))
    assert in_another_script("a dog", find_language("zh"))
    assert in_another_script("एक कुत्ता", find_language("en"))
    assert not in_another_script("42 !", find_language("hi"))


def test_an_unknown_language_is_told_with_those_there_are() -> None:
    with pytest.raises(UserError, match=r"^unknown language 'zz': there are af, am, ar, "):
        find_language("zz")
    with pytest.raises(UserError, match=r"^unknown language 'eng' \(did you mean 'en'\?\)"):
        find_language("eng")


@pytest.mark.parametrize("name", NEEDS)
def test_a_tokenizer_that_is_not_installed_names_its_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer.cache_clear()
    monkeypatch.setattr(tokens_module, "find_spec", lambda package: None)
    with pytest.raises(UserError) as error:
        tokenizer(name)
    assert str(error.value) == (
        f"the tokenizer {name} needs the package {NEEDS[name][0]}, which is not installed: "
        'pip install "captionlab[languages]" (in a clone: make env)'
    )
    tokenizer.cache_clear()
    assert set(NEEDS[name]) <= set(EXTRAS["languages"])


def test_the_thai_tokenizer_leaves_the_home_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from pipeline.languages.tokens import tokenizer; print(tokenizer('newmm')('สุนัขวิ่ง'))"
    monkeypatch.setenv("HOME", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "สุนัข วิ่ง\n"
    assert list(tmp_path.iterdir()) == []

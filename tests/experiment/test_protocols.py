"""Protocols: what each compares, and that its scores are those of the tool its source used.

Several protocols never share a column.
"""

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from nltk.translate.bleu_score import corpus_bleu
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from pipeline.core.errors import UserError
from pipeline.experiment.params import load_params
from pipeline.experiment.protocols import FILE, find_protocol, of_paper, tokenise
from pipeline.report.formats import csv_text, markdown
from pipeline.report.latex import escaped, latex
from pipeline.report.paper_tables import paper_sheets
from pipeline.report.results_table import everything
from pipeline.results.estimates import Estimate
from pipeline.results.scores import MEAN, OWN, Key, ScoreTable
from pipeline.results.values import Mean
from pipeline.scoring.teacher_forced import teacher_forced_sums
from pipeline.scoring.variant import Known, Said, score_variant
from tests.report.test_results_table import PAPERS, TEST, VAL, baseline, result
from tests.score_tables import joined
from tests.score_tables import scores as scores_of
from tests.workspace import ROOT, tiny_params, write_params

PUBLISHED = {
    "a": ["A brown dog runs .", "The dog is running fast .", "A dog"],
    "b": ["Two men , on a bench .", "Men sit on a bench"],
    "c": ["A red ball lies in the grass .", "a ball"],
}
SAID = {"a": "a dog runs .", "b": "a man on a bench", "c": "a red ball in the grass ."}


pytestmark = pytest.mark.usefixtures("restore_java")


def ids(rng: np.random.Generator, longest: int) -> list[int]:
    return [*map(int, rng.integers(2, 7, rng.integers(1, longest))), 1]


def forced(images: int = 12, longest: int = 9) -> pd.DataFrame:
    """Return one to five references per image, each with an argmax of the same length.

    The vocabulary is small, so that long n-grams match.
    """
    rng = np.random.default_rng(3)
    rows = []
    for n in range(images):
        for _ in range(rng.integers(1, 6)):
            reference = ids(rng, longest)
            guess = [i if rng.random() < 0.7 else int(rng.integers(1, 7)) for i in reference]
            rows.append((f"i{n:02}", "test", reference, guess))
    return pd.DataFrame(rows, columns=["image_id", "split", "reference", "argmax"])


@pytest.mark.parametrize("longest", [9, 3])
def test_teacher_forced_bleu_is_nltks_corpus_bleu_over_all_hypotheses(longest: int) -> None:
    """Captions of two words have no 4-gram; nltk uses its smallest float instead."""
    table = forced(longest=longest)
    sums = teacher_forced_sums(table)
    ours = {name: float(value) for name, value in sums.score(sums.statistics.sum(0)).items()}
    references = [list(table.reference[table.image_id == image]) for image in table.image_id]
    for n in (1, 2, 3, 4):
        theirs = corpus_bleu(references, list(table.argmax), weights=[1 / n] * n)
        assert ours[f"bleu_{n}"] == pytest.approx(theirs, rel=1e-9), n


def test_teacher_forced_bleu_of_nothing_right_is_0() -> None:
    sums = teacher_forced_sums(
        pd.DataFrame({"image_id": ["a"], "reference": [[3, 4, 1]], "argmax": [[5, 6, 7]]})
    )
    assert {
        name: float(v) for name, v in sums.score(sums.statistics.sum(0)).items()
    } == dict.fromkeys(("bleu_1", "bleu_2", "bleu_3", "bleu_4"), 0.0)


def said(texts: dict[str, str] = SAID, **more: Any) -> Said:
    captions = pd.DataFrame(
        {"image_id": list(texts), "split": "test", "text": list(texts.values())}
    )
    blank = captions.assign(seed=0, search="").iloc[:0]
    return Said(
        captions,
        more.get("searches", blank),
        more.get("teacher_forced", blank),
        more.get("seeds", blank),
    )


def known(tokens: str) -> Known:
    return Known(
        {i: [tokenise(t, tokens) for t in texts] for i, texts in PUBLISHED.items()},
        PUBLISHED,
        set(),
    )


def theirs(candidates: dict[str, str], references: dict[str, list[str]]) -> dict[str, float]:
    guesses = {i: [text] for i, text in candidates.items()}
    bleus = Bleu(4).compute_score(references, guesses, verbose=0)[0]
    out = {f"bleu_{n + 1}": b for n, b in enumerate(bleus)}
    return {
        **out,
        "rouge_l": Rouge().compute_score(references, guesses)[0],
        "cider": Cider().compute_score(references, guesses)[0],
    }


@pytest.mark.parametrize(
    ("protocol", "dog"), [("raw", "a brown dog runs ."), ("cleaned-references", "brown dog runs")]
)
def test_a_protocol_is_the_original_metric_on_the_text_that_it_names(
    protocol: str, dog: str
) -> None:
    tokens = find_protocol(protocol).tokens
    assert tokenise(PUBLISHED["a"][0], tokens) == dog
    scores = score_variant(
        said(), known("letters"), ["bleu", "rouge_l", "cider"], [protocol]
    ).scores
    candidates = {i: tokenise(text, tokens) for i, text in SAID.items()}
    references = {i: [tokenise(t, tokens) for t in texts] for i, texts in PUBLISHED.items()}
    for name, value in theirs(candidates, references).items():
        assert scores.value("test", name, protocol) == pytest.approx(value, abs=1e-9), name


def test_the_closing_full_stop_is_a_word_of_the_raw_protocol_alone() -> None:
    """By hand: of 4 + 5 + 7 words, "man" and one "a" of b do not match.

    The closest references have 5 + 5 + 8 words.
    """
    scores = score_variant(said(), known("spaces"), ["bleu"], ["raw"]).scores
    assert scores.value("test", "bleu_1", "raw") == pytest.approx(14 / 16 * math.exp(1 - 18 / 16))
    assert tokenise("A dog .", "spaces") == "a dog ."


def test_another_search_is_scored_on_its_own_captions() -> None:
    greedy = {"a": "a brown dog runs", "b": "two men on a bench", "c": "a ball"}
    rows = pd.DataFrame(
        {
            "search": "greedy",
            "image_id": list(greedy),
            "split": "test",
            "text": list(greedy.values()),
        }
    )
    scored = score_variant(said(searches=rows), known("letters"), ["rouge_l"], ["greedy"])
    alone = score_variant(said(greedy), known("letters"), ["rouge_l"], [])
    ours, greedy_alone = scored.parts["greedy", OWN], alone.standard
    assert ours.summary["test"]["rouge_l"] == greedy_alone.summary["test"]["rouge_l"]
    assert ours.summary["test"]["rouge_l"] > scored.standard.summary["test"]["rouge_l"]
    assert ours.per_image.rouge_l.tolist() == greedy_alone.per_image.rouge_l.tolist()
    drawn = (part.resamples["test"]["rouge_l"] for part in (ours, greedy_alone))
    assert np.array_equal(*drawn)


def test_of_several_seeds_mean_and_spread_stand_beside_each() -> None:
    """By hand: the mean of three seeds, and their standard deviation with n - 1."""
    others = {2: {**SAID, "a": "a cat"}, 5: {**SAID, "b": "two men on a bench"}}
    rows = [(seed, i, "test", text) for seed, texts in others.items() for i, text in texts.items()]
    seeds = pd.DataFrame(rows, columns=["seed", "image_id", "split", "text"])
    scored = score_variant(said(seeds=seeds), known("letters"), ["rouge_l"], [])
    three = [scored.scores.value("test", "rouge_l", seed=seed) for seed in (OWN, "2", "5")]
    assert three[1] < three[0] < three[2]
    mean = sum(three) / 3
    row = scored.scores.get(Key("test", "standard", MEAN, "rouge_l"))
    assert row is not None
    assert row.value == pytest.approx(mean)
    assert row.sd == pytest.approx((sum((x - mean) ** 2 for x in three) / 2) ** 0.5)
    assert [r.seed for r in scored.scores if r.metric == "rouge_l"] == [OWN, "2", "5", MEAN]
    *parts, drawn = (part.resamples["test"]["rouge_l"] for part in scored.parts.values())
    np.testing.assert_allclose(drawn, sum(parts) / 3)
    assert row.low is not None
    assert row.low < row.value


def test_every_protocol_of_a_paper_that_is_stated_is_one_of_ours() -> None:
    stated = {
        "ptb_autoregressive": "standard",
        "raw_autoregressive": "raw",
        "teacher_forced_ids": "teacher_forced",
    }
    assert {theirs: of_paper(theirs) for theirs in stated} == stated
    assert of_paper("unknown") == of_paper(None) == ""


def test_every_protocol_says_what_it_is_and_an_unknown_one_lists_them() -> None:
    for name in yaml.safe_load(FILE.read_text()):
        assert find_protocol(name.replace("-k", "-7")).about
    assert find_protocol("beam-7").captions == "beam-7"
    with pytest.raises(
        UserError,
        match=r"^unknown protocol 'rw' \(did you mean 'raw'\?\): there are standard, raw, teacher_forced, greedy, beam-k",
    ):
        find_protocol("rw")


def complaint(folder: Path, **changes: Any) -> str:
    params = tiny_params()
    for path, value in changes.items():
        *parts, last = path.split("__")
        target = params
        for part in parts:
            target = target[part.replace("_", "-") if part == "soft_attention" else part]
        target[last] = value
    write_params(folder, params)
    with pytest.raises(UserError) as caught:
        load_params(folder / "params.yaml")
    return str(caught.value)


def test_a_protocol_whose_captions_no_one_makes_is_told_before_anything_runs(
    tmp_path: Path,
) -> None:
    told = complaint(
        tmp_path, variants__merge__protocols=["beam-9"], variants__lstm__train={"seeds": [1, 1]}
    )
    assert (
        "variants.merge.protocols: beam-9 needs captions of that search: decode: {also: [beam-9]}"
        in told
    )
    assert "variants.lstm.train.seeds: a seed occurs twice" in told
    assert "scoring.protocols: unknown protocol 'rawest'" in complaint(
        tmp_path, scoring__protocols=["rawest"]
    )


def test_a_row_beside_a_paper_must_be_scored_as_the_paper_was(tmp_path: Path) -> None:
    paper = {"table": "clip_prefix_flickr8k", "system": "clip-prefix-original"}
    told = complaint(tmp_path, variants__merge__paper=paper, scoring__protocols=[])
    assert "variants.merge.protocols: the paper's row is scored under raw: name it here" in told


# Protocols in the tables.

RAW = joined(
    scores_of({"test": TEST, "val": VAL}),
    scores_of({"test": {"bleu_1": 0.74, "bleu_4": 0.28, "cider": 0.83}}, "raw"),
)


def test_a_protocol_has_a_table_of_its_own_with_the_standard_score_and_the_difference() -> None:
    sheet = everything([result(scores=RAW), baseline()], ["bleu"])
    lines = markdown(sheet).splitlines()
    start = lines.index("## scenes, test, protocol raw")
    assert lines[start + 4].split(" | ")[1].strip() == "bleu_1 (standard)"
    assert [c.strip() for c in lines[start + 4].strip("| ").split("|")] == [
        *("variant", "bleu_1 (standard)", "bleu_1 (raw)", "bleu_1 (raw - standard)"),
        *("bleu_4 (standard)", "bleu_4 (raw)", "bleu_4 (raw - standard)"),
        *("cider (standard)", "cider (raw)", "cider (raw - standard)"),
    ]
    assert [c.strip() for c in lines[start + 6].strip("| ").split("|")] == [
        *(
            "lstm",
            "0.7000",
            "0.7400",
            "+0.0400",
            "0.2500",
            "0.2800",
            "+0.0300",
            "0.8100",
            "0.8300",
            "+0.0200",
        ),
    ]
    assert all("raw" not in c.header for c in sheet.tables[0].columns)


def test_a_difference_of_two_protocols_has_the_interval_of_paired_draws() -> None:
    """The two scores move together: their intervals span 0.4, that of their difference 0.02."""
    draws = np.linspace(-0.2, 0.2, 1000)
    estimates = {
        Key("test", "standard", OWN, "bleu_4"): Estimate(0.25, 0.25 + draws, "x"),
        Key("test", "raw", OWN, "bleu_4"): Estimate(0.28, 0.28 + draws * 1.05, "x"),
    }
    sheet = everything([result(scores=RAW, estimates=estimates)], ["bleu"])
    table = next(t for t in sheet.tables if t.title == "scenes, test, protocol raw")
    cells = dict(zip([c.header for c in table.columns], table.texts()[0][1], strict=True))
    assert cells["bleu_4 (raw)"] == "0.280 ±.200"
    assert cells["bleu_4 (raw - standard)"] == "+0.0300 ±.0095"


PRINTED = {**PAPERS, "protocols": {"raw_autoregressive": "on raw strings", "unknown": "not stated"}}
PRINTED["tables"] = {"nic": {**PAPERS["tables"]["nic"]}}
PRINTED["tables"]["nic"]["rows"] = [
    {"system": "small", "bleu_4": 27.2, "protocol": "raw_autoregressive"},
    {"system": "large", "bleu_4": 31.256, "protocol": "unknown"},
]


def several(first: dict[str, float], mean: dict[str, float], sd: dict[str, float]) -> ScoreTable:
    """Return test scores of two trainings: those of the first, and the mean and sd of both."""
    return joined(scores_of({"test": first}), scores_of({"test": mean}, seed=MEAN, sd=sd))


MEANS = joined(
    several({"bleu_4": 0.2}, {"bleu_4": 0.25}, {"bleu_4": 0.01}), scores_of({"val": VAL})
)


def test_ours_stands_beside_a_paper_under_its_protocol_too_and_only_there_is_a_difference() -> None:
    ours = [
        result(
            scores=RAW,
            paper=("nic", "small"),
            about={"seeds": 1, "commit": "abc1234"},
        ),
        result(
            "other",
            scores=MEANS,
            paper=("nic", "large"),
            about={"seeds": 3, "commit": "abc1234"},
        ),
    ]
    (sheet,) = paper_sheets(PRINTED, ours)
    assert [c.header for c in sheet.tables[0].columns] == [
        "bleu_4 (standard: PTB, 5 refs, beam 3)",
        "bleu_4 (raw)",
        "paper bleu_4 (raw_autoregressive protocol)",
        "paper bleu_4 (unknown protocol)",
        "bleu_4 (ours - paper, raw)",
        "seeds",
        "commit",
    ]
    assert sheet.tables[0].texts() == [
        (["small", "lstm"], ["0.2500", "0.2800", "0.272", "-", "+0.0080", "1", "abc1234"]),
        (["large", "other"], ["0.2500 s.0100", "-", "-", "0.3126", "-", "3", "abc1234"]),
    ]
    assert "Commit: abc1234." in sheet.tables[0].for_people().about
    lines = csv_text(sheet).splitlines()
    assert lines[0] == (
        "system,variant,split,metric,protocol,paper,ours,difference,low,"
        "high,sd,seeds,commit,status,notes"
    )
    assert lines[2] == "small,lstm,test,bleu_4,raw,0.272,0.28,0.008,n/a,n/a,n/a,1,abc1234,read,n/a"
    assert (
        lines[4] == "large,other,test,bleu_4,unknown protocol,0.31256,-,-,-,-,-,3,abc1234,read,n/a"
    )


def test_relative_improvements_are_recomputed_from_our_rows_and_stand_beside_the_papers() -> None:
    """By hand: .34 / .25 - 1 and 1 - 2.0 / 2.5."""
    rows = [
        {"system": "best", "bleu_4": 34.76},
        {"system": "vit", "bleu_4": 33.24},
        {"system": "deit (base)", "bleu_4": 34},
    ]
    relative = {"bleu_4": {"vit": 4.57, "deit": 0.93}, "loss_reduction": {"vit": 18.4}}
    paper = {"title": "A", "scale": 100, "rows": rows, "relative_percent": relative}
    ours = [
        result(
            "ours-best",
            scores={"test": {"bleu_4": 0.34, "loss": 2.0}, "val": {}},
            paper=("p", "best"),
        ),
        result(
            "ours-vit",
            scores={"test": {"bleu_4": 0.25, "loss": 2.5}, "val": {}},
            paper=("p", "vit"),
        ),
    ]
    (sheet,) = paper_sheets({"protocols": {"unknown": "not stated"}, "tables": {"p": paper}}, ours)
    table = sheet.tables[-1]
    assert table.title == "Improvement of best, in percent"
    assert table.texts() == [
        (["over vit", "ours-vit"], ["36.0000", "4.57", "20.0000", "18.40"]),
        (["over deit", "not run"], ["not run", "0.930", "not run", "-"]),
    ]


def test_several_seeds_show_their_mean_and_spread_and_the_table_says_so() -> None:
    sd = 0.0123
    scores = joined(
        several({"bleu_4": 0.2}, {"bleu_4": 0.25}, {"bleu_4": sd}),
        scores_of({"test": {"bleu_4": 0.3}}, seed="2"),
    )
    estimate = Estimate(0.25, np.linspace(0.24, 0.26, 1000), "x", sd)
    estimates = {Key("test", "standard", MEAN, "bleu_4"): estimate}
    sheet = everything(
        [result(scores=scores, estimates=estimates, about={"seeds": 2, "commit": "abc1234"})],
        ["bleu"],
    )
    text = markdown(sheet)
    assert "0.2500 ±.0095 s.0123" in text
    assert "Seeds: 2. Commit: abc1234." in text
    assert any(
        line.startswith("s: standard deviation over training seeds") for line in sheet.legend
    )
    head, line = csv_text(sheet).splitlines()
    assert dict(zip(head.split(","), line.replace("beam 3, length", "").split(","), strict=False))
    assert "test bleu_4_sd" in head
    assert ",0.0123" in line


def test_a_score_that_only_some_seeds_have_is_no_number_in_the_table() -> None:
    """Neither the first seed's score nor a mean of fewer than `seeds` seeds is shown."""
    first = {"bleu_4": 0.2, "gender_error_named": 0.5}
    lucky = several(first, {"bleu_4": 0.25}, {"bleu_4": 0.0123})
    both, single = (result(scores=lucky, about={"seeds": n, "commit": "abc1234"}) for n in (2, 1))
    assert both.value("test", "gender_error_named") is None
    assert (
        single.value("test", "gender_error_named") == both.own("test", "gender_error_named") == 0.5
    )


def test_the_spread_over_seeds_stands_beside_a_score_without_an_interval_in_every_form() -> None:
    """A count and a share of all captions have no interval.

    Nothing has one if nothing was resampled.
    """
    scores = several(
        {"vocabulary": 365.0, "bleu_4": 0.2},
        {"vocabulary": 360.5, "bleu_4": 0.25},
        {"vocabulary": 6.3639, "bleu_4": 0.01234},
    )
    seeds = {"seeds": 2, "commit": "abc1234"}
    rows = [
        result(scores=scores, about=seeds, paper=("nic", "large")),
        baseline(),
    ]
    sheet = everything(rows, [])
    assert "| lstm                  |    n/a | 0.2500 s.0123 |    n/a |" in markdown(sheet)
    assert "| lstm                  | 360.5 s6.4 |" in markdown(sheet)
    assert "lstm & n/a & 0.2500 s.0123 & n/a" in latex(sheet)
    assert [line for line in sheet.legend if line.startswith("s: ")] == [
        "s: standard deviation over training seeds; the figure is their mean, and under "
        "another protocol that of the first "
        "seed's model."
    ]
    with io.StringIO(csv_text(sheet), newline="") as file:
        line = next(csv.DictReader(file))
    assert (line["test bleu_4"], line["test bleu_4_sd"], line["test vocabulary_sd"]) == (
        "0.25",
        "0.01234",
        "6.3639",
    )
    (beside,) = paper_sheets(PAPERS, rows)
    assert "0.2500 s.0123" in markdown(beside)
    record = next(r for r in beside.records if r["variant"] == "lstm" and r["metric"] == "bleu_4")
    assert (record["ours"], record["sd"]) == (Mean(0.25, 0.01234), 0.01234)


def test_latex_has_the_figures_of_the_table_with_nothing_unescaped() -> None:
    text = latex(
        everything(
            [result("a_b", scores=RAW, notes="50% & more"), baseline()],
            ["bleu"],
        )
    )
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 3
    assert r"\toprule" in text
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert r"a\_b & 0.7000 & n/a & n/a & 0.2500 & 0.8100" in "\n".join(body)
    assert r"variant & bleu\_1 & bleu\_2 & bleu\_3 & bleu\_4 & cider & loss & top5 \\" in body
    assert (
        r"variant & \multicolumn{3}{c}{bleu\_1} & \multicolumn{3}{c}{bleu\_4} & "
        r"\multicolumn{3}{c}{cider} \\" in body
    )
    assert (
        escaped("a_b 5% & $x {y} ~^\\")
        == r"a\_b 5\% \& \$x \{y\} \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )


def test_scores_of_another_protocol_do_not_touch_the_standard_ones() -> None:
    plain = score_variant(said(), known("letters"), ["bleu", "cider"], [])
    more = score_variant(said(), known("letters"), ["bleu", "cider"], ["raw", "cleaned-references"])
    assert more.standard.summary == plain.standard.summary
    assert more.scores.metrics("test") == plain.scores.metrics("test")
    assert more.scores.protocols == ["raw", "cleaned-references"]


def test_the_committed_protocols_of_every_experiment_are_known() -> None:
    for file in sorted((ROOT / "experiments").glob("*.yaml")):
        params = load_params(file)
        for name in params.variants:
            assert all(find_protocol(p).about for p in params.protocols(name)), file.name

"""`captionlab results` ends with one table that fits a terminal, and says what it leaves out."""

from pathlib import Path
from typing import Any

import pytest

from captionlab.headline import Headline, headline
from captionlab.terminal import WIDTH
from tests.workspace import ROOT

PAGE = """# Results

## mine, test

corpus mine: 10 test images.

| variant | bleu_1 | bleu_4 | spice | cider |
| ------- | -----: | -----: | ----: | ----: |
| a \\| b  |    0.5 |    0.2 |   n/a |   1.0 |

Warning: a says one thing.

## mine, validation

corpus mine: 10 validation images.

| variant | bleu_1 |
| ------- | -----: |
| a       |    0.4 |

## How to read

- Higher is better.
"""


def table_of(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.startswith("|")]


def test_the_first_table_stays_with_its_words_and_warnings() -> None:
    assert headline(PAGE) == Headline(
        "## mine, test\n\ncorpus mine: 10 test images.\n\n"
        "| variant | bleu_1 | bleu_4 | cider |\n"
        "| ------- | -----: | -----: | ----: |\n"
        "| a \\| b  |    0.5 |    0.2 |   1.0 |\n\n"
        "Warning: a says one thing.",
        ["spice"],
        2,
    )


def test_a_table_that_is_too_wide_keeps_what_papers_rank_by() -> None:
    """The committed table has ten columns of scores and is 190 wide."""
    page = (ROOT / "reports/tables/all.md").read_text()
    first = headline(page)
    lines = table_of(first.text)
    assert max(map(len, lines)) <= WIDTH < len(table_of(page)[0])
    assert " ".join(lines[0].split()) == "| variant | bleu_4 | meteor | rouge_l | cider |"
    assert first.left_out == ["bleu_1", "bleu_2", "bleu_3", "spice", "loss", "top5"]
    assert first.tables == 6


def test_a_name_as_wide_as_the_terminal_leaves_one_column_of_scores() -> None:
    lines = table_of(headline(PAGE.replace("variant", 100 * "v")).text)
    assert lines[0].split() == ["|", 100 * "v", "|", "cider", "|"]


@pytest.mark.parametrize("page", ["# Results", "", "## Notes\n\n- none", "| a |"])
def test_a_page_without_tables_stays_as_it_is(page: str) -> None:
    assert headline(page) == Headline(page, [], 0)


def test_results_prints_one_table_and_where_the_others_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, captionlab: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "reports/tables/all.md").read_text()
    Path("params.yaml").touch()
    Path("reports/tables").mkdir(parents=True)
    Path("reports/tables/all.md").write_text(page)
    status, out, _ = captionlab("results")
    assert status == 0
    assert len(out.splitlines()) < 25
    assert len(table_of(out)) == 6
    assert out.split("\n\n", 3)[3].splitlines()[:3] == [
        "Bold: the best, or not significantly worse. ±: half the 95% interval.",
        "Columns that are not shown: bleu_1, bleu_2, bleu_3, spice, loss, top5.",
        "All 6 tables: captionlab results --all, or reports/tables/all.md",
    ]
    assert captionlab("results", "--all")[1].startswith(page.rstrip())

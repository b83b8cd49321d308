"""Tables on a terminal fit its width and use only characters that it can show."""

import io

import pytest
from rich.console import Console

from captionlab.terminal import draw, parts

PAGE = """# Results

| variant | bleu_4 | cider |
| --- | ---: | ---: |
| merge | **0.482** ±.02 | 1 \\| 2 |
| a café | n/a | 0.5 |
"""


def drawn(encoding: str, width: int) -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    draw(PAGE, Console(file=file, width=width, highlight=False))
    file.seek(0)
    return [line.rstrip() for line in file.read().splitlines()]


def test_a_table_is_drawn_without_its_marks() -> None:
    assert drawn("utf-8", 100) == [
        "Results",
        "",
        "variant      bleu_4  cider",
        "──────────────────────────",
        "merge    0.482 ±.02  1 | 2",
        "a café          n/a    0.5",
        "",
        "",
    ]


def test_a_table_that_is_too_wide_is_parted_after_a_column() -> None:
    lines = drawn("utf-8", 20)
    assert max(map(len, lines)) <= 20
    heads = [line.split() for line in lines if line.startswith("variant")]
    assert heads == [["variant", "bleu_4"], ["variant", "cider"]]


def test_a_terminal_that_has_ascii_alone_gets_ascii() -> None:
    text = "\n".join(drawn("ascii", 100))
    assert "0.482 +-.02" in text
    assert "a caf\\xe9" in text


@pytest.mark.parametrize("width", [1, 12])
def test_a_column_wider_than_the_terminal_stands_alone(width: int) -> None:
    assert list(parts([10, 40, 4], width)) == [[0, 1], [0, 2]]

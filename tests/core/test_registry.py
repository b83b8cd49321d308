"""A file of a registry that lacks something is one line, before anything runs."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.core import registry
from pipeline.core.errors import UserError
from pipeline.metrics.shared.base import Scores
from pipeline.scoring.score import checked

KINDS = ("sources", "encoders", "decoders", "metrics")
WHOLE = """
from pipeline.decoders.shared import contract
class Decoder(contract.Decoder):
    reads = "pooled"
    def start(self, f): return {}
    def advance(self, words, s): return words, s
    def project(self, hidden): return hidden
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """A function that adds the file mine.py to a registry."""

    def write(kind: str, text: str) -> None:
        package = __import__(f"pipeline.{kind}", fromlist=["__path__"])
        file = tmp_path / kind / "mine.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        sys.modules.pop(f"pipeline.{kind}.mine", None)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(file.parent)])
        monkeypatch.setattr(registry, "names", lambda _: ["mine"])

    yield write
    for kind in KINDS:
        sys.modules.pop(f"pipeline.{kind}.mine", None)


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_of_a_registry_loads(kind: str) -> None:
    for name in registry.names(kind):
        registry.load(kind, name)


@pytest.mark.parametrize(
    ("kind", "lacking"),
    [("sources", "fetch"), ("encoders", "Encoder"), ("decoders", "Decoder"), ("metrics", "score")],
)
def test_an_empty_file_lacks_what_its_kind_defines(
    write: Callable[[str, str], None], kind: str, lacking: str
) -> None:
    write(kind, "")
    expected = rf"^pipeline/{kind}/mine\.py does not define {lacking}: every file of its kind does$"
    with pytest.raises(UserError, match=expected):
        registry.load(kind, "mine")


def test_a_whole_decoder_loads(write: Callable[[str, str], None]) -> None:
    write("decoders", WHOLE)
    assert registry.load("decoders", "mine").Decoder.reads == "pooled"


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("    def start(self, f): return {}\n", "Decoder lacks start"),
        ("    def advance(self, words, s): return words, s\n", "Decoder lacks advance"),
        ("    def project(self, hidden): return hidden\n", "Decoder lacks project or last_layer"),
        ("ooled", "Decoder.reads is 'p': give pooled, grid, both"),
    ],
)
def test_a_decoder_without_one_of_its_parts_is_one_line(
    write: Callable[[str, str], None], without: str, said: str
) -> None:
    write("decoders", WHOLE.replace(without, ""))
    with pytest.raises(UserError) as error:
        registry.load("decoders", "mine")
    assert str(error.value) == f"pipeline/decoders/mine.py: {said}"


def test_a_file_that_is_not_python_is_named_with_its_line(
    write: Callable[[str, str], None],
) -> None:
    write("metrics", "x = 1\ndef score(:\n")
    with pytest.raises(UserError, match=r"/metrics/mine\.py, line 2: invalid syntax$"):
        registry.load("metrics", "mine")


def test_all_wrong_arguments_are_named_at_once() -> None:
    def target(*, hidden: int, dropout: float = 0.5) -> None: ...

    with pytest.raises(UserError) as error:
        registry.check_args(target, {"hiden": 3, "dropout": "big"}, "args")
    assert str(error.value) == (
        "args: unknown argument 'hiden' (did you mean 'hidden'?); it takes dropout, hidden; "
        "args.dropout: expected a number, found 'big'"
    )


def test_a_metric_returns_scores_that_are_numbers() -> None:
    fine = Scores({"mine": 0.5}, {})
    assert checked("mine", fine) is fine
    with pytest.raises(UserError, match=r"^pipeline/metrics/mine\.py: score returned float: ret"):
        checked("mine", 0.5)
    with pytest.raises(UserError, match=r"^pipeline/metrics/mine\.py: mine is nan for these capt"):
        checked("mine", Scores({"mine": np.nan}, {}))

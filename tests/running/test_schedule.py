"""The order in which the stages of a run start."""

import pytest

from captionlab.running import schedule
from captionlab.running.graph import Graph, Node
from captionlab.running.outcome import Outcome
from captionlab.running.schedule import Schedule
from captionlab.running.view import View

UPSTREAM = {
    "clean": [],
    "references": ["clean"],
    "extract": ["clean"],
    **{f"train@{row}": ["extract"] for row in "abc"},
    **{f"caption@{row}": [f"train@{row}"] for row in "abc"},
    **{f"score@{row}": [f"caption@{row}", "references"] for row in "abc"},
}


class Engine:
    """Jobs that end at once, `jobs` at a time. The stages of `dies` die the first time."""

    def __init__(self, jobs: int, dies: tuple[str, ...] = ()):
        self.jobs, self.dies = jobs, set(dies)
        self.started: list[str] = []
        self.running: list[str] = []

    def has_room(self, stage: str) -> bool:
        return len(self.running) < self.jobs

    def start(self, stage: str) -> None:
        self.started.append(stage)
        self.running.append(stage)

    def finished(self) -> list[Outcome]:
        stage = self.running.pop(0)
        state = "died" if stage in self.dies else "done"
        self.dies.discard(stage)
        return [Outcome(stage, state, "")]

    def last_lines(self) -> dict[str, str]:
        return {}

    def stop(self) -> None:
        assert self.running == []


def graph() -> Graph:
    return {name: Node(name, frozenset(up)) for name, up in UPSTREAM.items()}


def started(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> list[str]:
    monkeypatch.setattr(schedule, "PAUSE", 0)
    assert Schedule(graph(), engine, View(len(UPSTREAM)), keep_going=False).run() == {}
    return engine.started


def test_a_row_is_scored_before_the_next_one_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"{kind}@{row}" for row in "abc" for kind in ("train", "caption", "score")]
    expected = ["clean", "references", "extract", *rows]
    assert started(monkeypatch, Engine(1)) == expected


@pytest.mark.parametrize("jobs", [1, 2, 3, 9])
def test_every_stage_starts_once_and_after_all_that_it_reads(
    monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    order = started(monkeypatch, Engine(jobs))
    assert sorted(order) == sorted(UPSTREAM)
    assert all(order.index(up) < order.index(name) for name in order for up in UPSTREAM[name])


def test_a_stage_whose_process_died_goes_before_all_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order = started(monkeypatch, Engine(1, dies=("train@a",)))
    first = order.index("train@a")
    assert order[first : first + 3] == ["train@a", "train@a", "caption@a"]

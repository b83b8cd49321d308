"""Start each stage as soon as its upstream is done and there is room."""

import time
from typing import Protocol

from captionlab.running.graph import Graph
from captionlab.running.outcome import Outcome
from captionlab.running.view import View
from pipeline.core.errors import UserError

# Maximum tries of a stage whose process was ended from outside.
TRIES = 5
# Seconds between two checks of the jobs.
PAUSE = 0.2


class Engine(Protocol):
    """Where jobs run."""

    def has_room(self, stage: str) -> bool:
        """Return whether the stage can be started now."""

    def start(self, stage: str) -> None: ...

    def finished(self) -> list[Outcome]:
        """Return the outcomes of the jobs that have ended since the last call."""

    def last_lines(self) -> dict[str, str]:
        """Return stage -> the end of its log, for the running stages."""

    def stop(self) -> None:
        """End every job and everything that it has started."""


class Schedule:
    """One run. Of the stages that can start, the one nearest to the end of the graph starts first:
    a row is captioned and scored before the next one is trained, so a run that is interrupted
    leaves whole rows.

    Args:
        stages: the stages that `graph.to_run` returns.
        keep_going: after a failure, continue with the stages that do not depend on it. Otherwise
            running stages finish, and no further stage is started.
    """

    def __init__(self, stages: Graph, engine: Engine, view: View, keep_going: bool):
        self.stages, self.engine, self.view, self.keep_going = stages, engine, view, keep_going
        self.waiting = dict.fromkeys(sorted(stages, key=_steps_to_end(stages).__getitem__))
        self.running: set[str] = set()
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}
        "Stage -> why it failed, in one line."
        self.tries = dict.fromkeys(stages, 0)

    def run(self) -> dict[str, str]:
        """Run the stages, and return the failed ones, each with its reason.

        No job is left, however this ends.

        Raises:
            UserError: a stage needs more than there is.
        """
        try:
            self._start()
            while self.running:
                time.sleep(PAUSE)
                for outcome in self.engine.finished():
                    self._take(outcome)
                self._start()
                self.view.show(self.engine.last_lines())
        finally:
            self.engine.stop()
        if not self.failed and self.waiting:
            raise UserError(
                f"{next(iter(self.waiting))} needs more than there is here: see --need and --jobs"
            )
        return self.failed

    def _start(self) -> None:
        if self.failed and not self.keep_going:
            return
        for stage in list(self.waiting):
            if self.stages[stage].upstream <= self.done and self.engine.has_room(stage):
                del self.waiting[stage]
                self.running.add(stage)
                self.tries[stage] += 1
                self.engine.start(stage)
                self.view.started(stage)

    def _take(self, outcome: Outcome) -> None:
        stage = outcome.stage
        self.running.discard(stage)
        if outcome.state == "done":
            self.done.add(stage)
            self.view.ended(outcome)
        elif outcome.state == "died" and self.tries[stage] < TRIES:
            self.waiting = {stage: None, **self.waiting}  # a stage that has begun goes first
            self.view.again(outcome)
        else:
            self.failed[stage] = outcome.said
            self.view.ended(outcome)


def _steps_to_end(stages: Graph) -> dict[str, int]:
    """Return stage -> the number of stages on the longest way from it to the end of the graph."""
    steps = dict.fromkeys(stages, 0)
    for name in reversed(stages):  # a stage stands after all that it reads
        for up in stages[name].upstream:
            steps[up] = max(steps[up], steps[name] + 1)
    return steps

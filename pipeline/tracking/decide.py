"""Decide what to do next until the store holds exactly one finished run of a result. Two tables
decide; nothing here sends a request.

MLflow has no lock. Several machines may publish the same result at once, and each may be killed at
any point. A machine therefore looks at the runs, decides, acts, and looks again, until only
`settle` is left. Four rules make all machines agree:

- No machine fills an unfinished run of another workspace.
- If several runs are finished, the one that ended first is kept.
- A machine deletes the run that it filled unless that run is kept, whatever its status is by then.
- A run that is open without a purpose is closed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

ANY = None


@dataclass(frozen=True)
class Found:
    """A run in the store that concerns a result or its variant. Deleted runs are not included."""

    run_id: str
    status: Literal["RUNNING", "FINISHED", "STOPPED"]
    "STOPPED stands for MLflow's other statuses: KILLED, FAILED and SCHEDULED."
    result: bool = False
    "The run carries the fingerprint: it holds this result, completely or in part."
    ours: bool = False
    "This workspace opened the run for this variant."
    whole: bool = False
    "The run holds everything that would be sent now, in the current layout."
    repeats: bool = False
    "The run has live curves of a training in this workspace, and they equal those of this result."
    started: int = 0
    "Milliseconds since 1970."
    ended: int = 0
    "Milliseconds since 1970; 0 while the run is open."


@dataclass(frozen=True)
class Fate:
    """What happens to a run other than the one that is kept."""

    run_id: str
    do: Literal["delete", "close", "leave"]
    "`close` sets the status to KILLED."
    reason: str


@dataclass(frozen=True)
class Step:
    """What to do next. The runs are looked at again after every step except `settle`."""

    do: Literal["create", "fill", "finish", "settle"]
    "`create` opens a run and fills it. `finish` sets FINISHED. `settle` is the last step."
    run: Literal["none", "first", "mine", "half", "live"]
    "The run that the step applies to. The comment on `STEPS` explains the names."
    reason: str
    run_id: str = ""
    "The id of that run."
    others: tuple[Fate, ...] = ()
    "What happens to every other run. Filled only for `settle`."


# The first row that fits decides. Columns:
# - first: the finished run that ended first: none, whole, or `other` (of an earlier layout, or with
#   other notes)
# - mine: whether this call has filled a run that still exists
# - half: whether a kill left a half-published run of this workspace
# - live: whether the training left a run with the curves of this result
STEPS = (
    (("whole", ANY, ANY, ANY), Step("settle", "first", "the store holds this result")),
    (
        ("other", True, ANY, ANY),
        Step("settle", "first", "another machine finished first, with other content"),
    ),
    (("other", False, ANY, ANY), Step("fill", "first", "it is of an earlier layout or content")),
    (("none", True, ANY, ANY), Step("finish", "mine", "all is in it, and no other is finished")),
    (("none", False, True, ANY), Step("fill", "half", "a kill left it half published here")),
    (("none", False, False, True), Step("fill", "live", "the training has sent its curves")),
    (("none", False, False, False), Step("create", "none", "no run here is of this result")),
)

# The first row that fits decides. Columns: whether this call filled the run, whether the run
# carries the fingerprint, whether its live curves repeat this result, whether this workspace opened
# it, and its status.
FATES: tuple[tuple[tuple[bool | str | None, ...], Literal["delete", "close", "leave"], str], ...]
FATES = (
    ((True, ANY, ANY, ANY, ANY), "delete", "filled here, but another finished first"),
    ((False, True, ANY, ANY, "FINISHED"), "delete", "finished as well, but another finished first"),
    ((False, False, ANY, ANY, "FINISHED"), "leave", "another result"),
    ((False, ANY, True, ANY, ANY), "delete", "a training repeated what the store holds"),
    ((False, True, ANY, ANY, "RUNNING"), "close", "half published and apparently abandoned"),
    ((False, ANY, ANY, True, "RUNNING"), "close", "its training was killed"),
    ((False, ANY, ANY, ANY, "RUNNING"), "leave", "another workspace is training"),
    ((False, ANY, ANY, ANY, "STOPPED"), "leave", "it records a training that ended early"),
)


def decide(runs: Sequence[Found], filled: str | None = None) -> Step:
    """Return the next step of a publication.

    Args:
        runs: all runs that carry the fingerprint, that this workspace left open, or that its
            training filled.
        filled: id of the run that this call has already filled.

    Example:
        >>> decide([]).do
        'create'
        >>> decide([Found("a", "RUNNING", result=True, ours=True)], filled="a").do
        'finish'
    """
    named = {
        "none": None,
        "first": _first(runs),
        "mine": next((run for run in runs if run.run_id == filled), None),
        "half": _newest(run for run in runs if run.result and run.ours and _is_open(run)),
        "live": _newest(run for run in runs if run.repeats and _is_open(run)),
    }
    first = named["first"]
    finished = "none" if not first else "whole" if first.whole else "other"
    situation = (finished, *(bool(named[name]) for name in ("mine", "half", "live")))
    step = next(step for row, step in STEPS if _fits(row, situation))
    chosen = named[step.run]
    if not chosen:
        return step
    others = [_fate(run, filled) for run in runs if run is not chosen and step.do == "settle"]
    return Step(step.do, step.run, step.reason, chosen.run_id, tuple(others))


def _first(runs: Iterable[Found]) -> Found | None:
    finished = [run for run in runs if run.result and run.status == "FINISHED"]
    return min(finished, key=lambda run: (run.ended, run.run_id), default=None)


def _newest(runs: Iterable[Found]) -> Found | None:
    return max(runs, key=lambda run: (run.started, run.run_id), default=None)


def _is_open(run: Found) -> bool:
    return run.status != "FINISHED"


def _fate(run: Found, filled: str | None) -> Fate:
    facts = (run.run_id == filled, run.result, run.repeats, run.ours, run.status)
    do, reason = next((do, reason) for row, do, reason in FATES if _fits(row, facts))
    return Fate(run.run_id, do, reason)


def _fits(row: tuple[object, ...], facts: tuple[object, ...]) -> bool:
    return all(a is ANY or a == b for a, b in zip(row, facts, strict=True))

"""Which runs of a result are kept, closed, deleted or filled. The tests try every combination of
two runs, and check that all machines end with one run."""

import itertools
from dataclasses import replace

import pytest

from pipeline.tracking.decide import FATES, STEPS, Found, decide

# Every run that the store may hold.
ALONE = [
    Found("", status, result, ours, whole, repeats)
    for status, result, ours, whole, repeats in itertools.product(
        ("RUNNING", "FINISHED", "STOPPED"), *[(True, False)] * 4
    )
    if not (whole and not result)  # A whole run has the fingerprint.
    # Live curves belong to a run that this workspace opened and has not finished.
    and not (repeats and (status == "FINISHED" or not ours))
]
PAIRS = [
    [
        replace(run, run_id=name, started=at, ended=at)
        for name, at, run in zip("ab", times, pair, strict=False)
    ]
    for size in range(3)
    for pair in itertools.product(ALONE, repeat=size)
    for times in ((1, 2), (2, 1), (1, 1))
]


@pytest.mark.parametrize(
    ("runs", "filled", "expected"),
    [
        ([], None, ("create", "")),
        ([Found("a", "RUNNING", ours=True, repeats=True)], None, ("fill", "a")),
        ([Found("a", "STOPPED", ours=True, repeats=True)], None, ("fill", "a")),
        ([Found("a", "RUNNING", ours=True)], None, ("create", "")),
        ([Found("a", "STOPPED", result=True, ours=True)], None, ("fill", "a")),
        ([Found("a", "RUNNING", result=True)], None, ("create", "")),
        ([Found("a", "RUNNING", result=True, ours=True)], "a", ("finish", "a")),
        ([Found("a", "STOPPED", result=True, ours=True, whole=True)], "a", ("finish", "a")),
        ([Found("a", "FINISHED", result=True)], None, ("fill", "a")),
        ([Found("a", "FINISHED", result=True, whole=True)], None, ("settle", "a")),
        ([Found("a", "FINISHED")], None, ("create", "")),
    ],
)
def test_one_run_alone(runs, filled, expected) -> None:
    step = decide(runs, filled)
    assert (step.do, step.run_id) == expected


def test_the_half_published_run_goes_before_the_live_curves_and_the_newest_before_the_others() -> (
    None
):
    live = Found("live", "RUNNING", ours=True, repeats=True, started=9)
    halves = [Found(f"half {n}", "STOPPED", result=True, ours=True, started=n) for n in (1, 3, 2)]
    assert decide([live, *halves]).run_id == "half 3"


@pytest.mark.parametrize(
    ("other", "filled", "do"),
    [
        (Found("b", "FINISHED", result=True, whole=True, ended=2), None, "delete"),
        (Found("b", "FINISHED", result=True, whole=True, ours=True, ended=2), "b", "delete"),
        (Found("b", "STOPPED", result=True, whole=True, ours=True), "b", "delete"),
        (Found("b", "RUNNING", result=True, whole=True, ours=True), "b", "delete"),
        (Found("b", "RUNNING", ours=True, repeats=True), None, "delete"),
        (Found("b", "STOPPED", ours=True, repeats=True), None, "delete"),
        (Found("b", "RUNNING", ours=True), None, "close"),
        (Found("b", "RUNNING", result=True), None, "close"),
        (Found("b", "RUNNING", result=True, ours=True), None, "close"),
        (Found("b", "RUNNING"), None, "leave"),
        (Found("b", "STOPPED", result=True), None, "leave"),
        (Found("b", "STOPPED", ours=True), None, "leave"),
        (Found("b", "FINISHED", ours=True), None, "leave"),
    ],
)
def test_one_run_beside_the_one_that_stays(other, filled, do) -> None:
    step = decide([other, Found("a", "FINISHED", result=True, whole=True, ended=1)], filled)
    assert (step.do, step.run_id) == ("settle", "a")
    assert [(fate.run_id, fate.do) for fate in step.others] == [("b", do)]


def test_two_machines_keep_the_run_that_ended_first_whatever_each_has_filled() -> None:
    runs = [
        Found("b", "FINISHED", result=True, whole=True, ended=1),
        Found("a", "FINISHED", result=True, whole=True, ended=1),
        Found("c", "FINISHED", result=True, whole=True, ended=2),
    ]
    kept = {
        decide(order, filled).run_id for order in (runs, runs[::-1]) for filled in (*"abc", None)
    }
    assert kept == {"a"}


def test_a_result_with_other_notes_does_not_send_two_machines_round_in_circles() -> None:
    """Each machine finds that the finished run of the other differs from what it would write."""
    theirs = Found("a", "FINISHED", result=True, ended=1)
    mine = Found("b", "RUNNING", result=True, ours=True, whole=True)
    assert decide([theirs, mine], filled="b").do == "settle"
    assert decide([theirs]).do == "fill"


@pytest.mark.parametrize("filled", [None, "a", "b", "deleted meanwhile"])
def test_every_pair_of_runs_ends_as_one_whole_finished_run(filled) -> None:
    for runs in after_filling(filled):
        ends, steps = carried_out(runs, filled)
        assert steps <= 4, runs
        finished = [r for r in ends if r.result and r.status == "FINISHED"]
        assert len(finished) == 1, runs
        assert finished[0].whole or filled, runs
        for run in ends:
            assert run.status != "RUNNING" or not (run.ours or run.result), runs
            assert not run.repeats or run in finished, runs
        untouched = [r for r in runs if not r.ours and not r.result and r.run_id != filled]
        assert all(run in ends for run in untouched), runs


def test_no_run_of_another_workspace_is_filled_unless_it_is_finished() -> None:
    for runs in PAIRS:
        step = decide(runs)
        for run in runs:
            if run.run_id == step.run_id and step.do == "fill":
                assert run.ours or run.status == "FINISHED", runs


def test_every_row_of_both_tables_is_reached_and_says_why() -> None:
    reasons = set()
    for runs in PAIRS:
        for filled in (None, "a", "b"):
            step = decide(runs, filled)
            reasons |= {step.reason, *(fate.reason for fate in step.others)}
    assert reasons == {step.reason for _, step in STEPS} | {reason for *_, reason in FATES}


def after_filling(filled: str | None) -> list[list[Found]]:
    """Return the pairs that are possible after a run was filled. That run has the fingerprint."""
    return [
        runs
        for runs in PAIRS
        if sum(run.repeats for run in runs) < 2  # Only one training runs at a time.
        and all(run.result and not run.repeats for run in runs if run.run_id == filled)
    ]


def carried_out(runs: list[Found], filled: str | None) -> tuple[list[Found], int]:
    """Carry out decisions until the runs are settled. Return the runs and the number of steps."""
    there = {run.run_id: run for run in runs}
    for steps in range(1, 10):
        step = decide(list(there.values()), filled)
        if step.do == "settle":
            for fate in step.others:
                if fate.do == "delete":
                    del there[fate.run_id]
                elif fate.do == "close":
                    there[fate.run_id] = replace(there[fate.run_id], status="STOPPED")
            return list(there.values()), steps
        if step.do == "finish":
            there[step.run_id] = replace(there[step.run_id], status="FINISHED", ended=5)
        elif step.do == "fill":
            filled = step.run_id
            there[filled] = replace(there[filled], result=True, whole=True, repeats=False)
        else:
            filled = "new"
            there[filled] = Found("new", "RUNNING", result=True, ours=True, whole=True)
    raise AssertionError(f"no end: {runs}")

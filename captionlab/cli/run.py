"""`captionlab run`: run the stale stages of the graph, several at once."""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.core.errors import UserError

if TYPE_CHECKING:
    from captionlab.running.needs import Needs
    from captionlab.running.schedule import Engine
    from pipeline.experiment.params import Params


def command(
    stages: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STAGE]...",
            help="Stages (train@merge) or kinds of stages (train), with everything upstream of "
            "them. Without any, the whole graph.",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Stages at once on this machine. Default: as many as the GPUs take, without a "
            "GPU one.",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run the stages on a Ray cluster: its address, or auto for the one that this "
            "machine is part of.",
        ),
    ] = None,
    keep_going: Annotated[
        bool,
        typer.Option(
            "--keep-going",
            "-k",
            help="After a failure, continue with the stages that do not depend on it.",
        ),
    ] = False,
    need: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STAGE.WHAT=NUMBER",
            help="What a stage or a kind of stages needs, WHAT being gpus, cores or memory (GB): "
            "train.gpus=2.",
        ),
    ] = None,
) -> None:
    """Run the stages that are stale, several at once, then finish with one dvc repro.

    Every stage runs in its own dvc repro. Nothing is computed twice, and every result is that of a
    plain dvc repro. Ctrl-C ends everything that was started; the same command then continues.
    """
    from captionlab.running.graph import choose, finishing, read_graph, to_run
    from captionlab.running.last import finish
    from captionlab.running.lock_file import Run, in_order, mend
    from captionlab.running.needs import Needs
    from captionlab.running.schedule import Schedule
    from captionlab.running.view import View
    from pipeline.experiment.params import load_params

    if ray and jobs:
        raise UserError("--jobs is for this machine, --ray for a cluster: give one of them")
    params = load_params()  # reports mistakes before anything runs
    needs = Needs(need or [])
    mend()
    everything = read_graph()
    graph = choose(everything, stages or [])
    needs.check(everything)
    stale = to_run(graph)
    failed: dict[str, str] = {}
    missing: list[str] = []
    with in_order(everything) if stale else nullcontext(Run()) as run:
        if stale:
            made = [name for name in graph if name not in stale]
            with View(len(stale)) as view:
                engine = _engine(jobs, ray, needs, params, made)
                schedule = Schedule(stale, engine, view, keep_going)
                failed = schedule.run()
            missing += [*failed, *schedule.waiting]
        last = finishing(graph, missing)
        if last or not (stages or failed):
            finish(last if stages or failed else [])
        run.complete = not missing
    if failed:
        raise UserError(_told(failed))


def _engine(
    jobs: int | None, ray: str | None, needs: "Needs", params: "Params", made: list[str]
) -> "Engine":
    """Return the engine that runs the stages.

    Args:
        made: the stages that need not run.
    """
    from captionlab.running.local import Local, visible_gpus

    if ray:
        from captionlab.running.on_ray import Cluster

        return Cluster(ray, needs, params, made)
    return Local(jobs, needs, visible_gpus())


def _told(failed: dict[str, str]) -> str:
    from captionlab.running.local import log_of

    stage, reason = next(iter(failed.items()))
    others = f"; {len(failed) - 1} more failed" if len(failed) > 1 else ""
    return f"{stage} failed: {reason} (its log is {log_of(stage)}){others}"

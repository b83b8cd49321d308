"""Read DVC's graph: which stages depend on which, and which stages are stale."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.core.errors import UserError, one_line

# Stages that report to people. They are cheap, and the `dvc repro` that ends a run runs them.
LAST = ("track", "compare", "publish")
# Seconds to wait for a path that a `dvc` has locked. One that was killed counts as alive until the
# system has removed its process, which may take seconds on a busy machine.
PATIENCE = 15.0


@dataclass(frozen=True)
class Node:
    """A stage of the graph."""

    name: str
    "The name that `dvc repro` takes, such as `train@merge`."
    upstream: frozenset[str] = frozenset()
    "The stages whose outputs it reads."
    stale: bool = True
    "Whether it has to run, as far as DVC can tell before its upstream has run."
    makes: tuple[str, ...] = field(default=(), compare=False)
    "Its outputs, by their names in dvc.yaml."

    @property
    def kind(self) -> str:
        """The kind of the stage: `train` for `train@merge`."""
        return self.name.partition("@")[0]


Graph = dict[str, Node]


def read_graph() -> Graph:
    """Return the graph of the workspace in the working directory, in the order of `dvc repro`.

    Raises:
        UserError: this is no DVC workspace, or its dvc.yaml or params.yaml cannot be read.
    """
    from dvc.exceptions import DvcException
    from dvc.lock import LockError

    for name in ("dvc", "dvc_data", "dvc_objects"):  # they report every missing output
        logging.getLogger(name).setLevel(logging.CRITICAL)
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return _read()
        except DvcException as error:
            if not isinstance(error, LockError) or time.monotonic() > until:
                raise UserError(f"{one_line(error)} (captionlab doctor says more)") from None
        time.sleep(0.5)


def _read() -> Graph:
    from dvc.repo import Repo
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

    with Repo(_wait_for_lock=True) as repo, repo.lock:
        graph = repo.index.graph
        steps = plan_repro(get_active_graph(graph), collect_stages(repo, ["dvc.yaml"]))
        return {stage.addressing: _node(stage, graph) for stage in steps if stage.cmd}


def _node(stage, graph) -> Node:  # type: ignore[no-untyped-def]
    """Return the node of a stage. The arrows of DVC's graph lead from a stage to what it reads."""
    upstream = frozenset(other.addressing for other in graph.successors(stage) if other.cmd)
    makes = tuple(out.def_path for out in stage.outs)
    return Node(stage.addressing, upstream, bool(stage.changed()), makes)


def choose(graph: Graph, targets: Iterable[str]) -> Graph:
    """Return the target stages and everything upstream of them; without targets, the whole graph.

    A target is the name of a stage, or a kind of stages such as `train`.

    Raises:
        UserError: there is no such stage.
    """
    wanted: set[str] = set()
    for target in targets:
        found = {node.name for node in graph.values() if target in (node.name, node.kind)}
        if not found:
            kinds = ", ".join(dict.fromkeys(node.kind for node in graph.values()))
            raise UserError(
                f"unknown stage '{target}': name a kind ({kinds}) or one stage, such as "
                f"{next(iter(graph))}"
            )
        wanted |= found
    return closed(graph, wanted) if wanted else graph


def closed(graph: Graph, names: Iterable[str]) -> Graph:
    """Return these stages with everything upstream of them."""
    found, rest = set[str](), set(names)
    while rest:
        found |= rest
        rest = {up for name in rest for up in graph[name].upstream} - found
    return {name: node for name, node in graph.items() if name in found}


def to_run(graph: Graph) -> Graph:
    """Return the stages that may have to run, without those of `LAST`.

    They are the stale stages and everything downstream of them. The `upstream` of each is reduced
    to the stages that it has to wait for.
    """
    doubtful = {node.name for node in graph.values() if node.stale}
    size = -1
    while size != len(doubtful):
        size = len(doubtful)
        doubtful |= {node.name for node in graph.values() if node.upstream & doubtful}
    jobs = {name for name in doubtful if graph[name].kind not in LAST}
    return {
        name: Node(name, node.upstream & jobs, node.stale, node.makes)
        for name, node in graph.items()
        if name in jobs
    }


def finishing(graph: Graph, missing: Iterable[str]) -> list[str]:
    """Return the stages of `LAST` that can still run, because their whole upstream is made.

    Args:
        missing: the stages that have failed, and those that have not run because of that.
    """
    lost = set(missing)
    return [
        node.name
        for node in graph.values()
        if node.kind in LAST and not closed(graph, [node.name]).keys() & lost
    ]

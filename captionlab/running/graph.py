"""What DVC says of its graph: which stages stand on which, and which are stale."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.core.errors import UserError, one_line

LAST = ("track", "compare", "publish")
"Stages that speak to people: cheap, and run by the `dvc repro` that ends a run."


@dataclass(frozen=True)
class Node:
    """A stage of the graph."""

    name: str
    "As `dvc repro` takes it: `train@merge`."
    upstream: frozenset[str] = frozenset()
    "The stages whose outputs it reads."
    stale: bool = True
    "Whether it has to run, as far as DVC can tell before its upstream has run."
    makes: tuple[str, ...] = field(default=(), compare=False)
    "Its outputs, as dvc.yaml names them."

    @property
    def kind(self) -> str:
        """`train` of `train@merge`."""
        return self.name.partition("@")[0]


Graph = dict[str, Node]


def read_graph() -> Graph:
    """The graph of the workspace in the working directory, in the order of `dvc repro`.

    Raises:
        UserError: this is no DVC workspace, or its dvc.yaml or params.yaml cannot be read.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

    for name in ("dvc", "dvc_data", "dvc_objects"):  # it reports every missing output
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with Repo(_wait_for_lock=True) as repo, repo.lock:
            graph = repo.index.graph
            steps = plan_repro(get_active_graph(graph), collect_stages(repo, ["dvc.yaml"]))
            return {stage.addressing: _node(stage, graph) for stage in steps if stage.cmd}
    except DvcException as error:
        raise UserError(f"{one_line(error)} (captionlab doctor says more)") from None


def _node(stage, graph) -> Node:  # type: ignore[no-untyped-def]
    """Of DVC's stage, in DVC's graph, whose arrows lead from a stage to what it reads."""
    upstream = frozenset(other.addressing for other in graph.successors(stage) if other.cmd)
    makes = tuple(out.def_path for out in stage.outs)
    return Node(stage.addressing, upstream, bool(stage.changed()), makes)


def choose(graph: Graph, targets: Iterable[str]) -> Graph:
    """The stages of that name, or of that kind (`train`), and all that they stand on; without
    targets, the whole graph.

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
    """Those stages with everything upstream of them."""
    found, rest = set[str](), set(names)
    while rest:
        found |= rest
        rest = {up for name in rest for up in graph[name].upstream} - found
    return {name: node for name, node in graph.items() if name in found}


def to_run(graph: Graph) -> Graph:
    """The stages that may have to run, without those of `LAST`: a stale one makes what stands on it
    doubtful. Their upstream is what they have to wait for."""
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
    """The stages of `LAST` whose whole upstream is made: what can still be told.

    Args:
        missing: the stages that have failed, and those that have not run because of that.
    """
    lost = set(missing)
    return [
        node.name
        for node in graph.values()
        if node.kind in LAST and not closed(graph, [node.name]).keys() & lost
    ]

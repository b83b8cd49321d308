"""Finds names in params.yaml that do not exist: files of the registries, rows of other sections,
papers, protocols, languages.

A value of None is wrong in itself, and pipeline/experiment/keys.py reports it.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import UserError
from pipeline.core.registry import check_args, find, nearest, signature
from pipeline.core.yaml12 import read_yaml
from pipeline.experiment.protocols import find_protocol, of_paper
from pipeline.languages.languages import find_language

if TYPE_CHECKING:
    from pipeline.experiment.params import Params

PAPERS = Path(__file__).with_name("papers.yaml")


def unknown_names(params: "Params") -> list[str]:
    """Return all unknown names, and arguments that a file does not take.

    They are thus reported before the first stage has run.
    """
    out = [*_registry(params), *_references(params), *_papers(params), *_protocols(params)]
    for name, row in (params.corpora or {}).items():
        if row.language is not None:
            out.append(complaint(f"corpora.{name}.language: ", find_language, row.language))
    return [problem for problem in dict.fromkeys(out) if problem]


def complaint(prefix: str, check: Callable[..., object], *args: object) -> str:
    """Return the error that a check raises, after the prefix; '' if there is none."""
    try:
        check(*args)
    except UserError as error:
        return f"{prefix}{error}"
    return ""


def _registry(params: "Params") -> list[str]:
    rows: list[tuple[str, str, str | None, dict[str, Any] | None]] = []
    for kind, section in (("source", "datasets"), ("encoder", "features"), ("decoder", "variants")):
        for name, row in (getattr(params, section) or {}).items():
            rows.append((f"{section}.{name}.", kind, getattr(row, kind), row.args))
    scoring = params.scoring
    if scoring.clip:
        rows.append(("scoring.clip.", "encoder", "clip", scoring.clip))
    return [
        *(complaint("scoring.metrics: ", find, "metrics", name) for name in scoring.metrics or []),
        *(_row(*row) for row in rows),
    ]


def _row(where: str, kind: str, name: str | None, args: dict[str, Any] | None) -> str:
    if name is None:
        return ""
    if unknown := complaint(f"{where}{kind}: ", find, f"{kind}s", name):
        return unknown
    takes = signature(f"{kind}s", name)
    return (
        complaint("", check_args, takes, args, f"{where}args") if takes and args is not None else ""
    )


def _references(params: "Params") -> list[str]:
    """Return references between sections that lead nowhere or join two datasets."""
    out = []

    def known(where: str, name: str | None, section: str) -> bool:
        there = getattr(params, section)
        if name is not None and there is not None and name not in there:
            listed = f"there are {', '.join(map(str, there))}" if there else "there are none"
            out.append(f"{where}: '{name}' is not in {section}{nearest(name, there)}: {listed}")
        return name in (there or ())

    for section in ("corpora", "features"):
        for name, row in (getattr(params, section) or {}).items():
            known(f"{section}.{name}.dataset", row.dataset, "datasets")
    for name, variant in (params.variants or {}).items():
        where = f"variants.{name}"
        there = known(f"{where}.corpus", variant.corpus, "corpora")
        if not known(f"{where}.features", variant.features, "features") or not there:
            continue
        both = params.corpora[variant.corpus].dataset, params.features[variant.features].dataset
        if None not in both and both[0] != both[1]:
            out.append(
                f"{where}: corpus '{variant.corpus}' and features '{variant.features}' are of "
                "different datasets"
            )
    return out


def _papers(params: "Params") -> list[str]:
    """Return the rows of papers that papers.yaml does not have."""
    named = {name: row.paper for name, row in (params.variants or {}).items() if row.paper}
    if not named:
        return []
    tables = papers()
    out = []
    for name, paper in named.items():
        where, rows = f"variants.{name}.paper.", tables.get(paper.table, {"rows": []})["rows"]
        systems = [row["system"] for row in rows]
        if paper.table not in tables:
            lacks = f"table: papers.yaml has no '{paper.table}'"
            out.append(f"{where}{lacks}{_there(paper.table, tables)}")
        elif paper.system not in systems:
            lacks = f"system: '{paper.table}' in papers.yaml has no '{paper.system}'"
            out.append(f"{where}{lacks}{_there(paper.system, systems)}")
    return out


def papers() -> dict[str, Any]:
    """The tables of papers.yaml."""
    tables: dict[str, Any] = read_yaml(PAPERS)["tables"]
    return tables


def protocol_of(table: str, system: str) -> str:
    """Return our protocol that equals the one of a paper's row; '' if there is none."""
    rows = papers()[table]["rows"]
    return of_paper(next(row.get("protocol") for row in rows if row["system"] == system))


def _there(name: str, known: Iterable[str]) -> str:
    return f"{nearest(name, known)}: there are {', '.join(dict.fromkeys(known))}"


def _protocols(params: "Params") -> list[str]:
    named = [("scoring", name) for name in params.scoring.protocols or []]
    for variant, row in (params.variants or {}).items():
        named += [(f"variants.{variant}", name) for name in row.protocols or []]
    return [complaint(f"{where}.protocols: ", find_protocol, name) for where, name in named]

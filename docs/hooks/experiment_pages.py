"""Write the pages about experiments: the files of experiments/, the papers' rows, protocols,
decisions and benchmarks."""

import re
from collections import defaultdict
from itertools import takewhile
from pathlib import Path

import yaml
from reference_pages import code, entries, layers, sentence, table


def experiments(root: Path) -> str:
    """Return the comment at the top of each file of experiments/."""
    out = []
    for path in sorted((root / "experiments").glob("*.yaml")):
        out += [f"\n## {path.name}\n", _comment(path), ""]
    return "\n".join(out)


def _comment(path: Path) -> str:
    """Return the comment above the first key: a description, then Data, Cost and Scores as a
    list."""
    head = takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    text = " ".join(" ".join(line.lstrip("#") for line in head).split())
    return (
        re.sub(r" (Data|Cost|Scores): ", r"\n\n- **\1**: ", text)
        .replace("\n\n- **C", "\n- **C")
        .replace("\n\n- **S", "\n- **S")
    )


def protocols(root: Path) -> str:
    known = yaml.safe_load((root / "pipeline/experiment/protocols/protocols.yaml").read_text())
    return entries(
        (
            code(name),
            f"captions: {row['captions']}; tokens: {row['tokens']}",
            sentence(row["about"]),
        )
        for name, row in known.items()
    )


def papers(root: Path) -> str:
    """Return the tables of papers.yaml with their systems, which a variant's `paper` may name."""
    tables = yaml.safe_load((root / "pipeline/experiment/papers.yaml").read_text())["tables"]
    rows = [
        [
            code(name),
            entry.get("title", ""),
            ", ".join(code(row["system"]) for row in entry["rows"]),
        ]
        for name, entry in tables.items()
    ]
    return table(["table", "what it is", "systems"], rows)


def decisions(root: Path) -> str:
    """Return the index of decisions: a list for each room, newest first. Superseded decisions are
    marked."""
    by_room: dict[str, list[tuple[str, str, str, str]]] = defaultdict(list)
    for path in (root / "docs/decisions").glob("[0-9]*.md"):
        text = path.read_text()
        title = text.splitlines()[0].removeprefix("# ")
        room = _field(text, "Room")
        by_room[room].append((path.name[:10], title, path.name, _field(text, "Status")))
    order = ["the graph", *(room for floor in layers(root) for room in floor)]
    out = []
    for room in sorted(by_room, key=lambda r: (order.index(r) if r in order else len(order), r)):
        out.append(f"\n## {room[:1].upper() + room[1:]}\n")
        for date, title, file, status in sorted(
            by_room[room], key=lambda d: (d[0], d[2]), reverse=True
        ):
            mark = "" if status == "holds" else " (superseded)"
            out.append(f"- {date}: [{title}]({file}){mark}")
    return "\n".join(out) + "\n"


def _field(text: str, name: str) -> str:
    found = re.search(rf"^{name}: (.+?)(?:  )?$", text, re.MULTILINE)
    if not found:
        raise ValueError(f"a decision without '{name}:': {text.splitlines()[0]}")
    return found[1]


def benchmarks(root: Path) -> str:
    """Return the table of goals and figures in benchmarks/results/README.md."""
    text = (root / "benchmarks/results/README.md").read_text()
    return "\n".join(line for line in text.splitlines() if line.startswith("|")) + "\n"

"""Draw two pictures from declarations in the code: the rooms (import-linter's layers in
pyproject.toml) and the graph (dvc.yaml)."""

import re
from collections.abc import Mapping
from pathlib import Path

import yaml
from reference_pages import layers

# x and y of the top left corner, width and height.
Box = tuple[float, float, float, float]


def svg(width: float, height: float, label: str, parts: list[str]) -> str:
    """Return an inline SVG, which takes the colours of the page, light or dark."""
    inner = "".join(parts)
    return (
        '<div class="drawing" markdown="0" data-search-exclude>'
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{label}" xmlns="http://www.w3.org/2000/svg"><defs><marker id="tip" '
        'viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z"/></marker></defs>{inner}</svg></div>\n'
    )


def box(at: Box, name: str, below: str = "", kind: str = "") -> str:
    x, y, w, h = at
    middle = x + w / 2
    text = f'<text x="{middle:g}" y="{y + h / 2 + (-3 if below else 5):g}">{name}</text>'
    if below:
        text += f'<text class="small" x="{middle:g}" y="{y + h / 2 + 14:g}">{below}</text>'
    frame = f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="5"/>'
    return f'<g class="{kind}">{frame}{text}</g>'


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    bend = (y2 - y1) / 2
    path = f"M{x1:g} {y1:g} C{x1:g} {y1 + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2:g}"
    return f'<path class="arrow" d="{path}" marker-end="url(#tip)"/>'


def rooms(root: Path) -> str:
    """Draw one floor per line. Rooms may import from the floors below theirs."""
    floors = layers(root)
    width, height, gap, left = 480.0, 40.0, 22.0, 0.0
    parts = []
    for n, floor in enumerate(floors):
        y = n * (height + gap) + 1
        each = (width - 2 - 12 * (len(floor) - 1)) / len(floor)
        for k, room in enumerate(floor):
            at = (left + 1 + k * (each + 12), y, each, height)
            parts.append(box(at, room, kind="outer" if n == 0 else "inner"))
        if n:
            parts.append(arrow(width / 2, y - gap, width / 2, y - 2))
    return svg(
        width, len(floors) * (height + gap) - gap + 2, "Rooms, from the top floor down", parts
    )


def graph(root: Path) -> str:
    """Draw the stages from top to bottom. An arrow means that the lower stage reads an output of
    the upper one. Arrows that others imply are left out."""
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    needs = reduced(reads(stages))
    level: dict[str, int] = {}
    for name in stages:  # A stage comes after the stages whose outputs it reads.
        level[name] = 1 + max((level[other] for other in needs[name]), default=-1)
    floors = [[s for s in stages if level[s] == n] for n in range(max(level.values()) + 1)]
    width, w, h, gap = 480.0, 150.0, 46.0, 34.0
    at = {
        name: ((k + 0.5) * width / len(floor) - w / 2, n * (h + gap) + 1, w, h)
        for n, floor in enumerate(floors)
        for k, name in enumerate(floor)
    }
    parts = [
        arrow(at[o][0] + w / 2, at[o][1] + h, at[name][0] + w / 2, at[name][1] - 2)
        for name in stages
        for o in sorted(needs[name])
    ]
    singular = {"corpora": "corpus", "features": "feature set"}
    for name, stage in stages.items():
        each = stage.get("foreach", "").strip("${}")
        below = f"one per {singular.get(each, each.removesuffix('s'))}" if each else "one"
        parts.append(box(at[name], name, below, "inner"))
    return svg(width, len(floors) * (h + gap) - gap + 2, "Stages of the graph", parts)


def reads(stages: Mapping[str, dict]) -> dict[str, set[str]]:  # type: ignore[type-arg]
    """Return, for each stage, the stages whose outputs it declares as dependencies."""
    made = [
        (_blank(out), name)
        for name, stage in stages.items()
        for row in [stage.get("do", stage)]
        for out in [
            *(next(iter(o)) if isinstance(o, dict) else o for o in row["outs"]),
            *row.get("metrics", []),
        ]
    ]
    found: dict[str, set[str]] = {}
    for name, stage in stages.items():
        deps = [_blank(dep) for dep in stage.get("do", stage)["deps"]]
        found[name] = {
            maker
            for dep in deps
            for out, maker in made
            if maker != name
            and (out == dep or out.startswith((f"{dep}/", f"{dep}.")) or dep.startswith(f"{out}/"))
        }
    return found


def _blank(template: str) -> str:
    return re.sub(r"\$\{[^}]+\}", "*", template)


def reduced(needs: dict[str, set[str]]) -> dict[str, set[str]]:
    """Remove every arrow that a chain of other arrows implies."""

    def above(name: str) -> set[str]:
        return needs[name] | {up for other in needs[name] for up in above(other)}

    return {
        name: {o for o in others if not any(o in above(p) for p in others if p != o)}
        for name, others in needs.items()
    }

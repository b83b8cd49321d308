"""Which figures of a table are the best, and which are within noise of them."""

from collections.abc import Iterable

from pipeline.report.table import Column, Table
from pipeline.results.estimates import ALPHA, Estimate, p_value
from pipeline.results.values import LOWER_IS_BETTER, Value, number


def best_cells(table: Table) -> set[tuple[int, int]]:
    """Return (row, column) of the best figure of each column, and of the figures within noise of
    it. Columns with fewer than two figures are left out."""
    best = set()
    for c, column in enumerate(table.columns):
        cells = [values[c] for _, values in table.rows]
        judged = [None if r in table.unjudged else value for r, value in enumerate(cells)]
        figures = {
            r: figure for r, value in enumerate(judged) if (figure := number(value)) is not None
        }
        if len(figures) > 1 and column.is_judged and (not _tested(table) or _tested_column(cells)):
            top = _top(column, figures.values())
            best |= {(r, c) for r, figure in figures.items() if figure == top}
            best |= {
                (r, c)
                for r, p in enumerate(p_values(column, judged))
                if p is not None and p >= ALPHA
            }
    return best


def _tested(table: Table) -> bool:
    """Return whether the table has intervals. If it has, columns without intervals are not marked,
    because their differences cannot be separated from noise."""
    return any(
        _tested_column([values[c] for _, values in table.rows]) for c in range(len(table.columns))
    )


def _tested_column(cells: list[Value]) -> bool:
    return any(isinstance(cell, Estimate) for cell in cells)


def _top(column: Column, figures: Iterable[float]) -> float:
    return min(figures) if column.metric in LOWER_IS_BETTER else max(figures)


def p_values(
    column: Column, cells: list[Value], unjudged: frozenset[int] = frozenset()
) -> list[float | None]:
    """Return the p-value of each row of a column against the best judged row. It is None if the two
    cannot be paired."""
    estimates = [
        cell for r, cell in enumerate(cells) if isinstance(cell, Estimate) and r not in unjudged
    ]
    if not estimates:
        return [None] * len(cells)
    top = _top(column, (e.value for e in estimates))
    best = next(e for e in estimates if e.value == top)
    return [p_value(best, cell) if isinstance(cell, Estimate) else None for cell in cells]

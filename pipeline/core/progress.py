"""One progress bar for all long work: live on a terminal, a line every quarter of a minute in a log
file."""

import sys
from collections.abc import Iterable
from typing import Any


def bar(
    items: Iterable[Any] | None = None,
    *,
    desc: str,
    unit: str,
    total: int | None = None,
    initial: int = 0,
) -> Any:
    """A tqdm bar over `items`, or one to be advanced by `update`."""
    from tqdm import tqdm

    live = sys.stderr.isatty()
    return tqdm(
        items,
        desc=desc,
        unit=f" {unit}",
        total=total,
        initial=initial,
        leave=False,
        mininterval=0.2 if live else 15.0,
        ncols=None if live else 80,
        delay=0 if live else 15.0,
    )

"""One progress bar for all long work: live on a terminal, one line every 15 seconds in a log
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
    """Return a tqdm bar over `items`; without `items`, the caller advances it with `update`."""
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

"""How many threads decode pictures: apart from devices, which every cleaned corpus would depend on otherwise."""

import os

from pipeline.core.errors import UserError


def workers() -> int:
    """Threads that decode images: `CAPTIONLAB_WORKERS` or one per core.

    Raises:
        UserError: that is no whole number above 0.
    """
    text = os.environ.get("CAPTIONLAB_WORKERS") or str(os.cpu_count() or 1)
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"CAPTIONLAB_WORKERS={text}: expected a whole number of threads, 1 or more")
    return int(text)

"""Which files of a person's folder are taken into a data set, and why the others are not.

What is taken is copied to data/raw, and from there DVC's cache and every remote get it. So a link
that leads out of the folder (`evil -> /etc`, with an image `evil/passwd`) is not followed unasked.
"""

import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.errors import printable, say

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
"of pictures"
LARGEST = 256_000_000
"""bytes of a file that is taken: reading.MAX_BYTES, which a test holds it to. Importing that here
would have every release downloaded again after an edit of the reader"""
OUTSIDE = "links that lead out of the folder (follow_links: true takes them)"
NO_FILE = "pipes or devices"
LARGE = f"larger than {LARGEST:,} bytes (scale them down)"
SHOWN = 3
"names in a message"


@dataclass
class Gate:
    """Of one folder."""

    root: Path
    follow_links: bool = False
    "Whether links may lead out of the folder."
    refused: dict[str, str] = field(default_factory=dict)
    "Names within the folder that are there and not taken, each with its reason."

    def __post_init__(self) -> None:
        self._real = self.root.resolve()

    def takes(self, name: str) -> bool:
        """Whether `name` is a file to take; one that is there and is not taken is noted."""
        path = self.root / name
        try:
            reason = self._reason_against(path)
        except (OSError, ValueError, RuntimeError):  # not there, no name of a file, a ring of links
            return False
        if reason:
            self.refused[name] = reason
        return not reason

    def _reason_against(self, path: Path) -> str:
        about = path.stat()
        if stat.S_ISDIR(about.st_mode):
            raise IsADirectoryError
        if not self.follow_links and not path.resolve().is_relative_to(self._real):
            return OUTSIDE
        if not stat.S_ISREG(about.st_mode):
            return NO_FILE
        return LARGE if about.st_size > LARGEST else ""

    def named(self, reason: str) -> list[str]:
        return sorted(name for name, why in self.refused.items() if why == reason)

    def tell(self, source: str) -> None:
        """A line on standard error for each reason."""
        for reason in (OUTSIDE, NO_FILE, LARGE):
            tell(source, f"files set aside as {reason}", self.named(reason))


def tell(source: str, what: str, names: list[str], of: int | None = None) -> None:
    """A line on standard error: how many, and the first of them."""
    if names:
        shown = ", ".join(printable(name, 100) for name in names[:SHOWN])
        total = "" if of is None else f" of {of}"
        more = ", ..." if len(names) > SHOWN else ""
        say(f"{source}: {len(names)}{total} {what}: {shown}{more}", file=sys.stderr)

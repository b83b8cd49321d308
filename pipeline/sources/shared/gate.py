"""Which files of a user's folder are taken into a data set, and why the others are refused.

A file that is taken is copied to data/raw, and from there to DVC's cache and every remote. Links
that lead out of the folder (`evil -> /etc`, with an image `evil/passwd`) are therefore followed
only on request.
"""

import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.errors import printable, say

# Suffixes of image files.
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
# Size in bytes of the largest file that is taken. It equals reading.MAX_BYTES, as a test checks.
# With an import of that constant, every edit of the reader would cause every release to be
# downloaded again.
LARGEST = 256_000_000
OUTSIDE = "links that lead out of the folder (follow_links: true takes them)"
NO_FILE = "pipes or devices"
LARGE = f"larger than {LARGEST:,} bytes (scale them down)"
# Number of names in a message.
SHOWN = 3


@dataclass
class Gate:
    """Decides which files of one folder are taken."""

    root: Path
    follow_links: bool = False
    "Whether links may lead out of the folder."
    refused: dict[str, str] = field(default_factory=dict)
    "Files that exist and were not taken: name within the folder -> reason."

    def __post_init__(self) -> None:
        self._real = self.root.resolve()

    def takes(self, name: str) -> bool:
        """Return whether `name` is a file to take. A file that exists and is refused is
        recorded."""
        path = self.root / name
        try:
            reason = self._reason_against(path)
        except (OSError, ValueError, RuntimeError):  # missing, an invalid name, or a loop of links
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
        """Report the refused files on standard error, one line per reason."""
        for reason in (OUTSIDE, NO_FILE, LARGE):
            tell(source, f"files set aside as {reason}", self.named(reason))


def tell(source: str, what: str, names: list[str], of: int | None = None) -> None:
    """Write a line on standard error with the number of names and the first few of them."""
    if names:
        shown = ", ".join(printable(name, 100) for name in names[:SHOWN])
        total = "" if of is None else f" of {of}"
        more = ", ..." if len(names) > SHOWN else ""
        say(f"{source}: {len(names)}{total} {what}: {shown}{more}", file=sys.stderr)

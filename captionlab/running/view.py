"""Show a run: on a terminal as a table that stays in place, in a file as one line per event."""

import sys
import time
from typing import TYPE_CHECKING, Any

from captionlab.running.outcome import Outcome, lines_of
from pipeline.core.errors import encodable, printable, say

if TYPE_CHECKING:
    from rich.console import Console

# Minimum seconds between two drawings.
EVERY = 1.0


class View:
    """The view of one run.

    Args:
        total: number of stages of the run.
        console: rich's console on which to draw the table. Without one, the table is drawn if
            standard output is a terminal; otherwise lines are printed.
    """

    def __init__(self, total: int, console: "Console | None" = None):
        self.total, self.ended_count = total, 0
        self.since: dict[str, float] = {}
        "Running stage -> when it was started."
        self.live: Any = None
        self.drawn = 0.0
        if console or sys.stdout.isatty():
            from rich.live import Live

            self.live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> "View":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.update("", refresh=True)
            self.live.stop()

    def started(self, stage: str) -> None:
        self.since[stage] = time.monotonic()
        if not self.live:
            self._say(f"{stage}: started")

    def ended(self, outcome: Outcome) -> None:
        self.ended_count += outcome.state == "done"
        took = _clock(time.monotonic() - self.since.pop(outcome.stage))
        how = "done" if outcome.state == "done" else f"failed, {outcome.said}"
        self._say(f"{outcome.stage}: {how} ({took}; {self.ended_count} of {self.total} done)")

    def again(self, outcome: Outcome) -> None:
        del self.since[outcome.stage]
        self._say(f"{outcome.stage}: {outcome.said}: it is tried again")

    def show(self, logs: dict[str, str]) -> None:
        """Draw the table again, at most once every `EVERY` seconds.

        Args:
            logs: stage -> the end of its log, for the running stages.
        """
        now = time.monotonic()
        if self.live and now - self.drawn >= EVERY:
            self.drawn = now
            self.live.update(self._table(logs, now), refresh=True)

    def _table(self, logs: dict[str, str], now: float) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(no_wrap=True, overflow="ellipsis")
        encoding = sys.stdout.encoding or "utf-8"
        for stage, log in logs.items():
            told = [line for line in lines_of(log) if line.strip()]
            last = encodable(printable(told[-1] if told else ""), encoding)
            table.add_row(stage, _clock(now - self.since.get(stage, now)), Text(last))
        table.add_row("done", "", f"{self.ended_count} of {self.total} stages")
        return table

    def _say(self, line: str) -> None:
        if self.live:
            self.live.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
        else:
            say(line)


def _clock(seconds: float) -> str:
    """Return a duration as `1:02:03`, or as `2:03` below an hour."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

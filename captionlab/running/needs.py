"""What a stage needs while it runs: one table, and the overrides of `--need`."""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from pipeline.core.errors import UserError


@dataclass(frozen=True)
class Need:
    gpus: float = 0.0
    "Number of devices, or a share of one. If no GPU is visible, stages run on cores."
    cores: float = 1.0
    memory: float = 2.0
    "Main memory in GB."


# Kind of stage -> what it needs.
NEEDS = {
    "download": Need(),
    "clean": Need(),
    "references": Need(),
    "extract": Need(gpus=1, cores=2, memory=4),
    "train": Need(gpus=1, cores=2, memory=6),
    "caption": Need(gpus=1, cores=1, memory=4),
    "score": Need(memory=4),
    "baseline": Need(memory=4),
}


class Needs:
    """The table, with overrides.

    Args:
        overrides: `KIND.WHAT=NUMBER` or `STAGE.WHAT=NUMBER`, such as `train.cores=8` and
            `train@prefix-lm.gpus=2`. One for a stage takes precedence over one for its kind.

    Raises:
        UserError: an override has another form.
    """

    def __init__(self, overrides: Iterable[str] = ()):
        self._by_name: dict[str, dict[str, float]] = {}
        for text in overrides:
            name, what, number = _parsed(text)
            self._by_name.setdefault(name, {})[what] = number

    def of(self, stage: str) -> Need:
        kind = stage.partition("@")[0]
        own = {**self._by_name.get(kind, {}), **self._by_name.get(stage, {})}
        return replace(NEEDS.get(kind, Need()), **own)

    def named(self) -> list[str]:
        """Return the stages and kinds that overrides name."""
        return [*self._by_name]

    def check(self, stages: Iterable[str]) -> None:
        """Raise a UserError if an override names neither a stage nor the kind of one."""
        known = {name for stage in stages for name in (stage, stage.partition("@")[0])}
        for name in self._by_name.keys() - known:
            raise UserError(f"--need {name}: the graph has no such stage, nor stages of that kind")


def _parsed(text: str) -> tuple[str, str, float]:
    name, _, value = text.partition("=")
    stage, _, what = name.rpartition(".")
    known = [field.name for field in fields(Need)]
    try:
        number = float(value)
    except ValueError:
        number = -1
    parted = what == "gpus" and number > 1 and number % 1
    if not stage or what not in known or parted or not 0 <= number < float("inf"):
        raise UserError(
            f"--need {text}: write STAGE.WHAT=NUMBER, where WHAT is one of {', '.join(known)}, "
            "such as train.cores=8; gpus above 1 are whole"
        )
    return stage, what, number

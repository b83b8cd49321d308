"""Names of scores in MLflow. Only this module builds and parses them.

test/cider          the row's own system, standard protocol
test/raw.cider      the same under the protocol `raw`
test/seed-2.cider   a further training
test/mean.cider     the mean over trainings, and test/sd.cider their standard deviation
"""

from dataclasses import dataclass

from pipeline.experiment.protocols import STANDARD
from pipeline.results.scores import MEAN, OWN, Key, ScoreTable

# Takes the place of MEAN in the name of the standard deviation that belongs to a mean.
SPREAD = "sd"
FURTHER = "seed-"


@dataclass(frozen=True)
class MetricName:
    """The parts of a name. `str` joins them."""

    split: str
    metric: str
    protocol: str = STANDARD
    seed: str = OWN
    "The seed as in the table of scores, or SPREAD."

    @property
    def key(self) -> Key:
        """Key of the score's line in the table of scores."""
        return Key(self.split, self.protocol, self.seed, self.metric)

    @property
    def within_split(self) -> str:
        """The name without its split, as `captionlab register --metric` takes it: `raw.cider` for
        `test/raw.cider`."""
        further = self.seed not in (OWN, MEAN, SPREAD)
        seed = f"{FURTHER}{self.seed}" if further else self.seed
        protocol = "" if self.protocol == STANDARD else self.protocol
        return ".".join(filter(None, (protocol, seed, self.metric)))

    def __str__(self) -> str:
        return f"{self.split}/{self.within_split}"

    @classmethod
    def parse(cls, name: str) -> "MetricName":
        """Parse a name that `str` has built."""
        split, _, rest = name.partition("/")
        before, _, metric = rest.rpartition(".")
        if before in (OWN, MEAN, SPREAD):
            return cls(split, metric, seed=before)
        if before.startswith(FURTHER):
            return cls(split, metric, seed=before.removeprefix(FURTHER))
        return cls(split, metric, protocol=before)


def named_scores(scores: ScoreTable) -> dict[str, float]:
    """Return the scores of one row by their names in MLflow."""
    out = {}
    for row in scores:
        out[str(MetricName(row.split, row.metric, row.protocol, row.seed))] = row.value
        if row.sd is not None:
            out[str(MetricName(row.split, row.metric, row.protocol, SPREAD))] = row.sd
    return out

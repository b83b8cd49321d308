"""What MLflow calls a score. Names are made and read here alone.

test/cider          the row's own system, standard protocol
test/raw.cider      the same under the protocol `raw`
test/seed-2.cider   a further training
test/mean.cider     the mean over trainings, and test/sd.cider their standard deviation
"""

from dataclasses import dataclass

from pipeline.experiment.protocols import STANDARD
from pipeline.results.scores import MEAN, OWN, Key, ScoreTable

SPREAD = "sd"
"stands where a mean has MEAN, in the name of its standard deviation"
FURTHER = "seed-"


@dataclass(frozen=True)
class MetricName:
    """A name with its parts; `str` joins them."""

    split: str
    metric: str
    protocol: str = STANDARD
    seed: str = OWN
    "as in the table of scores, or SPREAD"

    @property
    def key(self) -> Key:
        """Of the line in the table of scores."""
        return Key(self.split, self.protocol, self.seed, self.metric)

    @property
    def within_split(self) -> str:
        """`raw.cider` of `test/raw.cider`: what `captionlab register --metric` takes."""
        further = self.seed not in (OWN, MEAN, SPREAD)
        seed = f"{FURTHER}{self.seed}" if further else self.seed
        protocol = "" if self.protocol == STANDARD else self.protocol
        return ".".join(filter(None, (protocol, seed, self.metric)))

    def __str__(self) -> str:
        return f"{self.split}/{self.within_split}"

    @classmethod
    def parse(cls, name: str) -> "MetricName":
        """What `str` made of a name."""
        split, _, rest = name.partition("/")
        before, _, metric = rest.rpartition(".")
        if before in (OWN, MEAN, SPREAD):
            return cls(split, metric, seed=before)
        if before.startswith(FURTHER):
            return cls(split, metric, seed=before.removeprefix(FURTHER))
        return cls(split, metric, protocol=before)


def named_scores(scores: ScoreTable) -> dict[str, float]:
    """MLflow's metrics of one row."""
    out = {}
    for row in scores:
        out[str(MetricName(row.split, row.metric, row.protocol, row.seed))] = row.value
        if row.sd is not None:
            out[str(MetricName(row.split, row.metric, row.protocol, SPREAD))] = row.sd
    return out

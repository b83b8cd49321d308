"""SPIDEr (Liu et al., 2017): the mean of CIDEr-D and SPICE, image by image. It needs SPICE to
run."""

from pipeline.metrics import cider, spice
from pipeline.metrics.shared import languages
from pipeline.metrics.shared.base import Candidates, References, Scores, means

READS = languages.ENGLISH


def score(candidates: Candidates, references: References) -> Scores:
    """Return SPIDEr.

    Raises:
        Unavailable: as `spice.score` does.
    """
    judged = spice.score(candidates, references).per_image["spice"]
    consensus = cider.score(candidates, references).per_image["cider"]
    per_image = {image: (consensus[image] + judged[image]) / 2 for image in candidates}
    corpus = sum(per_image.values()) / max(1, len(per_image))
    return Scores(
        {"spider": corpus}, {"spider": per_image}, means({"spider": list(per_image.values())})
    )

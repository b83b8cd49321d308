"""CIDEr without the D (Vedantam et al., 2015, equation 3), as in pyciderevalcap's class Cider: the
cosine of all n-grams, with no penalty for length or for repeated words.

A caption can score high by repeating a likely word, so tables print CIDEr-D (`cider`). Words are
compared as they are, without stemming.
"""

from pipeline.metrics.cider import scores_of
from pipeline.metrics.shared.base import Candidates, References, Scores


def score(candidates: Candidates, references: References) -> Scores:
    return scores_of("plain_cider", candidates, references, plain=True)

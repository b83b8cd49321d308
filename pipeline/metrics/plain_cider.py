"""CIDEr without the D (Vedantam et al., 2015, equation 3), as pyciderevalcap's class Cider has it:
the cosine of all n-grams, whatever the length and however often a word is repeated.

Captions can win it by saying a likely word again and again, which is why CIDEr-D (`cider`) is what
tables print. Words are compared as they are, not by their stems.
"""

from pipeline.metrics.cider import scores_of
from pipeline.metrics.shared.base import Candidates, References, Scores


def score(candidates: Candidates, references: References) -> Scores:
    return scores_of("plain_cider", candidates, references, plain=True)

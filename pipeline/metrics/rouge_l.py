"""ROUGE-L with beta 1.2 (Lin, 2004), as in pycocoevalcap: it uses the best precision and the best
recall over the references."""

from collections import defaultdict

from pipeline.metrics.shared.base import Candidates, References, Scores, means

BETA = 1.2


def score(candidates: Candidates, references: References) -> Scores:
    per_image = {image: rouge_l(text, references[image]) for image, text in candidates.items()}
    corpus = sum(per_image.values()) / max(1, len(per_image))
    return Scores(
        {"rouge_l": corpus}, {"rouge_l": per_image}, means({"rouge_l": list(per_image.values())})
    )


def rouge_l(candidate: str, references: list[str]) -> float:
    """Return ROUGE-L of one caption.

    An empty text counts as one empty word, as in pycocoevalcap, so it equals another empty text.
    """
    words, others = candidate.split(" "), [reference.split(" ") for reference in references]
    common = longest_common_subsequences(words, others)
    precision = max(common) / len(words)
    recall = max(length / len(other) for length, other in zip(common, others, strict=True))
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if precision else 0.0


def longest_common_subsequences(words: list[str], others: list[list[str]]) -> list[int]:
    """Return the length of the longest common subsequence of `words` with each of `others`.

    Bits replace the usual table (Hyyrö, 2004): a zero of `row` marks a word of `words` that is in
    the subsequence.
    """
    places: defaultdict[str, int] = defaultdict(int)
    for n, word in enumerate(words):
        places[word] |= 1 << n
    full = (1 << len(words)) - 1
    lengths = []
    for other in others:
        row = full
        for word in other:
            matched = row & places.get(word, 0)
            row = (row + matched) | (row - matched)
        lengths.append(len(words) - (row & full).bit_count())
    return lengths

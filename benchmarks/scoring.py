"""Scoring ten variants: `python -m benchmarks.scoring [images [variants]]` -> benchmarks/results/scoring.{json,md}.

Synthetic captions of the grammar of `scenes`, five references an image. This project tokenises the references once and then
scores variant by variant, intervals included; against it pycocoevalcap's classes, called once a variant as its COCOEvalCap
does (references and captions tokenised each time, SPICE aside), in the same process and run. The scores must be equal.
"""

import contextlib
import io
import json
import os
import platform
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pipeline.java import ENGLISH, use_java
from pipeline.metrics.base import References
from pipeline.scores import ptb_tokenize, score_captions
from pipeline.sources import scenes

ROOT = Path(__file__).parent.parent
VARIANTS = 10
IMAGES = 1000
METRICS = ["bleu", "meteor", "rouge_l", "cider"]
NAMES = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider"]


def texts(images: int, count: int) -> tuple[References, list[dict[str, str]]]:
    """References by image, and a caption of every image by each variant: of its scene, or for one in five of another."""
    drawn = [scenes.compose(random.Random(n), "train") for n in range(images)]
    references = {f"i{n:05}": scenes.describe(random.Random(-n), scene) for n, scene in enumerate(drawn)}
    variants = []
    for variant in range(count):
        rng = random.Random(f"variant {variant}")
        seen = [scene if rng.random() < 0.8 else rng.choice(drawn) for scene in drawn]
        said = (scenes.describe(rng, scene)[0] for scene in seen)
        variants.append(dict(zip(references, said, strict=True)))
    return references, variants


def ours(references: References, variants: list[dict[str, str]]) -> list[dict[str, float]]:
    import pandas as pd

    tokenised = ptb_tokenize(references)
    out = []
    for said in variants:
        captions = pd.DataFrame({"image_id": list(said), "split": "test", "text": list(said.values())})
        out.append(score_captions(captions, tokenised, METRICS).summary["test"])
    return out


def theirs(references: References, variants: list[dict[str, str]]) -> list[dict[str, float]]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    out = []
    for said in variants:
        use_java()
        gold = PTBTokenizer().tokenize({i: [{"caption": t} for t in refs] for i, refs in references.items()})
        guesses = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in said.items()})
        use_java(ENGLISH)
        bleu, *others = (s.compute_score(gold, guesses)[0] for s in (Bleu(4), Meteor(), Rouge(), Cider()))
        out.append(dict(zip(NAMES, [*bleu, *map(float, others)], strict=True)))
    return out


def timed(score: Any, *inputs: Any) -> tuple[float, list[dict[str, float]]]:
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):  # Bleu prints its counts
        found = score(*inputs)
    return time.perf_counter() - started, found


def largest_difference(one: list[dict[str, float]], other: list[dict[str, float]]) -> float:
    return max(abs(a[name] - b[name]) for a, b in zip(one, other, strict=True) for name in NAMES)


def main() -> None:
    images, count, *_ = [*map(int, sys.argv[1:]), *(IMAGES, VARIANTS)[len(sys.argv) - 1 :]]
    references, variants = texts(images, count)
    their_seconds, expected = timed(theirs, references, variants)
    our_seconds, found = timed(ours, references, variants)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    about = {
        "command": " ".join(["python -m benchmarks.scoring", *sys.argv[1:]]),
        "commit": commit or "no git",
        "machine": f"{os.cpu_count()} cores {platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "variants": count,
        "images": images,
        "references_per_image": scenes.REFERENCES,
        "metrics": METRICS,
        "seconds": {"captionlab": round(our_seconds, 2), "pycocoevalcap": round(their_seconds, 2)},
        "ratio": round(their_seconds / our_seconds, 2),
        "largest_difference": largest_difference(found, expected),
    }
    folder = ROOT / "benchmarks" / "results"
    (folder / "scoring.json").write_text(json.dumps(about, indent=2) + "\n")
    (folder / "scoring.md").write_text(table(about))
    print(table(about))


def table(about: dict[str, Any]) -> str:
    head = (
        f"`{about['command']}` at {about['commit']}, {about['machine']}: {about['variants']} variants on {about['images']} "
        f"images with {about['references_per_image']} references; {', '.join(about['metrics'])}; ours with intervals.\n\n"
    )
    rows = [f"| {name} | {seconds:.2f} |" for name, seconds in about["seconds"].items()]
    tail = f"\n\nRatio {about['ratio']:.2f}; the scores differ by {about['largest_difference']:.1e} at most.\n"
    return head + "\n".join(["| scorer | seconds |", "|---|---:|", *rows]) + tail


if __name__ == "__main__":
    main()

"""Scoring ten variants: `python -m benchmarks.scoring [images [variants]]` ->
benchmarks/results/scoring.{json,md}.

The captions are synthetic, from the grammar of `scenes`, with five references per image. This
project tokenises the references once, then scores each variant, including intervals. The baseline,
in the same process and run, is pycocoevalcap. Its classes are called once per variant as
COCOEvalCap does, without SPICE; they tokenise references and captions each time. The scores must be
equal.

The benchmark then scores one variant alone, step by step. Finally, it compares the reward of
self-critical training, CIDEr-D, with pycocoevalcap's scorer, whose references are counted before.
"""

import contextlib
import functools
import io
import json
import os
import platform
import random
import subprocess
import sys
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from pipeline.core.java import ENGLISH, use_java
from pipeline.core.registry import load
from pipeline.metrics import cider, meteor
from pipeline.metrics.shared import base
from pipeline.metrics.shared.base import References
from pipeline.scoring.ptb import ptb_tokenize
from pipeline.scoring.variant import Known, Said, score_variant
from pipeline.sources import scenes
from pipeline.training.self_critical import CiderReward

ROOT = Path(__file__).parent.parent
VARIANTS = 10
IMAGES = 1000
SAMPLES = 5
METRICS = ["bleu", "meteor", "rouge_l", "cider"]
ALL = [*METRICS, "diversity", "degeneration", "gender"]
NAMES = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider"]
# Two dicts by metric: the score of the corpus, and the scores of the images.
Found = tuple[dict[str, float], dict[str, list[float]]]


def texts(images: int, count: int) -> tuple[References, list[dict[str, str]]]:
    """Return the references by image, and a caption of every image from each variant. One caption
    in five describes a random scene instead of its own."""
    drawn = [scenes.compose(random.Random(n), "train") for n in range(images)]
    references = {
        f"i{n:05}": scenes.describe(random.Random(-n), scene) for n, scene in enumerate(drawn)
    }
    variants = []
    for variant in range(count):
        rng = random.Random(f"variant {variant}")
        seen = [scene if rng.random() < 0.8 else rng.choice(drawn) for scene in drawn]
        said = (scenes.describe(rng, scene)[0] for scene in seen)
        variants.append(dict(zip(references, said, strict=True)))
    return references, variants


def ours(references: References, variants: list[dict[str, str]]) -> list[Found]:
    tokenised = ptb_tokenize(references)
    out = []
    for said in variants:
        scored = score_variant(
            Said.of_baseline(table_of(said)), Known(tokenised, {}, set()), METRICS, []
        ).standard
        out.append(
            (scored.summary["test"], {name: scored.per_image[name].tolist() for name in NAMES})
        )
    return out


def table_of(said: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame({"image_id": list(said), "split": "test", "text": list(said.values())})


def theirs(references: References, variants: list[dict[str, str]]) -> list[Found]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    out = []
    for said in variants:
        use_java()
        gold = PTBTokenizer().tokenize(
            {i: [{"caption": t} for t in refs] for i, refs in references.items()}
        )
        guesses = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in said.items()})
        use_java(ENGLISH)
        bleu, *others = (
            s.compute_score(gold, guesses) for s in (Bleu(4), Meteor(), Rouge(), Cider())
        )
        corpus, per_image = ([*bleu[k], *(other[k] for other in others)] for k in (0, 1))
        out.append(
            (
                dict(zip(NAMES, map(float, corpus), strict=True)),
                dict(zip(NAMES, map(list, per_image), strict=True)),
            )
        )
    return out


def one_variant(
    references: References, said: dict[str, str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the seconds of each step for the first variant of a process, when nothing is started
    or cached, and for the next variant.

    The last entry is the time of `score_variant` with all steps, including intervals.
    """
    tokenised = ptb_tokenize(references)
    first, following = (steps(tokenised, said), steps(tokenised, said))
    forget()
    for seconds in first, following:
        started = time.perf_counter()
        score_variant(Said.of_baseline(table_of(said)), Known(tokenised, {}, set()), ALL, [])
        seconds["all, with intervals"] = time.perf_counter() - started
    return first, following


def steps(tokenised: References, said: dict[str, str]) -> dict[str, float]:
    started = time.perf_counter()
    candidates = {
        i: texts[0] for i, texts in ptb_tokenize({i: [text] for i, text in said.items()}).items()
    }
    seconds = {"PTB tokenizer": time.perf_counter() - started}
    for name in ALL:
        started = time.perf_counter()
        load("metrics", name).score(candidates, tokenised)
        seconds[name] = time.perf_counter() - started
    return seconds


def forget() -> None:
    """Reset this process, as if it had scored nothing yet."""
    for program in (meteor.SCORER, meteor.NORMALISER):
        program.stop()
    for remembered in (base.counted, cider._remembered, meteor._normalised_references):
        remembered.cache_clear()


class TheirReward:
    """pycocoevalcap's CIDEr-D with the document frequencies of all references. It counts their
    n-grams only once."""

    def __init__(self, references: References) -> None:
        from pycocoevalcap.cider.cider_scorer import CiderScorer, cook_refs

        self.references = {
            image: cook_refs([f"{text} <end>" for text in texts])
            for image, texts in references.items()
        }
        self.scorer = CiderScorer()
        self.scorer.crefs = list(self.references.values())
        self.scorer.compute_doc_freq()

        images_in_all = len(self.references)

        class Within(CiderScorer):
            # Otherwise, `ref_len` would depend on the number of images at hand.
            ref_len = property(lambda _: np.log(float(images_in_all)), lambda *_: None)

        self.within = Within

    def __call__(self, images: list[str], said: list[str]) -> list[float]:
        from pycocoevalcap.cider.cider_scorer import cook_test

        scorer = self.within()
        scorer.document_frequency = self.scorer.document_frequency
        scorer.crefs, scorer.ctest = (
            [self.references[i] for i in images],
            [cook_test(text) for text in said],
        )
        return [float(score) for score in scorer.compute_cider()]


def reward(references: References, variants: list[dict[str, str]]) -> dict[str, Any]:
    """Measure the reward of one step several times: `SAMPLES` captions of each of 32 images."""
    images = [image for image in list(references)[:32] for _ in range(SAMPLES)]
    said = [f"{variants[n % len(variants)][image]} <end>" for n, image in enumerate(images)]
    found, milliseconds = [], {}
    scorers: dict[str, Callable[[list[str], list[str]], list[float]]]
    scorers = {"captionlab": CiderReward(references), "pycocoevalcap": TheirReward(references)}
    for name, scorer in scorers.items():
        found.append(scorer(images, said))
        taken = timeit.repeat(functools.partial(scorer, images, said), number=1, repeat=9)
        milliseconds[name] = round(1000 * median(taken), 2)
    return {
        "captions": len(said),
        "milliseconds": milliseconds,
        "largest_difference": float(np.abs(np.diff(found, axis=0)).max()),
    }


def timed(score: Any, *inputs: Any) -> tuple[float, float, Any]:
    """Score once. Return wall seconds, processor seconds (Python and Java), and the result."""
    forget()
    started, used = time.perf_counter(), processor_seconds()
    with contextlib.redirect_stdout(io.StringIO()):  # Bleu prints its counts.
        found = score(*inputs)
    seconds = time.perf_counter() - started
    forget()  # Java's processor time is known only after it has ended.
    return seconds, processor_seconds() - used, found


def processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def largest_difference(one: list[Found], other: list[Found]) -> float:
    """Return the largest difference of any score of the corpus or of a caption."""
    pairs = [
        ([a[n], *c[n]], [b[n], *d[n]])
        for (a, c), (b, d) in zip(one, other, strict=True)
        for n in NAMES
    ]
    return max(float(np.abs(np.subtract(*pair)).max()) for pair in pairs)


def main() -> None:
    images, count, *_ = [*map(int, sys.argv[1:]), *(IMAGES, VARIANTS)[len(sys.argv) - 1 :]]
    references, variants = texts(images, count)
    their_seconds, their_work, expected = timed(theirs, references, variants)
    our_seconds, our_work, found = timed(ours, references, variants)
    _, _, (first, following) = timed(one_variant, references, variants[0])
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    about = {
        "command": " ".join(["python -m benchmarks.scoring", *sys.argv[1:]]),
        "commit": commit or "no git",
        "machine": f"{cores()} cores {platform.machine()}, {platform.system()}, Python "
        f"{platform.python_version()}",
        "variants": count,
        "images": images,
        "references_per_image": scenes.REFERENCES,
        "metrics": METRICS,
        "seconds": {"captionlab": round(our_seconds, 2), "pycocoevalcap": round(their_seconds, 2)},
        "processor_seconds": {
            "captionlab": round(our_work, 2),
            "pycocoevalcap": round(their_work, 2),
        },
        "ratio": round(their_seconds / our_seconds, 2),
        "processor_ratio": round(their_work / our_work, 2),
        "largest_difference": largest_difference(found, expected),
        "reward": reward(references, variants),
        "one_variant": {name: [round(first[name], 3), round(following[name], 3)] for name in first},
    }
    folder = ROOT / "benchmarks" / "results"
    (folder / "scoring.json").write_text(json.dumps(about, indent=2) + "\n")
    (folder / "scoring.md").write_text(table(about))
    print(table(about))


def cores() -> str:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return str(usable) if usable == os.cpu_count() else f"{usable} of {os.cpu_count()}"


def table(about: dict[str, Any]) -> str:
    head = (
        f"`{about['command']}` at {about['commit']}, {about['machine']}: "
        f"{about['variants']} variants on {about['images']} "
        f"images with {about['references_per_image']} references; "
        f"{', '.join(about['metrics'])}; ours with intervals.\n\n"
    )
    work = about["processor_seconds"]
    rows = [
        f"| {name} | {seconds:.2f} | {work[name]:.2f} |"
        for name, seconds in about["seconds"].items()
    ]
    ten = "\n".join(["| scorer | seconds | processor seconds |", "|---|---:|---:|", *rows])
    ratios = f"Ratio {about['ratio']:.2f}, of processor seconds {about['processor_ratio']:.2f}"
    tail = (
        f"\n\n{ratios}; the scores, captions' own included, differ by "
        f"{about['largest_difference']:.1e} at most.\n"
    )
    one = (
        "\nOne variant, its references tokenised, in seconds: the first of a process (Java not "
        "yet started) and the next.\n\n"
    )
    parts = [
        f"| {name} | {first:.2f} | {following:.2f} |"
        for name, (first, following) in about["one_variant"].items()
    ]
    of = about["reward"]
    ours, theirs = of["milliseconds"].values()
    rewards = (
        f"\nThe reward of {of['captions']} captions in self-critical training: {ours:.1f} "
        "ms, by pycocoevalcap's scorer "
        f"{theirs:.1f} ms ({theirs / ours:.0f} times); they differ by "
        f"{of['largest_difference']:.1e} at most.\n"
    )
    steps = "\n".join(["| step | first | next |", "|---|---:|---:|", *parts]) + "\n"
    return head + ten + tail + one + steps + rewards


if __name__ == "__main__":
    main()

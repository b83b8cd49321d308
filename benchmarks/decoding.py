"""Beam search: `python -m benchmarks.decoding [decoder ...]` ->
benchmarks/results/decoding.{json,md}.

Measures images per second with beam 5 and batches of 1, 32 and 256 images. The same run measures
two baselines:

- the textbook's search (benchmarks/textbook.py), one image after another. The hypotheses of the
  image are the rows of a step of the same decoder.
- for prefix_lm, the `generate` of transformers with the same language model, beam and stopping
  rule, in batches of 32.

The limit is a sequence of square matrix products with the same number of operations as the search's
matrix products: a search at that speed would spend no time on anything else.

All must find the same captions. Sizes are those of the papers. The random weights are so large that
words differ in probability. Hardly any caption ends before the maximum length, so dropping finished
images saves no time.
"""

import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import _common as common
from benchmarks import _decoders as decoders
from benchmarks import textbook
from benchmarks.training import products
from pipeline.core.machine import pick_device
from pipeline.decoders.shared.contract import Decoder
from pipeline.decoders.shared.tokenizers import Special
from pipeline.decoding.generation import Hypothesis
from pipeline.decoding.search import beam_search
from pipeline.features.features import Features

BEAM, LONGEST, PENALTY = 5, 12, 0.7
BATCHES = (1, 32, 256)
# Number of images that the textbook captions in each repeat.
ONE_BY_ONE = 4
# Number of images whose operations are counted; those of the largest batch are as many times more.
COUNTED = 32
# Number of images that `generate` captions in each repeat, which is also its batch size.
GENERATED = 32
REPEATS = 3
# Minimum speed-ups. The first holds for recurrent decoders.
GOALS = {"over_textbook_at_256": 30.0, "over_generate": 1.3}
Search = Callable[[Features], list[Hypothesis]]


def features(count: int, device: str) -> Features:
    g = torch.Generator().manual_seed(2)
    grid = torch.randn(count, common.POSITIONS, common.WIDTH, generator=g).to(device)
    return Features(grid, grid.mean(1) * common.POSITIONS**0.5)


def sharpen(decoder: Decoder) -> Decoder:
    """Enlarge the weights, so that rounding in batches of different sizes cannot make two
    hypotheses equally good."""
    with torch.no_grad():
        for weight in decoder.parameters():
            if weight.ndim > 1:
                weight.mul_(3)
    return decoder.eval()


def ours(decoder: Decoder, special: Special, batch: int) -> Search:
    def search(f: Features) -> list[Hypothesis]:
        parts = torch.arange(len(f), device=f.pooled.device).split(batch)
        found = (
            beam_search(decoder, f.select(part), special, BEAM, LONGEST, PENALTY) for part in parts
        )
        return [hypotheses[0] for part in found for hypotheses in part]

    return search


def one_by_one(decoder: Decoder, special: Special) -> Search:
    def search(f: Features) -> list[Hypothesis]:
        images = torch.arange(len(f), device=f.pooled.device).split(1)
        return [
            textbook.beam_search(decoder, f.select(image), special, BEAM, LONGEST, PENALTY)
            for image in images
        ]

    return search


def generate(decoder: Any, special: Special) -> Search:
    """Return the beam search of transformers over a prefix_lm's language model."""
    lm = textbook.language_model(decoder)
    lm.config.pad_token_id = special.pad
    asked = {
        "num_beams": BEAM,
        "max_new_tokens": LONGEST,
        "length_penalty": PENALTY,
        "early_stopping": True,
        "do_sample": False,
        "eos_token_id": special.end,
        "pad_token_id": special.pad,
        "suppress_tokens": [special.pad, special.start, special.unknown],
        "return_dict_in_generate": True,
        "output_scores": True,
    }

    @torch.inference_mode()
    def search(f: Features) -> list[Hypothesis]:
        out = []
        for part in torch.arange(len(f), device=f.pooled.device).split(GENERATED):
            prefix = decoder.mapping(F.normalize(f.pooled[part], dim=-1))
            mask = torch.ones(prefix.shape[:2], dtype=torch.long, device=prefix.device)
            found = lm.generate(inputs_embeds=prefix, attention_mask=mask, **asked)
            scores = found.sequences_scores.tolist()
            out += [
                _cut(row, score, special)
                for row, score in zip(found.sequences.tolist(), scores, strict=True)
            ]
        return out

    return search


def operations(search: Search, f: Features) -> int:
    """Count the floating-point operations of a search's matrix products."""
    with FlopCounterMode(display=False) as counter:
        search(f)
    return counter.get_total_flops()


def _cut(row: list[int], score: float, special: Special) -> Hypothesis:
    row = row[: row.index(special.end) + 1] if special.end in row else row
    return Hypothesis(tuple(row), score * len(row) ** PENALTY)


def measure(name: str, special: Special, device: str) -> dict[str, Any]:
    decoder, every = (
        sharpen(decoders.build(name, special).to(device)),
        features(max(BATCHES), device),
    )

    def first(count: int) -> Features:
        return every.select(torch.arange(count, device=device))

    works = {str(batch): (ours(decoder, special, batch), first(max(batch, 4))) for batch in BATCHES}
    works["textbook"] = one_by_one(decoder, special), first(ONE_BY_ONE)
    if name == "prefix_lm":
        works["generate"] = generate(decoder, special), first(GENERATED)
    found = {k: search(f) for k, (search, f) in works.items()}
    count = operations(ours(decoder, special, COUNTED), first(COUNTED))
    running: dict[str, Callable[[], object]] = {
        k: partial(search, f) for k, (search, f) in works.items()
    }
    running["limit"] = products(count * max(BATCHES) // COUNTED, "float32", device)
    sizes = {k: len(f) for k, (_, f) in works.items()} | {"limit": max(BATCHES)}
    times = common.interleaved(running, REPEATS)
    each = {k: [t / sizes[k] for t in v] for k, v in times.items()}
    return {
        "images_per_second": {k: round(1 / statistics.median(v), 2) for k, v in each.items()},
        "over_textbook": {
            k: round(common.ratio(each["textbook"], each[k]), 2)
            for k in (*map(str, BATCHES), "limit")
        },
        **(
            {"over_generate": round(common.ratio(each["generate"], each[str(GENERATED)]), 2)}
            if "generate" in each
            else {}
        ),
        "different_captions": different(found),
        "mean_length": round(statistics.mean(len(h.tokens) for h in found[str(max(BATCHES))]), 2),
    }


def different(found: dict[str, list[Hypothesis]]) -> int:
    """Count the captions of all searches that differ from those of the largest batch."""
    expected = found[str(max(BATCHES))]
    return sum(
        h.tokens != expected[n].tokens
        for hypotheses in found.values()
        for n, h in enumerate(hypotheses)
    )


def main() -> None:
    device, special = pick_device(), common.tokenizer().special
    found = {name: measure(name, special, device) for name in sys.argv[1:] or decoders.ARGS}
    about = {
        **common.environment(),
        "median_of": REPEATS,
        "device": device,
        "beam": BEAM,
        "longest": LONGEST,
        "length_penalty": PENALTY,
        "goals": GOALS,
        "decoders": found,
    }
    common.save("decoding", about, table(about))


def table(about: dict[str, Any]) -> str:
    batches = [*map(str, BATCHES)]
    head = [
        "decoder",
        *(f"{b} a batch" for b in batches),
        "textbook",
        "256 over textbook",
        "limit",
        "limit over textbook",
        "generate, 32",
        "32 over generate",
    ]
    rows = []
    for name, m in about["decoders"].items():
        speed = m["images_per_second"]
        cells = [*(speed[b] for b in batches), speed["textbook"], m["over_textbook"]["256"]]
        cells += [speed["limit"], m["over_textbook"]["limit"]]
        rows.append(
            [
                name,
                *map(str, cells),
                str(speed.get("generate", "")),
                str(m.get("over_generate", "")),
            ]
        )
    differ = sum(m["different_captions"] for m in about["decoders"].values())
    text = (
        f"Images per second, beam {BEAM}, {LONGEST} words at most, median of "
        f"{about['median_of']} interleaved runs on "
        f"{about['device']}. Captions that differ between searches: {differ}. Goals on a "
        f"CPU: 256 a batch {GOALS['over_textbook_at_256']:.0f} times the textbook's search for "
        f"the recurrent decoders, 32 a batch {GOALS['over_generate']} times `generate`."
    )
    return f"{common.introduction(about)} {text}\n\n{common.markdown(head, rows)}"


if __name__ == "__main__":
    main()

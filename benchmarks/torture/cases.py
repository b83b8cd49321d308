"""Hostile input number N of a seed: its description, and the call that gets it."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from benchmarks.torture import captions, damage, pictures
from benchmarks.torture.workspace import (
    CORPUS,
    DATASET,
    STAGES,
    VARIANT,
    command_call,
    copy,
    inputs_of,
    stage_call,
    torture_params,
)
from pipeline.data.shards import Shards, write_picture
from tests.pictures import exchange
from tests.workspace import write_params

RAW = f"data/raw/{DATASET}"
OUT_OF_RANGE = [
    value for value in damage.HOSTILE if not (isinstance(value, bool) or value in (0, 0.5, ""))
]
READERS = [
    "clean",
    "references",
    "extract",
    "train",
    "caption",
    "score",
    "baseline",
    "track",
    "compare",
    "publish",
]


@dataclass(frozen=True)
class Case:
    what: str
    call: Callable[[], object]
    cwd: Path
    several: bool = False
    "Whether each picture may have its own line on standard error."


def picture(rng: random.Random, base: Path, place: Path) -> Case:
    """Give a hostile picture, beside valid ones, to a command or a stage."""
    folder = copy(base, place / "w")
    met = rng.choice(["lines", "into a file", "into a file", "extract", "clean", "download"])
    name = rng.choice(pictures.NAMES)
    if met in ("extract", "clean"):
        what = _into_shards(rng, folder / RAW, place / "hostile")
        return Case(f"{met}: {what}", stage_call(met), folder)
    shown = place / "shown"
    shown.mkdir()
    sound = [write_picture(member, shown) for member in islice(Shards(base / RAW), 2)]
    what = f"{met}: {name[:30]!r} {pictures.put(rng, shown / name)}"
    if met == "download":
        return Case(what, stage_call("download"), _with_folder(rng, folder, shown, None))
    model = ["--model", f"models/{VARIANT}"]
    if met == "lines":
        return Case(
            what,
            command_call("caption", *model, "--", str(shown / sound[0].name), str(shown / name)),
            folder,
            True,
        )
    return Case(what, command_call("caption", *model, "--out", "o.jsonl", "--", str(shown)), folder)


def _into_shards(rng: random.Random, raw: Path, file: Path) -> str:
    """Replace a picture of the data set by something hostile. If a shard cannot hold it, it
    replaces a whole shard. Return what it is."""
    member, what = rng.choice(list(Shards(raw))), pictures.put(rng, file)
    if file.is_file() and not file.is_symlink() and file.stat().st_size <= 10**8:
        exchange(raw, **{member.image_id: file.read_bytes()})
        return what
    member.shard.unlink()
    file.rename(member.shard)
    return f"a shard that is {what}"


def _with_folder(rng: random.Random, workspace: Path, shown: Path, table: Path | None) -> Path:
    """Change the workspace so that it reads its data set from a folder, and return it."""
    params = torture_params()
    args: dict[str, Any] = {"path": str(shown), "follow_links": rng.random() < 0.5}
    if table:
        args["captions"] = str(table)
    else:
        for file in list(shown.glob("*.png")):
            try:
                file.with_suffix(".txt").write_text("a dog\n")
            except OSError:
                continue
    params["datasets"][DATASET] = {"source": "folder", "args": args}
    params["corpora"][CORPUS]["split"] = "random"
    (workspace / "params.yaml").unlink()
    write_params(workspace, params)
    return workspace


def caption_file(rng: random.Random, base: Path, place: Path) -> Case:
    """Give a damaged caption file as predictions, references or a data set."""
    met, table = rng.choice(["predictions", "references", "data set"]), captions.rows()
    what, file = captions.put(
        rng, captions.one_each(table) if met == "predictions" else table, place
    )
    if met == "data set":
        shown = place / "shown"
        shown.mkdir()
        for name in captions.IMAGES:
            pictures.Image.new("RGB", (20, 20), rng.randrange(2**24)).save(shown / f"{name}.png")
        folder = _with_folder(rng, copy(base, place / "w"), shown, file)
        return Case(f"{met} {what}", stage_call("download"), folder)
    sound = place / "sound"
    sound.mkdir()
    rows = captions.rows()
    other = captions.written(
        ".jsonl", rows if met == "predictions" else captions.one_each(rows), sound
    )
    files = [file, other] if met == "predictions" else [other, file]
    metrics = [
        "--metrics",
        "bleu,rouge_l,cider",
        "--protocol",
        rng.choice(["raw", "raw", "standard"]),
    ]
    return Case(
        f"{met} {what}",
        command_call("score", *map(str, files), *metrics, *rng.choice([[], ["--partial"]])),
        place,
    )


def params(rng: random.Random, base: Path, place: Path) -> Case:
    """Damage params.yaml: one or two values out of range or of another type, or its text."""
    folder = copy(base, place / "w")
    file = folder / "params.yaml"
    values, told = torture_params(), []
    if rng.random() < 0.75:
        for _ in range(rng.randrange(1, 3)):
            what, values = damage.value_of(rng, values, OUT_OF_RANGE)
            told.append(what)
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode(
            "utf-8", "surrogatepass"
        )
    else:
        what, text = damage.text_of(rng, file.read_bytes())
        told.append(what)
    file.unlink()
    file.write_bytes(text)
    met = rng.choice(["plan", "plan", *STAGES])
    call = command_call("plan") if met == "plan" else stage_call(met)
    return Case(f"params.yaml, {'; '.join(told)}: {met}", call, folder)


def stage_file(rng: random.Random, base: Path, place: Path) -> Case:
    """Damage a file that one stage wrote before another stage reads it."""
    folder = copy(base, place / "w")
    met = rng.choice(READERS)
    found = inputs_of(folder, met)
    by_suffix: dict[str, list[Path]] = {}
    for file in found:
        by_suffix.setdefault(file.suffix, []).append(file)
    file = rng.choice(by_suffix[rng.choice(sorted(by_suffix))])
    what = damage.file_of(rng, file)
    return Case(f"{file.relative_to(folder)}, {what}: {met}", stage_call(met), folder)


def model(rng: random.Random, base: Path, place: Path) -> Case:
    """Tamper with a model folder or with features."""
    folder = copy(base, place / "w")
    if rng.random() < 0.5:
        file = rng.choice(sorted(folder.glob(f"models/{VARIANT}/*")))
        shown = write_picture(next(iter(Shards(base / RAW))), place)
        met, call = rng.choice(
            [
                (
                    "captionlab caption",
                    command_call("caption", "--model", f"models/{VARIANT}", str(shown)),
                ),
                ("caption", stage_call("caption")),
            ]
        )
    else:
        file = rng.choice(sorted(folder.glob("data/features/*/*")))
        met = rng.choice(["train", "caption"])
        call = stage_call(met)
    what = damage.file_of(rng, file)
    return Case(f"{file.relative_to(folder)}, {what}: {met}", call, folder)


def request(rng: random.Random, base: Path, place: Path) -> Case:
    """Send hostile requests to the server."""
    from benchmarks.torture.requests import ask

    place.mkdir(exist_ok=True)
    return Case("request", lambda: ask(base.parent / "served/model", rng), place)


KINDS = (picture, caption_file, params, stage_file, model, request)
# The expected number of each kind in 300 inputs.
SHARES = (60, 60, 45, 75, 30, 30)


def make(seed: int, number: int, base: Path, place: Path) -> Case:
    """Make input `number` of `seed`. It does not depend on the inputs made before it."""
    rng = random.Random(f"{seed} {number}")
    place.mkdir(parents=True)
    kind = random.Random(f"{seed} {number} kind").choices(KINDS, SHARES)[0]
    return kind(rng, base, place)

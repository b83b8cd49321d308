"""Damaged caption files in every format that the project reads."""

import csv
import io
import json
import math
import random
from pathlib import Path
from typing import Any

from benchmarks.torture.damage import HOSTILE, content_of, value_of

IMAGES = [f"p{n}" for n in range(8)]
FORMATS = [".json", ".json by image", ".json list", ".jsonl", ".csv", ".tsv", ".parquet"]


def rows() -> list[dict[str, Any]]:
    """Return captions with the keys that the source `folder` and `captionlab score` read."""
    words = ["a", "red", "dog", "runs", "over", "the", "wet", "grass", "behind", "one", "tree"]
    return [
        {
            "image_id": name,
            "image": f"{name}.png",
            "caption": " ".join(words[(n + k) % 5 :]),
            "split": ["train", "val", "test", "train"][n % 4],
        }
        for n, name in enumerate(IMAGES)
        for k in range(2)
    ]


def written(form: str, table: list[Any], folder: Path) -> Path:
    """Write the captions as a valid file of the format, and return its path."""
    file = folder / f"captions{form.split()[0]}"
    if form == ".json":
        splits = {row["image_id"]: row["split"] for row in table}
        images = [
            {"id": name, "file_name": f"{name}.png", "split": splits[name]} for name in splits
        ]
        notes = [{"image_id": row["image_id"], "caption": row["caption"]} for row in table]
        file.write_text(json.dumps({"images": images, "annotations": notes}))
    elif form == ".json by image":
        named = {
            row["image_id"]: [r["caption"] for r in table if r["image_id"] == row["image_id"]]
            for row in table
        }
        file.write_text(json.dumps(named))
    elif form == ".json list":
        file.write_text(json.dumps(table))
    elif form == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in table))
    elif form == ".parquet":
        import pandas as pd

        pd.DataFrame(table).to_parquet(file)
    else:
        out = io.StringIO()
        writer = csv.DictWriter(out, list(table[0]), delimiter="\t" if form == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(table)
        file.write_text(out.getvalue())
    return file


def one_each(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one caption per image, as predictions must have."""
    return list({row["image_id"]: row for row in table}.values())


def odd_value(rng: random.Random, form: str, table: list[Any], folder: Path) -> tuple[str, Path]:
    """Write a file that is valid in its format, but has one cell or key of the wrong kind. Return
    what was changed, and the path."""
    if form in (".jsonl", ".json list"):
        what, table = value_of(rng, table)
        table = table if isinstance(table, list) else [table]
    else:
        row, key = rng.choice(table), rng.choice(["image_id", "image", "caption", "split"])
        row[key] = new = rng.choice(
            [v for v in HOSTILE if isinstance(v, str)]
            if form != ".parquet"
            else [None, "", math.nan, "\x00"]
        )
        what = f"{key} = {repr(new)[:40]}"
    return what, written(form, table, folder)


def put(rng: random.Random, table: list[Any], folder: Path) -> tuple[str, Path]:
    """Write the captions as a hostile file in the folder. Return what was done to it, and its
    path."""
    form = rng.choice(FORMATS)
    if rng.random() < 0.35:
        what, file = odd_value(rng, form, table, folder)
    else:
        file = written(form, table, folder)
        named = Path(f"{file}.csv") if form in (".jsonl", ".tsv") else file
        what, data = content_of(rng, file.read_bytes(), named)
        file.write_bytes(data)
    return f"{form}: {what}", file

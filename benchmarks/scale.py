"""The graph on ever more pictures: `python -m benchmarks.scale [--sizes 300000 3000000]
[--folder DIR]` -> benchmarks/results/scale.{json,md}.

For each size: WebDataset shards of as many pictures (JPEG, 32 x 32, each its own, with one caption)
are made from a seed in a workspace, and DVC runs the stages `download`, `clean`, `references`,
`extract` (a tiny random encoder, `keep: pooled`), `train` (one epoch of merge) and `caption`
(some 5,000 pictures) one by one; then `dvc repro` finds nothing to do. Of each: the seconds and the
peak memory of the stage's own process and its children (anonymous pages, looked at ten times a
second), and of DVC above it, which hashes what the stage has made. Hours; what a size has done is
kept in DIR, and the same command goes on from there.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import _common as common

SIZES = 300_000, 3_000_000
IN_SHARD = 1_000
# Pictures outside the training split, half of them validation.
CAPTIONED = 5_000
SIDE, BLOCKS, WORDS = 32, 4, 2_000
STAGES = (
    "download@web",
    "clean@web",
    "references@web",
    "extract@web",
    "train@merge",
    "caption@merge",
)
NOTHING = "nothing to do"
# Growth of memory from the first size to the last; deviation of the time from linear growth;
# seconds of a `dvc repro` that runs no stage.
GOALS = {"memory": 1.3, "linear": 0.15, NOTHING: 5.0}
PAUSE = 0.1


def make_shards(folder: Path, count: int) -> None:
    """`count` pictures with captions; shards that are there already are left."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(-(-count // IN_SHARD)):
        path = folder / f"{shard:05}.tar"
        if not path.exists():
            first = shard * IN_SHARD
            _write_shard(path, range(first, min(count, first + IN_SHARD)))


def _write_shard(path: Path, numbers: range) -> None:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(numbers.start)
    blocks = rng.integers(0, 255, (len(numbers), BLOCKS, BLOCKS, 3), np.uint8)
    texts = common.captions(len(numbers), numbers.start, per_image=1, words=WORDS)["text"]
    part = path.with_suffix(".part")
    with tarfile.open(part, "w") as tar:
        for number, block, text in zip(numbers, blocks, texts, strict=True):
            picture = io.BytesIO()
            large = Image.fromarray(block).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            large.save(picture, "JPEG", quality=90)
            for suffix, data in ((".jpg", picture.getvalue()), (".txt", text.encode())):
                member = tarfile.TarInfo(f"{number:08}{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    part.rename(path)


def params(shards: Path, count: int) -> dict[str, Any]:
    import yaml

    share = min(0.1, CAPTIONED / 2 / count)
    made: dict[str, Any] = yaml.safe_load((common.ROOT / "params.yaml").read_text())
    kind = {**made["variants"]["merge"], "corpus": "web", "features": "web", "protocols": []}
    kind |= {"args": {"embedding": 64, "hidden": 64, "dropout": 0.0}, "train": {}}
    kind.pop("paper", None)
    source = {"path": str(shards), "val": share, "test": share}
    corpus = {**next(iter(made["corpora"].values())), "dataset": "web", "split": "random"}
    corpus |= {"min_words": 1, "max_words": 40, "max_rejected": 0.02, "min_images_per_split": 1}
    corpus |= {"max_shared_captions": 1.0, "max_shared_pictures": 1.0, "max_uneven_captions": 1.0}
    encoder = {"model": "test_efficientnet", "weights": "random", "image_size": SIDE}
    return {
        **made,
        "datasets": {"web": {"source": "webdataset", "args": source}},
        "corpora": {"web": corpus},
        "features": {
            "web": {
                "dataset": "web",
                "encoder": "timm_model",
                "dtype": "float16",
                "keep": "pooled",
                "args": {**encoder, "resize": "squash"},
            }
        },
        "train": {**made["train"], "epochs": 1, "batch_images": 128, "seeds": [1]},
        "decode": {**made["decode"], "beam": 2, "max_tokens": 12, "alternatives": 1},
        "variants": {"merge": kind},
    }


def anonymous(pid: int) -> int:
    """KB that a process holds itself, 0 where it has ended."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))
    return 0


def watch(folder: Path, command: list[str]) -> dict[str, Any]:
    """Run a command of DVC; see the head of this file."""
    import psutil

    from tests.workspace import environment

    begun = time.perf_counter()
    cores = len(os.sched_getaffinity(0))
    # No live curves: their receiver, a process of 200 MB, starts after 400 s of a training.
    chosen = {"CAPTIONLAB_LIVE_SECONDS": "1e9", "TQDM_DISABLE": "1"}
    env = environment(folder, OMP_NUM_THREADS=str(cores), **chosen)
    with open(folder.parent / "log", "ab") as log:
        running = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
    above, peak, dvc, spent, first = psutil.Process(running.pid), 0, 0, 0.0, None
    while running.poll() is None:
        time.sleep(PAUSE)
        with suppress(psutil.Error):
            pids = [child.pid for child in above.children(recursive=True)]
            peak = max(peak, sum(map(anonymous, pids)))
            dvc = max(dvc, anonymous(running.pid))
            if pids:
                first = first or time.perf_counter()
                spent = time.perf_counter() - first
    if running.returncode:
        raise SystemExit(f"{' '.join(command)} failed: see {folder.parent / 'log'}")
    whole = time.perf_counter() - begun
    found = {"seconds": spent, "peak_mb": peak / 1024, "with_dvc": whole, "dvc_mb": dvc / 1024}
    return {name: round(value, 1) for name, value in found.items()}


def _forget(work: Path) -> None:
    """Delete what an interrupted stage would resume from: it is measured as a whole."""
    for path in [work / "checkpoints", *(work / "data").rglob("*.part")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def measure(root: Path, count: int) -> dict[str, dict[str, Any]]:
    """By stage. What is measured already is read from `root`."""
    from tests.workspace import make_workspace, tool

    notes = root / "found.json"
    found: dict[str, dict[str, Any]] = json.loads(notes.read_text()) if notes.exists() else {}
    make_shards(root / "shards", count)
    work = root / "work"
    if not (work / "params.yaml").exists():
        make_workspace(work, params(root / "shards", count))
    begun = root / "begun"
    for stage in STAGES:
        if stage not in found:
            again = ["--force"] if begun.exists() and begun.read_text() == stage else []
            if again:
                _forget(work)
            begun.write_text(stage)
            command = [tool("dvc"), "repro", "-q", "--single-item", *again, stage]
            found[stage] = {**watch(work, command), "commit": common.environment()["commit"]}
            notes.write_text(json.dumps(found))
    found[NOTHING] = watch(work, [tool("dvc"), "repro", "-q", STAGES[-1]])
    notes.write_text(json.dumps(found))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    root = asked.folder or Path(tempfile.mkdtemp(prefix="scale-"))
    print(f"in {root}; the same command with --folder {root} goes on")
    found = {str(count): measure(root / str(count), count) for count in asked.sizes}
    about = {**common.environment(), "pictures": asked.sizes, "goals": GOALS, "found": found}
    common.save("scale", about, table(about))


def table(about: dict[str, Any]) -> str:
    sizes = [str(n) for n in about["pictures"]]
    grown = int(sizes[-1]) / int(sizes[0])
    head = ["stage", *(f"MB at {int(n):,}" for n in sizes), "last over first"]
    head += [*(f"s at {int(n):,}" for n in sizes), f"time, over {grown:g} times the first"]
    head += [*(f"DVC beside it, MB at {int(n):,}" for n in sizes)]
    head += [*(f"with DVC, s at {int(n):,}" for n in sizes)]
    rows = []
    for stage in (*STAGES, NOTHING):
        each = [about["found"][n][stage] for n in sizes]
        memory, spent, dvc, whole = (
            [one[key] for one in each] for key in ("peak_mb", "seconds", "dvc_mb", "with_dvc")
        )
        own = [*memory, f"{memory[-1] / memory[0]:.2f}"] if stage != NOTHING else []
        own += [*spent, f"{spent[-1] / spent[0] / grown:.2f}"] if stage != NOTHING else []
        blank = ["" for _ in range(2 * len(sizes) + 2 - len(own))]
        rows.append([stage, *map(str, [*own, *blank, *dvc, *whole])])
    text = (
        f"One run. Goals: memory at most {GOALS['memory']} times, time within "
        f"{GOALS['linear']:.0%} of linear, a `dvc repro` with nothing to do under "
        f"{GOALS[NOTHING]:g} s.{_earlier(about)}"
    )
    return f"{common.introduction(about)} {text}\n\n{common.markdown(head, rows)}"


def _earlier(about: dict[str, Any]) -> str:
    """Name the stages that were measured at earlier commits, where the command went on from
    them."""
    commits: dict[str, list[str]] = {}
    for stage in STAGES:
        for found in about["found"].values():
            if (commit := found[stage].get("commit", about["commit"])) != about["commit"]:
                commits.setdefault(commit, []).append(stage)
    told = [f"{', '.join(dict.fromkeys(stages))} at {commit}" for commit, stages in commits.items()]
    return f" Measured earlier: {'; '.join(told)}." if told else ""


if __name__ == "__main__":
    main()

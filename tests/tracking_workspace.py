"""A finished workspace of two tiny variants, made without torch: the files that the stages before
`track` would have written."""

import json
import os
import select
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from PIL import Image

from pipeline.experiment.params import read_params_file
from pipeline.results.scores import OWN
from pipeline.tracking.versions import dvc_md5
from tests.pictures import put_pictures
from tests.score_tables import scores as table_of

ROOT = Path(__file__).parents[1]
# Columns of the tables of scores per image and of resamples.
STANDARD = {"protocol": "standard", "seed": OWN}
SCORES = {  # By CIDEr, merge is better on val and lstm on test. On val, lstm is less collapsed.
    "merge": {
        "val": {"cider": 0.6, "bleu_4": 0.3, "loss": 2.0, "collapse": 0.2, "vocabulary": 90.0},
        "test": {"cider": 0.4, "bleu_4": 0.25, "loss": 2.1},
    },
    "lstm": {
        "val": {"cider": 0.5, "bleu_4": 0.35, "loss": 1.5, "collapse": 0.1, "vocabulary": 80.0},
        "test": {"cider": 0.7, "bleu_4": 0.30, "loss": 1.6},
    },
}


def make_workspace(folder: Path) -> None:
    """Fill `folder` with 30 test images and variants trained for 3 epochs of 10 steps."""
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    ids = [f"scene{n:02}" for n in range(30)]
    drawn = {name: Image.new("RGB", (16, 12), (8 * n, 0, 0)) for n, name in enumerate(ids)}
    put_pictures(folder / "data/raw/scenes", drawn)
    table = [
        {
            "image_id": i,
            "caption_id": f"{i}#{k}",
            "text": f"reference {k} of {i}",
            "split": "test",
        }
        for i in ids
        for k in range(2)
    ]
    _parquet(folder / "data/corpora/scenes/captions.parquet", table)
    _text(
        folder / "data/references/scenes/references.json",
        json.dumps({i: ["one", "two"] for i in ids}),
    )
    make_scores(folder, "most-frequent--scenes", {"val": {"cider": 0.1}, "test": {"cider": 0.05}})
    for variant in SCORES:
        make_variant(folder, variant, ids)


def make_variant(
    folder: Path, variant: str, ids: list[str], cider: tuple[float, ...] = (0.1, 0.2, 0.3)
) -> None:
    model = folder / "models" / variant
    model.mkdir(parents=True, exist_ok=True)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (model / name).write_text(f'{{"of": "{variant}"}}')
    encoder = {
        "name": "timm_model",
        "args": {"model": "test_efficientnet", "weights": "random", "image_size": 32},
    }
    about = {
        "variant": variant,
        "decoder": variant,
        "args": {"hidden": 4},
        "encoder": encoder,
        "sizes": {"vocabulary": 9},
    }
    (model / "config.json").write_text(json.dumps(about))
    captions = [
        {"image_id": i, "split": "test", "text": f"a caption of {i}", "log_prob": -1.5} for i in ids
    ]
    _parquet(folder / f"data/captions/{variant}/captions.parquet", captions)
    _parquet(
        folder / f"data/scores/{variant}/images.parquet",
        [{"image_id": i, "split": "test", **STANDARD, "cider": 0.5} for i in ids],
    )
    history = [
        f"{e + 1},{10 * (e + 1)},{3.0 - e},{c},{int(c == max(cider[: e + 1]))}"
        for e, c in enumerate(cider)
    ]
    _text(
        folder / f"data/history/{variant}.csv",
        "\n".join(["epoch,step,train_loss,val_cider,best", *history]) + "\n",
    )
    make_scores(folder, variant, SCORES[variant])
    write_resamples(folder, variant)
    lock_variant(folder, variant)


def make_scores(folder: Path, name: str, scores: dict) -> None:
    table_of(scores).write(folder / f"data/scores/{name}/scores.csv")
    about = {"unavailable": {"spice": "no models"}, "commit": "abc1234", "seeds": 1}
    _text(folder / f"data/scores/{name}/about.json", json.dumps(about))
    rows = [
        (split, "c0ffee", scores[split]["cider"] + n / 1000)
        for split in ("val", "test")
        for n in range(4)
    ]
    drawn = [
        {**STANDARD, **dict(zip(("split", "images", "cider"), row, strict=True))} for row in rows
    ]
    _parquet(folder / f"data/scores/{name}/resamples.parquet", drawn)


def write_resamples(folder: Path, variant: str, spread: float = 0.0) -> None:
    """Write each score for 1000 resamples of the validation images. The values alternate between
    the score minus and plus `spread`."""
    offsets = [spread if n % 2 else -spread for n in range(1000)]
    scores = {
        name: [value + offset for offset in offsets]
        for name, value in SCORES[variant]["val"].items()
    }
    table = pd.DataFrame({"split": "val", **STANDARD, "images": "0123456789abcdef", **scores})
    path = folder / f"data/scores/{variant}/resamples.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path, index=False)


def lock_variant(folder: Path, variant: str) -> None:
    """Write the dvc.lock entries that DVC would write after train, caption and score."""
    outs = {
        "train": [f"models/{variant}", f"data/history/{variant}.csv"],
        "caption": [f"data/captions/{variant}"],
        "score": [f"data/scores/{variant}"],
    }
    path = folder / "dvc.lock"
    lock = yaml.safe_load(path.read_text()) if path.is_file() else {"schema": "2.0", "stages": {}}
    row = read_params_file(folder / "params.yaml")["variants"][variant]
    inputs = {
        f"data/corpora/{row['corpus']}": "c0ffee.dir",
        f"data/features/{row['features']}": "cafe.dir",
        f"pipeline/decoders/{row['decoder']}.py": "2",
        "data/references/scenes": "beef.dir",
        "pipeline/training/trainer.py": "1",
    }
    deps = [{"path": name, "md5": md5} for name, md5 in inputs.items()]
    params = {"params.yaml": {f"variants.{variant}.{key}": row[key] for key in ("args", "train")}}
    for stage, files in outs.items():
        entry = [{"path": name, "hash": "md5", "md5": dvc_md5(folder / name)} for name in files]
        lock["stages"][f"{stage}@{variant}"] = {
            "cmd": f"python -m stages.{stage} {variant}",
            "deps": deps,
            "params": params,
            "outs": entry,
        }
    path.write_text(yaml.safe_dump(lock))


def _parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(path, index=False)


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make_captioner(folder: Path, **encoder_args: Any) -> None:
    """Write an untrained model folder that can caption: a tiny timm network with random weights,
    and the merge decoder.

    Args:
        encoder_args: arguments of the encoder that differ.
    """
    import torch

    from pipeline.decoders.shared.contract import Sizes
    from pipeline.decoders.shared.model_folder import build_decoder, save_model
    from pipeline.decoders.shared.tokenizers import word_tokenizer
    from pipeline.encoders.timm_model import Encoder

    encoder = {"model": "test_efficientnet", "weights": "random", "image_size": 32} | encoder_args
    torch.manual_seed(0)
    tokenizer, built = word_tokenizer(["a red dog runs"], 1), Encoder(**encoder)
    sizes, args = (
        Sizes(built.grid_dim, built.pooled_dim, len(tokenizer)),
        {"embedding": 4, "hidden": 4, "dropout": 0.0},
    )
    config = {
        "decoder": "merge",
        "args": args,
        "encoder": {"name": "timm_model", "args": encoder},
        "sizes": asdict(sizes),
    }
    save_model(folder, build_decoder("merge", sizes, args), tokenizer, config)


def connected(live) -> bool:
    """Wait until the receiver of live curves has opened its store or has given up. Return whether
    it opened the store.

    The receiver runs at low priority and might take long, so root raises its priority here.
    """
    receiver, deadline = live._receiver, time.monotonic() + 120
    while receiver.poll() is None and time.monotonic() < deadline:
        if os.geteuid() == 0:
            os.setpriority(os.PRIO_PROCESS, receiver.pid, 0)
            with suppress(OSError):
                Path(f"/proc/{receiver.pid}/autogroup").write_text("0")
        if select.select([receiver.stdout], [], [], 0.1)[0]:
            return receiver.poll() is None
    return False

"""Training: it learns, it obeys its settings, and it can be killed at any moment."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from pipeline.core import capacity, registry
from pipeline.core.errors import UserError
from pipeline.data.files import digest, write_json
from pipeline.decoders.shared.contract import Sizes
from pipeline.decoders.shared.model_folder import build_decoder, read_vocabulary
from pipeline.decoding.batches import CaptionBatches
from pipeline.decoding.search import greedy
from pipeline.experiment.params import Training, load_params
from pipeline.features.store import FeatureStore
from pipeline.tracking.cost import read_cost
from pipeline.training.checkpoint import read_checkpoint, write
from pipeline.training.phases import StepLoss
from pipeline.training.self_critical import CiderReward
from pipeline.training.trainer import Trainer
from pipeline.training.validation import Validation
from stages.train import seeds_of
from tests.decoders.test_properties import FILES, close
from tests.tiny_lm import tiny_lm
from tests.workspace import environment, make_workspace, repro, stage, tiny_params, tool

COLOURS, SHAPES = ["red", "blue", "green"], ["circle", "square", "star", "heart"]
OPTIONS: dict[str, Any] = {
    "seeds": [1],
    "epochs": 3, "batch_images": 4, "micro_batch": 0, "optimizer": "adam", "lr": 0.02, "weight_decay": 0.0, "momentum": 0.0,
    "schedule": "constant", "warmup_steps": 0, "plateau_factor": 0.5, "plateau_patience": 0, "clip": "norm", "clip_at": 5.0,
    "label_smoothing": 0.0, "precision": "float32", "select": "cider", "patience": 9, "min_count": 1,
    "scheduled_sampling": "none", "sampling_end": 0.0, "sampling_k": 10.0,
    "self_critical_epochs": 0, "self_critical_lr": 0.001, "self_critical_samples": 2,
    "vocabulary_splits": ["train"],
}  # fmt: skip
RECURRENT: dict[str, Any] = {"embedding": 16, "hidden": 32, "dropout": 0.1}
ARGS: dict[str, dict[str, Any]] = {
    "transformer": {"width": 32, "heads": 4, "layers": 2, "feedforward": 64, "dropout": 0.1},
    "prefix_lm": {"lm": "gpt2", "lm_weights": "random", "prefix": 3},
    **FILES,
    "blind": {**FILES["blind"], "lm": "gpt2", "lm_weights": "random"},
}
# Decoders whose grid must be a picture of 3 x 3.
PICTURES = set(FILES)


def captions() -> pd.DataFrame:
    """Return captions of twelve images, two each, that name the colour and shape of the image."""
    rows = []
    for c, colour in enumerate(COLOURS):
        for s, shape in enumerate(SHAPES):
            for n, text in enumerate([f"a {colour} {shape}", f"there is a {colour} {shape}"]):
                rows.append(
                    {
                        "image_id": f"{c}{s}",
                        "caption_id": f"{c}{s}#{n}",
                        "text": text,
                        "split": "train",
                    }
                )
    return pd.DataFrame(rows)


def store(folder: Path, pictures: bool = False) -> FeatureStore:
    """Write features: the colour and shape of each image as one-hot vectors.

    Args:
        pictures: store a grid of nine pixels instead. One of them has the colour, and its position
            gives the shape.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ids = sorted(set(captions().image_id))
    grid, seen = np.zeros((len(ids), 2, 7), np.float16), np.zeros((len(ids), 9, 3), np.float16)
    for row, (colour, shape) in enumerate(ids):
        grid[row, 0, int(colour)] = grid[row, 1, 3 + int(shape)] = seen[
            row, int(shape), int(colour)
        ] = 1
    np.save(folder / "grid-00000.npy", seen if pictures else grid)
    np.save(folder / "pooled-00000.npy", grid.sum(1))
    pd.DataFrame({"image_id": ids, "row": range(len(ids))}).to_parquet(folder / "ids.parquet")
    write_json(folder / "manifest.json", {})
    return FeatureStore(folder)


def trainer(
    folder: Path, decoder: str = "soft_attention", live: Any = None, key: str = "k", **options: Any
) -> Trainer:
    table, features = captions(), store(folder / "features", decoder in PICTURES)
    args = ARGS.get(decoder, RECURRENT)
    if "lm" in args:
        args = {
            **args,
            "lm": str(tiny_lm(folder / "lm", args["lm"], table.text.tolist(), hidden_size=32)),
        }
    tokenizer, known = read_vocabulary(decoder, table.text.tolist(), 1, args, "args")
    torch.manual_seed(0)
    model = build_decoder(decoder, Sizes(features.shapes.grid_dim, 7, len(tokenizer), known), args)
    chosen = Training(**{**OPTIONS, **options})
    batches = CaptionBatches([table], features, tokenizer, chosen.batch_images, "cpu")
    validation = Validation(batches, table.groupby("image_id").text.apply(list).to_dict(), 8)
    reward = CiderReward(validation.references)
    return Trainer(
        model,
        tokenizer,
        batches,
        validation,
        chosen,
        5,
        folder / "checkpoint.pt",
        key,
        reward,
        live,
    )


def weights(t: Trainer) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in t.decoder.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    ("decoder", "epochs", "lr"),
    [
        ("merge", 90, 0.02),
        ("lstm", 90, 0.02),
        ("soft_attention", 90, 0.02),
        ("hard_attention", 45, 0.02),
        ("transformer", 30, 0.003),
        ("vit_gpt2", 45, 0.005),
        ("blip", 25, 0.005),
        ("git", 20, 0.01),
    ],
)
def test_a_decoder_learns_twelve_images_by_heart(
    tmp_path: Path, decoder: str, epochs: int, lr: float
) -> None:
    t = trainer(tmp_path, decoder, epochs=epochs, lr=lr, patience=epochs)
    history = t.run()
    found = greedy(
        t.decoder.eval(), t.train_batches.store.get(["02", "21"]), t.tokenizer.special, 8
    )
    texts = [t.tokenizer.decode(h.tokens) for h in found]
    assert history.val_cider.max() > 3
    assert [text.split()[-2:] for text in texts] == [["red", "star"], ["green", "square"]]


@pytest.mark.parametrize(("decoder", "keep"), [("merge", "pooled"), ("soft_attention", "grid")])
def test_what_features_keep_beside_changes_no_weight(
    tmp_path: Path, decoder: str, keep: str
) -> None:
    whole = trainer(tmp_path / "whole", decoder)
    history = whole.run().to_csv()
    part = trainer(tmp_path / "part", decoder)
    folder = tmp_path / "part/features"
    (folder / ("grid-00000.npy" if keep == "pooled" else "pooled-00000.npy")).unlink()
    write_json(
        folder / "manifest.json", {"keep": keep, "shapes": {"grid": [12, 2, 7], "pooled": [12, 7]}}
    )
    part.train_batches.store = FeatureStore(folder)
    assert part.train_batches.store.get(["02"]).grid.numel() == (0 if keep == "pooled" else 14)
    assert part.run().to_csv() == history
    assert same(weights(part), weights(whole))


def gradients(t: Trainer) -> tuple[StepLoss, dict[str, torch.Tensor]]:
    """Return the loss and the gradients of a step on all images, with nothing random in it."""
    t.decoder.eval().zero_grad(set_to_none=True)
    (batch,) = t.train_batches.in_order()
    step = t._backward(t.phases[0], batch)
    named = t.decoder.named_parameters()
    return step, {name: w.grad.clone() for name, w in named if w.grad is not None}


@pytest.mark.parametrize("decoder", registry.names("decoders"))
def test_a_batch_in_parts_has_the_gradients_of_the_whole(tmp_path: Path, decoder: str) -> None:
    """The parts have five, five and two images, with captions of different lengths."""
    whole = trainer(tmp_path / "whole", decoder, batch_images=12, label_smoothing=0.1)
    parts = trainer(
        tmp_path / "parts", decoder, batch_images=12, micro_batch=5, label_smoothing=0.1
    )
    (step, expected), (joint, found) = gradients(whole), gradients(parts)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        close(found[name], gradient, 1e-6)
    assert joint.loss.item() == pytest.approx(step.loss.item(), rel=1e-5)
    assert joint.tokens == step.tokens
    assert joint.figures["train_loss"] == pytest.approx(step.figures["train_loss"], rel=1e-6)


def test_parts_hold_no_more_than_their_images(tmp_path: Path) -> None:
    t = trainer(tmp_path, batch_images=12)
    (batch,) = t.train_batches.in_order()
    parts = list(batch.parts(5))
    assert [len(part.image_ids) for part in parts] == [5, 5, 2]
    assert [len(part.features) for part in parts] == [5, 5, 2]
    assert [image for part in parts for image in part.image_ids] == batch.image_ids
    rows = [
        row[kept].tolist()
        for part in parts
        for row, kept in zip(part.tokens, part.mask, strict=True)
    ]
    assert rows == [row[kept].tolist() for row, kept in zip(batch.tokens, batch.mask, strict=True)]
    assert all(part.mask[:, -1].any() for part in parts)


def test_self_critical_training_goes_on_in_parts(tmp_path: Path) -> None:
    t = trainer(tmp_path, epochs=1, self_critical_epochs=1, micro_batch=3)
    history = t.run()
    assert history.train_loss.notna().tolist() == [True, False]
    assert history.train_reward.notna().tolist() == [False, True]
    assert t.progress.images == 24


class Killed(BaseException):
    pass


def kill_after(t: Trainer, steps: int) -> None:
    """Make the trainer stop after `steps` optimiser steps as if by kill -9.

    It saves nothing on the way out.
    """
    step, count = t.optimizer.step, 0

    def counted(*args: Any) -> None:
        nonlocal count
        step(*args)
        count += 1
        if count == steps:
            raise Killed

    t.optimizer.step = counted  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("decoder", "steps"),
    [
        ("soft_attention", 1),
        ("soft_attention", 3),
        ("soft_attention", 4),
        ("soft_attention", 7),
        ("hard_attention", 4),
    ],
)
def test_a_run_killed_after_any_step_ends_with_the_same_weights_bit_for_bit(
    tmp_path: Path, decoder: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trainer(tmp_path / "whole", decoder)
    history = whole.run()
    monkeypatch.setenv("CAPTIONLAB_CHECKPOINT_MINUTES", "0")  # a checkpoint after every step
    first = trainer(tmp_path / "killed", decoder)
    kill_after(first, steps)
    with pytest.raises(Killed):
        first.run()
    torch.rand(17)  # the next process has another random state
    second = trainer(tmp_path / "killed", decoder)
    assert second.run().to_csv() == history.to_csv()
    assert same(weights(second), weights(whole))
    assert second.progress.images == whole.progress.images == 12 * len(history)
    kept = torch.load(first.checkpoint, weights_only=True)["progress"]["seconds"]
    assert second.progress.seconds > second.progress.step_seconds > 0
    assert second.progress.seconds >= kept > 0


def test_a_checkpoint_of_other_settings_is_not_resumed(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    trainer(tmp_path, key="old", epochs=2).run()
    again = trainer(tmp_path, key="new", epochs=2)
    fresh = trainer(tmp_path / "fresh", key="new", epochs=2)
    assert again.run().to_csv() == fresh.run().to_csv()
    said = capsys.readouterr().out
    assert "belongs to other settings, code or data: starting from scratch" in said


def test_a_torn_checkpoint_never_lies_under_the_final_name(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    t = trainer(tmp_path, epochs=1)
    t.run()
    before = digest(t.checkpoint)

    def torn(state: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(OSError, match="No space"):
        t._save()
    assert digest(t.checkpoint) == before
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".part")] == []


def test_a_full_disk_is_told_as_such_in_the_middle_of_a_checkpoint(tmp_path: Path) -> None:
    class Disk(io.RawIOBase):
        room = 1000

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.room -= len(data)
            if self.room < 0:
                raise OSError(28, "No space left on device")
            return len(data)

    with pytest.raises(OSError, match="No space left"):
        write({"weights": torch.zeros(9999)}, Disk())  # type: ignore[arg-type]


def test_the_best_epochs_weights_are_kept_and_patience_stops(tmp_path: Path) -> None:
    t = trainer(tmp_path, lr=5.0, clip="none", epochs=9, patience=2, select="loss")
    history = t.run()
    best = history.val_loss.idxmin()
    assert history.best.tolist() == [
        float(v < history.val_loss[:i].min()) if i else 1.0 for i, v in enumerate(history.val_loss)
    ]
    assert len(history) == min(9, best + 3)
    assert same(weights(t), t.best)


@pytest.mark.parametrize(
    ("options", "bound"),
    [({"clip": "value", "clip_at": 0.001}, 0.001), ({"clip": "norm", "clip_at": 0.01}, 0.01)],
)
def test_gradients_are_clipped_as_asked(
    tmp_path: Path, options: dict[str, Any], bound: float
) -> None:
    t, seen = trainer(tmp_path, epochs=1, **options), []
    step = t.optimizer.step
    t.optimizer.step = lambda *a: (
        seen.append([p.grad.clone() for p in t.decoder.parameters()]),
        step(*a),
    )  # type: ignore[method-assign, union-attr]
    t.run()
    for grads in seen:
        whole = torch.cat([g.flatten() for g in grads])
        size = whole.abs().max() if options["clip"] == "value" else whole.norm()
        assert 0 < size.item() <= bound * 1.001


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "plateau"])
def test_every_optimizer_and_schedule_lowers_the_loss(
    tmp_path: Path, optimizer: str, schedule: str
) -> None:
    lr = 3.0 if optimizer == "sgd" else 0.02
    history = trainer(
        tmp_path, "merge", optimizer=optimizer, schedule=schedule, lr=lr, epochs=6
    ).run()
    assert history.train_loss.iloc[-1] < 0.8 * history.train_loss.iloc[0]


def test_the_reported_loss_holds_neither_regulariser_nor_smoothing_in_validation(
    tmp_path: Path,
) -> None:
    history = trainer(tmp_path, label_smoothing=0.3, epochs=1).run()
    assert {"train_loss", "train_stochastic", "val_loss"} <= set(history.columns)
    assert history.val_loss[0] < history.train_loss[0]


def test_bfloat16_trains_to_about_the_same_loss(tmp_path: Path) -> None:
    losses = [
        trainer(tmp_path / p, precision=p, epochs=4).run().val_loss.iloc[-1]
        for p in ("float32", "bfloat16")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_a_loss_that_is_not_finite_stops_with_one_line(tmp_path: Path) -> None:
    t = trainer(tmp_path)
    with torch.no_grad():
        next(t.decoder.parameters()).fill_(float("nan"))
    with pytest.raises(
        UserError, match=r"the training loss is not finite in epoch 1: lower train\.lr"
    ):
        t.run()


@pytest.mark.parametrize(("more", "told"), [(0, False), (1, True)])
def test_a_warmup_that_outlasts_the_training_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: int, told: bool
) -> None:
    steps = 2 * len(trainer(tmp_path).train_batches)
    trainer(tmp_path, epochs=2, warmup_steps=steps + more, lr=0.01)
    line = (
        f"train.warmup_steps is {steps + 1}, but the training has {steps} steps: the learning rate "
        f"ends at {0.01 * steps / (steps + 1):.3g} and never reaches train.lr, 0.01. Lower "
        "train.warmup_steps.\n"
    )
    assert capsys.readouterr().err == (line if told else "")


def test_a_validation_that_is_not_finite_stops_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    t = trainer(tmp_path)
    monkeypatch.setattr(Validation, "scores", lambda *_: {"val_loss": float("inf")})
    with pytest.raises(UserError, match=r"val_loss is not finite in epoch 1: lower train\.lr"):
        t.run()


@pytest.mark.parametrize("damage", [b"", b"noise", None])
def test_a_checkpoint_that_is_damaged_is_not_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: bytes | None
) -> None:
    if damage is None:
        torch.save(["no", "state"], tmp_path / "c.pt")
    else:
        (tmp_path / "c.pt").write_bytes(damage)
    assert read_checkpoint(tmp_path / "c.pt", "key") is None
    assert "c.pt is damaged: starting from scratch" in capsys.readouterr().out


def test_live_curves_get_every_epoch_and_cannot_change_the_result(tmp_path: Path) -> None:
    class Recorder:
        rows: list[tuple[int, dict[str, float]]] = []  # noqa: RUF012

        def log(self, step: int, values: dict[str, float]) -> None:
            self.rows.append((step, values))

    history = trainer(tmp_path / "a", live=Recorder()).run()
    assert history.to_csv() == trainer(tmp_path / "b").run().to_csv()
    logged = [(step, v["val_cider"]) for step, v in Recorder.rows if "val_cider" in v]
    assert logged == list(zip(history.step, history.val_cider, strict=True))


# The stage as a process


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny workspace that has features, and whose training is long enough to be killed."""
    params = tiny_params()
    params["variants"] = {"soft": params["variants"]["soft-attention"]}
    params["train"] |= {"epochs": 30, "patience": 30, "batch_images": 1}
    folder = make_workspace(tmp_path_factory.mktemp("train") / "w", params)
    repro(folder, "extract", "clean")
    return folder


def start(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    env = environment(folder, CAPTIONLAB_CHECKPOINT_MINUTES="0.002")
    return subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.mark.slow
def test_kill_minus_nine_and_a_rerun_end_as_an_uninterrupted_run(prepared: Path) -> None:
    stage(prepared, "train", "soft")
    expected = (
        digest(prepared / "models/soft/model.safetensors"),
        (prepared / "data/history/soft.csv").read_text(),
    )
    (prepared / "models/soft/model.safetensors").unlink()
    checkpoint = prepared / "checkpoints/soft/checkpoint.pt"
    assert not checkpoint.exists()
    process = start(prepared, sys.executable, "-m", "stages.train", "soft")
    wait_for(checkpoint.exists)
    time.sleep(0.3)
    process.kill()
    process.wait()
    assert not (prepared / "models/soft/model.safetensors").exists()
    assert "resuming at epoch" in stage(prepared, "train", "soft").stdout
    assert (
        digest(prepared / "models/soft/model.safetensors"),
        (prepared / "data/history/soft.csv").read_text(),
    ) == expected
    metrics, tags = read_cost(prepared / "checkpoints/soft/cost.json", prepared / "models/soft")
    assert tags == {"device": "cpu"}
    assert sorted(metrics) == [
        "cost/images_per_second",
        "cost/peak_memory_gb",
        "cost/train_seconds",
    ]
    assert min(metrics.values()) > 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_dvc_takes_its_training_with_it(prepared: Path, how: signal.Signals) -> None:
    (prepared / "checkpoints/soft/checkpoint.pt").unlink(missing_ok=True)
    dvc = start(prepared, tool("dvc"), "repro", "-f", "-s", "train@soft")
    wait_for((prepared / "checkpoints/soft/checkpoint.pt").exists)
    training = [
        p
        for p in psutil.Process(dvc.pid).children(recursive=True)
        if "stages.train" in " ".join(p.cmdline())
    ]
    assert training
    os.kill(dvc.pid, how)
    dvc.wait()
    wait_for(lambda: not any(p.is_running() and p.status() != "zombie" for p in training), 10)


def test_a_training_that_memory_cannot_hold_is_refused_before_its_first_step(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(prepared)
    monkeypatch.setattr(capacity, "free_memory", lambda device: 1000)
    with pytest.raises(
        UserError, match=r"^training soft needs .* take a smaller model; set CAPTION"
    ):
        seeds_of("soft", load_params(), "cpu").trainer(1)
    monkeypatch.setenv("CAPTIONLAB_OVERSIZE", "1")
    assert seeds_of("soft", load_params(), "cpu").trainer(1)

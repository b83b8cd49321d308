"""Several processes train as one process does, and when one of them dies, all of them end."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch
import yaml

from pipeline.core import machine
from pipeline.core.errors import UserError, run
from pipeline.core.machine import processes
from pipeline.data.files import write_json
from pipeline.training.launch import RankError, check_ranks, launch
from pipeline.training.ranks import ALONE, PATIENCE
from tests.training import rank_work
from tests.training.rank_work import CASES
from tests.training.test_trainer import captions, same, store, trainer, wait_for
from tests.workspace import ROOT, environment, tiny_params, write_params

pytestmark = pytest.mark.slow

# Steps of a training with `rank_work.drawing`.
STEPS = 12


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, str, float]]:
    """For each rank, a training in which that rank was killed.

    Returns:
        rank -> the training's folder, its error, and the seconds from the last checkpoint to the
        end.
    """
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPTIONLAB_CHECKPOINT_MINUTES", "0")
        for victim in (0, 1):
            folder = tmp_path_factory.mktemp(f"killed-{victim}-")
            with pytest.raises(UserError) as error:
                launch(rank_work.kill_one, 2, "cpu", folder, victim)
            saved = (folder / "checkpoint.pt").stat().st_mtime
            found[victim] = folder, str(error.value), time.time() - saved
    return found


@pytest.fixture(scope="module")
def found(
    tmp_path_factory: pytest.TempPathFactory,
    workspace: Path,
    killed: dict[int, tuple[Path, str, float]],
) -> list[dict[str, Any]]:
    """What each of the two ranks found."""
    folder = tmp_path_factory.mktemp("found")
    places = [place for place, *_ in killed.values()]
    launch(rank_work.train_all, 2, "cpu", folder, workspace, places)
    return [torch.load(folder / f"found-{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return rank_work.of_cases(tmp_path_factory.mktemp("alone"), ALONE)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_have_the_losses_and_scores_of_one(
    found: list[dict[str, Any]], alone: dict[str, dict[str, Any]], name: str
) -> None:
    one, two = alone[name], found[0]["cases"][name]
    assert len(one["losses"]) == 20
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert two["history"].keys() == one["history"].keys()
    for column, values in one["history"].items():
        assert two["history"][column] == pytest.approx(values, abs=1e-5, nan_ok=True), column


@pytest.mark.parametrize("name", CASES)
def test_all_processes_end_with_the_same_weights(found: list[dict[str, Any]], name: str) -> None:
    zero, one = (rank["cases"][name] for rank in found)
    assert same(zero["weights"], one["weights"])
    assert pd.DataFrame(zero["history"]).equals(pd.DataFrame(one["history"]))


def test_figures_of_drawn_words_and_captions_are_means_over_all_processes(
    found: list[dict[str, Any]],
) -> None:
    """Each process draws its own words, so a single process gives no comparison."""
    zero, one = (rank["whole"] for rank in found)
    assert same(zero["weights"], one["weights"])
    assert zero["history"] == one["history"]
    assert zero["drawn"] != one["drawn"]
    assert zero["own"] != one["own"]
    table = pd.DataFrame([line.split(",") for line in zero["history"].splitlines()])
    table.columns = table.iloc[0]
    steps = STEPS // 4
    for epoch, column in enumerate(["train_loss", "train_loss", "train_reward", "train_reward"]):
        parts = [p for r in (zero, one) for p in r["own"][epoch * steps : (epoch + 1) * steps]]
        mean = sum(f[column] * n for f, n in parts) / sum(n for _, n in parts)
        assert float(table[column][epoch + 1]) == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_and_a_rerun_ends_as_an_undisturbed_run(
    found: list[dict[str, Any]], killed: dict[int, tuple[Path, str, float]], victim: int
) -> None:
    folder, said, seconds = killed[victim]
    assert f"process {victim} of the training ended with SIGKILL" in said
    assert seconds < PATIENCE
    for rank in found:
        again, whole = rank[folder.name], rank["whole"]
        assert len(again["own"]) == len(whole["own"]) - 4
        assert again["own"] == whole["own"][4:]
        assert again["history"] == whole["history"]
        assert same(again["weights"], whole["weights"])
        assert again["drawn"] == whole["drawn"]


def test_a_process_alone_goes_on_from_the_checkpoint_of_two(
    found: list[dict[str, Any]], killed: dict[int, tuple[Path, str, float]]
) -> None:
    again = rank_work.drawing(killed[0][0], ALONE).run()  # its checkpoint holds all epochs
    assert again.to_csv() == found[0]["whole"]["history"]


def test_a_batch_is_shared_out_by_image(tmp_path: Path) -> None:
    batches = trainer(tmp_path, batch_images=11).train_batches
    shares = [list(batches.shared(rank, 3).shares(1, 0)) for rank in range(3)]
    for n, batch in enumerate(batches.epoch(1, 0)):
        own = [rank[n].batch for rank in shares]
        images = [image for b in own if b for image in b.image_ids]
        assert images == batch.image_ids
        assert [rank[n].whole for rank in shares] == [batch.size] * 3
    assert [len(rank[0].batch.image_ids) for rank in shares if rank[0].batch] == [4, 4, 3]
    assert [rank[1].batch is None for rank in shares] == [False, True, True]
    seen = [i for rank in range(3) for b in batches.shared(rank, 3).in_order() for i in b.image_ids]
    assert sorted(seen) == sorted(batches.image_ids)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the files that the stage reads, made without DVC."""
    folder = tmp_path_factory.mktemp("workspace")
    params = tiny_params()
    params["variants"] = {"soft": params["variants"]["soft-attention"]}
    params["train"] |= {"epochs": 2, "batch_images": 3, "seeds": [1, 2], "warmup_steps": 0}
    write_params(folder, params)
    rows, features = captions(), folder / "data/features/scenes-lite0"
    (folder / "data/corpora/scenes").mkdir(parents=True)
    rows.split = ["val" if image.startswith("2") else "train" for image in rows.image_id]
    rows.to_parquet(folder / "data/corpora/scenes/captions.parquet")
    store(features)
    write_json(
        features / "manifest.json", {"encoder": "timm_model", "args": {}, "dataset": "scenes"}
    )
    return folder


def test_every_seed_of_a_row_is_trained_by_all_and_written_by_the_first(
    found: list[dict[str, Any]], workspace: Path
) -> None:
    said = found[0]["said"]
    assert said.count("epoch 1 ") == said.count("epoch 2 ") == 2
    assert said.count("soft: seed 2") == 1
    for history in ("data/history/soft.csv", "data/seeds/soft/2/history.csv"):
        assert pd.read_csv(workspace / history).step.tolist() == [3, 6]
    for model in ("models/soft", "data/seeds/soft/2"):
        assert (workspace / model / "model.safetensors").is_file()
    left = sorted(file.name for file in (workspace / "checkpoints/soft").iterdir())
    assert left == ["cost.json"]
    assert (workspace / "checkpoints/soft/cost.json").stat().st_mtime > 0


# How processes end


def test_an_error_in_another_process_than_the_first_is_one_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    begun = time.monotonic()
    with pytest.raises(SystemExit) as end:
        run(lambda: launch(rank_work.wrong, 2, "cpu"))
    assert end.value.code == 2
    assert capfd.readouterr() == ("", "error: the second is wrong: mend it\n")
    assert time.monotonic() - begun < 60


@pytest.mark.timeout(60)
def test_a_traceback_of_any_length_is_told_and_ends_all() -> None:
    with pytest.raises(RankError, match=r"process 1 of the training:\nTraceback[\s\S]+_at_length"):
        launch(rank_work.wrong_at_length, 2, "cpu")


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != "zombie" for p in processes)


def test_no_process_outlives_the_one_that_started_it(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from pipeline.training.launch import launch; "
        "from tests.training.rank_work import waiting; "
        f"launch(waiting, 2, 'cpu', Path({str(tmp_path)!r}))"
    )
    above = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment(ROOT))
    wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    ranks = [psutil.Process(int(file.read_text())) for file in tmp_path.glob("*.pid")]
    above.kill()
    above.wait()
    wait_for(lambda: gone(ranks), 10)


def test_an_interrupted_stage_ends_all_its_processes_with_one_line(
    workspace: Path, tmp_path: Path
) -> None:
    shutil.copytree(workspace, tmp_path / "w", ignore=shutil.ignore_patterns("models"))
    params = yaml.safe_load((workspace / "params.yaml").read_text())
    params["train"] |= {"epochs": 1000, "patience": 1000}
    write_params(tmp_path / "w", params)
    stage = subprocess.Popen(
        [sys.executable, "-m", "stages.train", "soft"],
        cwd=tmp_path / "w",
        env=environment(ROOT, CAPTIONLAB_PROCESSES="2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for((tmp_path / "w/checkpoints/soft/checkpoint.pt").exists)
    below = psutil.Process(stage.pid).children(recursive=True)
    assert len(below) >= 2
    stage.send_signal(signal.SIGTERM)
    _, said = stage.communicate(timeout=60)
    assert stage.returncode == 130
    assert said == "error: interrupted; run the same command again to continue\n"
    wait_for(lambda: gone(below), 10)  # multiprocessing's own helper notices last
    assert not (tmp_path / "w/models").exists()


# How many processes are asked for


@pytest.mark.parametrize(("text", "count"), [("1", 1), ("8", 8), ("", 1), ("gpus", 3)])
def test_as_many_processes_train_as_are_named_or_one(
    monkeypatch: pytest.MonkeyPatch, text: str, count: int
) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: 3)
    monkeypatch.setenv("CAPTIONLAB_PROCESSES", text)
    assert processes() == count


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "²", "two", " ", "GPUS"])
def test_no_other_number_of_processes_is_taken(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("CAPTIONLAB_PROCESSES", text)
    with pytest.raises(UserError) as error:
        processes()
    assert str(error.value) == (
        f"CAPTIONLAB_PROCESSES={text}: expected a whole number of processes, 1 or more, or gpus"
    )


def test_a_process_per_gpu_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: 0)
    monkeypatch.setenv("CAPTIONLAB_PROCESSES", "gpus")
    with pytest.raises(UserError, match=r"^CAPTIONLAB_PROCESSES=gpus: no GPU is visible here"):
        processes()


@pytest.mark.parametrize(
    ("device", "gpus", "count", "said"),
    [
        ("cuda", 2, 4, "asks for 4 processes, and 2 GPUs are visible: lower it, or set "),
        (
            "cuda:1",
            2,
            2,
            "CAPTIONLAB_DEVICE=cuda:1 is a single device, but CAPTIONLAB_PROCESSES=2 ",
        ),
        ("", 8, 8, "asks for 8 processes, and train.batch_images is 7: "),
        ("cpu", 0, 8, "asks for 8 processes, and train.batch_images is 7: "),
    ],
)
def test_more_processes_than_gpus_or_images_of_a_batch_are_refused(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, count: int, said: str
) -> None:
    monkeypatch.setattr("pipeline.training.launch.gpus", lambda: gpus)
    monkeypatch.setenv("CAPTIONLAB_DEVICE", device)
    monkeypatch.setenv("CAPTIONLAB_PROCESSES", str(count))
    with pytest.raises(UserError) as error:
        check_ranks(count, 7)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("device", "gpus", "kind"), [("", 4, "cuda"), ("", 0, "cpu"), ("cpu", 4, "cpu")]
)
def test_processes_train_on_gpus_where_there_are_some(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, kind: str
) -> None:
    monkeypatch.setattr("pipeline.training.launch.gpus", lambda: gpus)
    monkeypatch.setenv("CAPTIONLAB_DEVICE", device)
    assert check_ranks(4, 7) == kind

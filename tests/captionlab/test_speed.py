"""`captionlab speed` writes what it measures, and the report reads it."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image

from captionlab import speed
from captionlab.cli.speed import _material
from pipeline.encoders.timm_model import Encoder
from pipeline.experiment.params import load_params
from pipeline.extraction.extract import extract
from pipeline.report.cost_table import BATCHES, read_speeds
from tests.pictures import put_pictures
from tests.tracking_workspace import make_captioner

ROOT = Path(__file__).parents[2]
DECODE = {"beam": 1, "max_tokens": 2}


class Clock:
    """A clock whose time passes only in `work`."""

    def __init__(self, monkeypatch, *seconds):
        self.now, self.calls, self.seconds = 0.0, 0, seconds
        monkeypatch.setattr(speed.time, "perf_counter", lambda: self.now)

    def work(self):
        self.now += self.seconds[self.calls]
        self.calls += 1


def test_a_rate_is_of_the_median_pass_and_the_first_does_not_count(monkeypatch):
    clock = Clock(monkeypatch, 9.0, 1.0, 0.5, 2.0, 0.41, 3.0)
    assert speed.rate(clock.work, 64) == 64.0
    assert clock.calls == 6


def test_a_rate_has_two_digits_that_count(monkeypatch):
    assert speed.rate(Clock(monkeypatch, *[0.7] * 6).work, 100) == 140.0
    assert speed.rate(Clock(monkeypatch, *[7.0] * 6).work, 1) == 0.14


def test_slow_work_is_measured_once_and_not_again(monkeypatch):
    clock = Clock(monkeypatch, 100.0, 80.0)
    assert speed.rate(clock.work, 8) == 0.1
    assert clock.calls == 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workspace in which two variants of one feature set are trained; soft-attention is not."""
    folder = tmp_path_factory.mktemp("speed")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["decode"] |= DECODE
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    drawn = {f"s{n}": Image.new("RGB", (16, 12), (80 * n, 0, 0)) for n in range(3)}
    shards = put_pictures(folder / "data/raw/scenes", drawn)
    rows = [(image, f"{image}#0", "a dog", "a dog", "test") for image in drawn]
    (folder / "data/corpora/scenes").mkdir(parents=True)
    captions = pd.DataFrame(rows, columns=["image_id", "caption_id", "raw", "text", "split"])
    captions.to_parquet(folder / "data/corpora/scenes/captions.parquet")
    encoder = Encoder(model="test_efficientnet", weights="random", image_size=32)
    extract(encoder, shards, folder / "data/features/scenes-lite0", {}, "cpu", 1)
    make_captioner(folder / "models/merge")
    shutil.copytree(folder / "models/merge", folder / "models/lstm")
    return folder


@pytest.fixture
def workspace(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAPTIONLAB_DEVICE", "cpu")
    monkeypatch.setattr(speed, "PASSES", 1)
    return tmp_path


def test_every_trained_variant_is_measured_and_an_encoder_once(workspace, captionlab, monkeypatch):
    seen, measured = [], speed.images_per_second
    monkeypatch.setattr(
        speed, "images_per_second", lambda *args: seen.append(args) or measured(*args)
    )
    status, out, err = captionlab("speed")
    assert (status, err) == (0, "")
    assert [line.split(":")[0] for line in out.splitlines()] == ["merge", "lstm"]
    found = read_speeds(Path("reports/speed.json"))
    assert sorted(found) == ["lstm", "merge"]
    assert len(seen) == 1
    for entry in found.values():
        assert entry.captions_per_second.keys() == BATCHES.keys()
        assert min(entry.captions_per_second.values()) > 0
        assert entry.machine.endswith("1 thread")
        assert entry.decoding == "greedy, at most 2 tokens"
        assert entry.commit is None
    assert found["lstm"].images_per_second == found["merge"].images_per_second > 0


def test_what_is_measured_are_test_images_that_have_features(workspace):
    rows = [("t0", "train"), ("s9", "test"), *((f"s{n}", "test") for n in (2, 2, 0, 0))]
    file = Path("data/corpora/scenes/captions.parquet")
    pd.DataFrame(rows, columns=["image_id", "split"]).to_parquet(file, row_group_size=3)
    found = _material(load_params(), "merge")
    assert found.image_ids == [member.image_id for member in found.pictures] == ["s0", "s2"]


def test_measuring_one_variant_keeps_the_others_that_are_still_there(workspace, captionlab):
    old = {"captions_per_second": {"1": 1.0}, "images_per_second": 2.0, "machine": "Abacus"}
    old |= {"decoding": "greedy", "commit": None}
    Path("reports").mkdir()
    Path("reports/speed.json").write_text(json.dumps({"lstm": old, "gone": old, "merge": old}))
    assert captionlab("speed", "merge")[0] == 0
    found = json.loads(Path("reports/speed.json").read_text())
    assert found["lstm"] == old
    assert sorted(found) == ["lstm", "merge"]
    assert found["merge"]["machine"] != "Abacus"


def refused(called):
    status, out, err = called
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert not Path("reports/speed.json").exists()
    return err


def test_what_is_not_there_to_be_measured_is_said_in_one_line(workspace, captionlab):
    assert "'lsmt' is not in variants of params.yaml" in refused(
        captionlab("speed", "merge", "lsmt")
    )
    assert "models/soft-attention is not a model folder" in refused(
        captionlab("speed", "soft-attention")
    )
    shutil.rmtree("data/features")
    assert "data/features/scenes-lite0 holds no features: run dvc repro" in refused(
        captionlab("speed", "merge")
    )
    shutil.rmtree("models")
    assert "no variant of params.yaml is in models/: run dvc repro first" in refused(
        captionlab("speed")
    )


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"lstm": []}', '{"lstm": {"machine": "Abacus"}}', '{"lstm": null}']
)
def test_a_file_of_speeds_that_is_damaged_is_one_line_and_stays_as_it_is(
    workspace, captionlab, content
):
    Path("reports").mkdir()
    Path("reports/speed.json").write_text(content)
    status, out, err = captionlab("speed", "merge")
    assert (status, out) == (2, "")
    assert err == (
        "error: reports/speed.json is not what captionlab speed writes: put {} into it and measure "
        "again\n"
    )
    assert Path("reports/speed.json").read_text() == content

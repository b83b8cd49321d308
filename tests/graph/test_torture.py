"""The short form of `make torture`: inputs that need no process of their own, and two kills."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from benchmarks.torture import captions, damage, pictures
from benchmarks.torture.cases import OUT_OF_RANGE
from benchmarks.torture.kills import outputs
from captionlab import evaluate
from pipeline.core.errors import UserError
from pipeline.experiment.params import load_params
from pipeline.images.reading import ImageError, read_image
from tests.workspace import environment, make_workspace, stage, tiny_params

SEED = 1


def refusal(call: Callable[[], object], kind: type[UserError] = UserError) -> str:
    """Return the message with which a call refuses, or '' if it succeeds. Any other error fails the
    test."""
    try:
        call()
    except kind as error:
        return str(error)
    return ""


@pytest.mark.parametrize("number", range(20))
def test_a_file_that_calls_itself_a_picture_is_one_or_has_a_reason(
    tmp_path: Path, number: int
) -> None:
    rng = random.Random(f"{SEED} {number}")
    file = tmp_path / "p.png"
    what, began = pictures.put(rng, file), time.monotonic()
    reason = refusal(lambda: read_image(file).getpixel((0, 0))[2], ImageError)
    assert "\n" not in reason, what
    assert time.monotonic() - began < 5, what


@pytest.mark.parametrize("number", range(15))
def test_a_damaged_file_of_captions_is_scored_or_is_one_line(tmp_path: Path, number: int) -> None:
    rng = random.Random(f"{SEED} {number}")
    what, file = captions.put(rng, captions.rows(), tmp_path)
    (tmp_path / "said").mkdir()
    said = captions.written(".jsonl", captions.one_each(captions.rows()), tmp_path / "said")
    reason = refusal(lambda: evaluate(said, file, "bleu,rouge_l,cider", "raw", partial=True))
    assert "\n" not in reason, what


@pytest.mark.parametrize("number", range(10))
def test_params_with_a_value_that_is_none_are_one_line(tmp_path: Path, number: int) -> None:
    rng = random.Random(f"{SEED} {number}")
    what, params = damage.value_of(rng, tiny_params(), OUT_OF_RANGE)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    reason = refusal(lambda: load_params(tmp_path / "params.yaml"))
    assert not reason or "params.yaml" in reason, what


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_stage_that_is_killed_ends_as_undisturbed_and_leaves_nothing(
    tmp_path: Path, how: signal.Signals
) -> None:
    folder, random_share = make_workspace(tmp_path / "w"), random.Random(SEED).random()
    began = time.monotonic()
    stage(folder, "download", "scenes")
    took, expected = time.monotonic() - began, outputs(folder)
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.download", "scenes"],
        cwd=folder,
        env=environment(folder),
        stderr=subprocess.DEVNULL,
    )
    time.sleep(took * random_share)
    process.send_signal(how)
    assert process.wait(20) in (-how, 130, 0)
    stage(folder, "download", "scenes")
    assert outputs(folder) == expected

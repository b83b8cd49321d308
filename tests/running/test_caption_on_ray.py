"""`captionlab caption --ray` writes the same lines as the plain command, even if the two take turns
on one file."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captionlab.running import caption_on_ray as on_ray
from captionlab.running.caption_shard import Captions
from pipeline.captioner.captioner import GREEDY
from pipeline.core.alike import versions
from pipeline.core.errors import UserError
from pipeline.data.files import write_json
from tests.running.toy import wait_for
from tests.tracking_workspace import make_captioner

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COUNT = 60
BROKEN = "photos/13.png"
# The command with small shards: there are 15 of them.
DRIVER = """
import sys
from captionlab import __main__
from captionlab.running import caption_on_ray
from pipeline.captioner import folder
caption_on_ray.BATCH = folder.BATCH = 4
caption_on_ray.SHARD = 4
__main__.main()
"""


@pytest.fixture(scope="module")
def cluster(made: Path) -> Iterator[Any]:
    """A cluster of two nodes with one core each. Their working directory is not the workspace."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8}
        nodes = Cluster(initialize_head=True, head_node_args=head)
        nodes.add_node(num_cpus=1, object_store_memory=10**8)
        yield nodes
        nodes.shutdown()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model/, photos/ and plain.jsonl, the output of the plain command. Of the sixty
    pictures, one is broken."""
    root = tmp_path_factory.mktemp("made")
    make_captioner(root / "model")
    write_json(root / "model/decode.json", GREEDY)
    (root / "photos").mkdir()
    for n in range(COUNT):
        cells = np.random.default_rng(n).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        large = Image.fromarray(cells).resize((800, 600), Image.Resampling.NEAREST)
        large.save(root / f"photos/{n:02}.png")
    (root / BROKEN).write_bytes(b"no picture")
    done = start(root, "plain.jsonl")
    assert "59 of 60 images captioned, 1 broken" in done.communicate(timeout=100)[1]
    return root


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "work space"))


def start(folder: Path, out: str, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", DRIVER, "caption", "photos", "--model", "model", "--out", out]
    return subprocess.Popen(
        [*command, *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def without_bar(errors: str) -> list[str]:
    """Return the lines without those of the progress bar, which appears on slow machines."""
    return [one for one in errors.splitlines() if one.strip() and not one.startswith("caption: ")]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def same(ours: Path, theirs: Path) -> None:
    """Check that two files hold equal lines, in any order. The last digits of probabilities may
    differ, because they depend on the batch."""
    one, other = (sorted(lines(path), key=lambda row: row["file"]) for path in (ours, theirs))
    numbers = [[row.pop("log_prob", 0.0) for row in rows] for rows in (one, other)]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-4)
    for row in [*one, *other]:
        for said in row.get("alternatives", []):
            said["log_prob"], said["score"] = round(said["log_prob"], 3), round(said["score"], 3)
    assert one == other


def keep(path: Path, count: int) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:count]))


def test_wherever_the_driver_was_killed_the_same_command_ends_with_the_lines_of_the_plain_one(
    workspace: Path, cluster: Any
) -> None:
    out, ray = workspace / "out.jsonl", ("--ray", cluster.address)
    shutil.copy(workspace / "plain.jsonl", out)
    keep(out, 5)  # The plain command began the file.
    first = start(workspace, "out.jsonl", *ray)
    wait_for(lambda: len(lines(out)) > 5, 60)
    first.kill()
    first.communicate()
    begun = len(lines(out))
    assert 5 < begun < COUNT
    _, errors = (again := start(workspace, "out.jsonl", *ray)).communicate(timeout=100)
    assert again.returncode == 0, errors
    assert without_bar(errors) == [
        f"out.jsonl: 59 of 60 images captioned, 1 broken; {begun} of them were in the file already"
    ]
    same(out, workspace / "plain.jsonl")
    keep(out, 50)  # Begun on a cluster, finished by the plain command.
    _, errors = start(workspace, "out.jsonl").communicate(timeout=100)
    assert "50 of them were in the file already" in errors
    same(out, workspace / "plain.jsonl")


def test_ctrl_c_keeps_what_is_written(workspace: Path, cluster: Any) -> None:
    out = workspace / "out.jsonl"
    process = start(workspace, "out.jsonl", "--ray", cluster.address)
    wait_for(lambda: out.exists() and len(lines(out)) > 0, 60)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert without_bar(errors) == ["error: interrupted; run the same command again to continue"]
    assert 0 < len(lines(out)) < COUNT


@pytest.fixture
def job(made: Path, monkeypatch: pytest.MonkeyPatch) -> on_ray.Job:
    monkeypatch.chdir(made)
    return {**on_ray.job_of(Path("model"), None, None), "threads": 1}


def answer(job: on_ray.Job, *files: str) -> on_ray.Answer:
    return Captions(job).answer(list(files))


def test_a_picture_that_the_node_alone_lacks_is_one_line_and_not_a_broken_picture(
    made: Path, job: on_ray.Job, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    shutil.copy(made / BROKEN, tmp_path / BROKEN)
    on_node = answer({**job, "root": str(tmp_path)}, "photos/01.png", BROKEN)
    assert on_node["missing"] == ["photos/01.png"]
    with pytest.raises(UserError) as refused:
        on_ray.rows_of(on_node, str(made))
    assert str(refused.value) == (
        f"node {on_node['node']} does not see {made}/photos/01.png: put the pictures on a disk "
        "that all nodes share"
    )
    rows = on_ray.rows_of(on_node, str(tmp_path))  # The picture is missing here, too.
    assert [row["error"] for row in rows] == [
        "cannot be read (No such file or directory)",
        "not a picture",
    ]


def test_a_node_with_another_model_or_environment_says_which(job: on_ray.Job) -> None:
    gone = {**job, "folder": "/nowhere/model"}
    assert "there is no model folder /nowhere/model" in answer(gone, BROKEN)["refused"]
    other = {**job, "weights": ["other"]}
    assert f"{job['folder']} holds other weights" in answer(other, BROKEN)["refused"]
    old = {**job, "versions": {**versions(), "torch": "1.0"}}
    with pytest.raises(UserError, match=r"^node \S+ has torch \S+, the head has 1\.0: install the"):
        on_ray.rows_of(answer(old, BROKEN), "")


def test_names_that_are_no_text_travel(made: Path, job: on_ray.Job) -> None:
    strange = os.fsdecode(b"photos/\xff.png")
    (shard,) = on_ray.cut([strange], 1)
    (told,) = Captions(job)({"shard": [shard["shard"]]})["answer"]
    assert [row["file"] for row in json.loads(told)["rows"]] == [strange]


def test_no_actors_take_every_core_and_shards_are_whole_batches() -> None:
    assert on_ray.pool({"CPU": 64.0, "GPU": 4.0}) == (4, {"num_gpus": 1, "num_cpus": 0})
    assert on_ray.pool({"CPU": 64.0}) == (63, {"num_cpus": 1})
    assert on_ray.pool({"CPU": 1.0}) == (1, {"num_cpus": 0.5})
    files = [str(n) for n in range(1000)]
    sizes = [len(json.loads(one["shard"])) for one in on_ray.cut(files, 4)]
    assert sizes == [64] * 15 + [40]
    assert {len(json.loads(one["shard"])) for one in on_ray.cut(files * 50, 4)} == {256, 80}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ("--out", "a.jsonl", "--ray", "127.0.0.1:1", "--model", "model"),
            r"--ray 127.0.0.1:1 does not answer \(.+\): give HOST:PORT of a running cluster",
        ),
        (
            ("--out", "a.jsonl", "--ray", "ray://127.0.0.1:1", "--model", "model"),
            "--ray ray://127.0.0.1:1: Ray Data needs a driver on a node of the cluster: give ",
        ),
        (("--ray", "auto"), "--ray needs a file for the captions: --out captions.jsonl"),
        (("--ray", "auto", "--out", "a.jsonl"), "--ray: champion is fetched to this machine alone"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(
    made: Path, monkeypatch: pytest.MonkeyPatch, captionlab: Any, options: Any, line: str
) -> None:
    monkeypatch.chdir(made)
    status, out, errors = captionlab("caption", "photos", *options)
    assert (status, out, errors.count("\n")) == (2, "", 1)
    assert re.match(f"error: {line}", errors)
    assert not Path("a.jsonl").exists()

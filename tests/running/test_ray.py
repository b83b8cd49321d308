"""`captionlab run --ray` runs stages on the nodes of a cluster, with the results of `dvc repro`."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from captionlab.cli.run import command as run_command
from captionlab.running import on_ray, parcel, worker
from captionlab.running.needs import Need, Needs
from captionlab.running.on_ray import lendable
from pipeline.core.errors import UserError
from pipeline.experiment.params import load_params
from tests.running.toy import Toy, processes_in, wait_for
from tests.workspace import run

pytestmark = pytest.mark.slow

FEW = ("a", "b", "c", "d", "e", "f")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster of two nodes with one core each. Each node is a group of processes on this
    machine."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPTIONLAB_SCRATCH", str(tmp_path_factory.mktemp("scratch")))
        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8}
        nodes = Cluster(initialize_head=True, head_node_args=head)
        nodes.second = nodes.add_node(num_cpus=1, object_store_memory=10**8)
        nodes.scratch = Path(os.environ["CAPTIONLAB_SCRATCH"])
        yield nodes
        nodes.shutdown()


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path, ("a", "b")).with_git()


def test_a_node_that_dies_in_the_middle_changes_no_byte_of_the_result(
    tmp_path: Path, cluster: Any
) -> None:
    plain = Toy(tmp_path / "plain", FEW).with_git()
    plain.repro()
    toy = Toy(tmp_path / "toy", FEW).with_git()
    holds = [toy.mark("hold", f"train@{name}") for name in FEW[:2]]
    process = toy.start("--ray", cluster.address)
    wait_for(lambda: {"train@a", "train@b"} <= set(toy.begun()), 120)
    on_nodes = {Path(place).parent for *_, place in toy.ended()}
    cluster.remove_node(cluster.second, allow_graceful=False)
    for hold in holds:
        hold.unlink()
    out, errors = process.communicate(timeout=400)
    cluster.second = cluster.add_node(num_cpus=1, object_store_memory=10**8)
    assert process.returncode == 0, out + errors
    assert "it is tried again" in out
    assert toy.made() == plain.made()
    assert toy.begun().count("train@c") == 1
    assert "compare" in {stage for stage, *_, place in toy.ended() if Path(place) == toy.folder}
    assert len(on_nodes) == 1
    wait_for(lambda: not processes_in(cluster.scratch), 15)
    toy.notes.joinpath("begun").unlink()
    assert toy.run("--ray", cluster.address)[0] == 0
    assert toy.begun() == []


def test_a_stage_that_fails_on_a_node_is_one_line_and_what_succeeded_stays(
    toy: Toy, cluster: Any
) -> None:
    toy.mark("fail", "score@a")
    status, out, errors = toy.run("--ray", cluster.address, "--keep-going")
    assert status == 2
    assert errors.splitlines()[-1].startswith(
        "error: score@a failed: score@a was told to fail (its log is .dvc/tmp/captionlab/logs/"
    )
    assert "Traceback" not in out + errors
    assert (toy.folder / "data/scores/b/made.txt").exists()
    assert not (toy.folder / "data/scores/a").exists()


class Heard:
    """A stand-in for the actor that collects logs."""

    def __init__(self) -> None:
        self.text = b""
        self.add = self

    def remote(self, stage: str, text: bytes) -> None:
        self.text += text


@pytest.fixture
def packed(toy: Toy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> worker.Parcel:
    """Return the toy workspace packed for nodes that share no disk with it."""
    monkeypatch.chdir(toy.folder)
    monkeypatch.setenv("CAPTIONLAB_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("CAPTIONLAB_TOY", str(toy.notes))
    return parcel.pack(load_params(), ".no-such-file")


def test_without_a_shared_disk_the_dvc_remote_carries_what_a_node_makes(
    toy: Toy, packed: worker.Parcel, tmp_path: Path
) -> None:
    heard = Heard()
    answer = worker.run_stage("download@d", b"", 0, packed, heard)
    assert answer["status"] == 0, answer["log"]
    assert b"Running stage 'download@d'" in heard.text
    assert not (toy.folder / ".dvc/cache").exists()
    env = toy.environment(CAPTIONLAB_ONLY="")
    command = [sys.executable, "-m", "dvc", "repro", "--pull", "download@d"]
    done = subprocess.run(command, cwd=toy.folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (toy.folder / "data/raw/d/made.txt").exists()
    lock = (toy.folder / "dvc.lock").read_bytes()
    assert worker.run_stage("train@a", lock, 2, packed, heard)["status"] == 0
    assert toy.begun() == ["download@d", "train@a"]
    (slot,) = (tmp_path / "scratch").glob("*/slot-0")
    assert run(slot, "git", "status", "--porcelain", "pipeline", "stages").stdout == ""
    assert run(slot, "git", "rev-parse", "HEAD").stdout == (
        run(toy.folder, "git", "rev-parse", "HEAD").stdout
    )


def test_a_node_that_comes_later_and_lacks_the_shared_cache_is_one_line(
    packed: worker.Parcel,
) -> None:
    with pytest.raises(RuntimeError, match=r"does not see the head's cache .* add one that all"):
        worker.run_stage("download@d", b"", 0, {**packed, "shared": True}, Heard())


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the cluster act as if its nodes shared no disk."""
    monkeypatch.setattr(on_ray.Cluster, "_nodes_without_cache", lambda _: ["node-2"])


@pytest.mark.usefixtures("apart")
def test_neither_a_remote_nor_a_shared_cache_is_one_line_before_anything_runs(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = Toy(tmp_path, ("a",))
    monkeypatch.chdir(toy.folder)
    with pytest.raises(UserError) as refused:
        on_ray.Cluster(cluster.address, Needs(), load_params(), [])
    assert str(refused.value).startswith("node node-2 does not see the head's cache /")
    assert [*toy.folder.rglob(".captionlab-*")] == []
    assert toy.begun() == []


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("made", [[], ["score@a"]])
def test_nodes_that_share_no_disk_exchange_through_the_dvc_remote(
    toy: Toy, cluster: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, made: list[str]
) -> None:
    plain = Toy(tmp_path / "plain", ("a", "b")).with_git()
    plain.repro()
    if made:
        assert toy.run(*made)[0] == 0
    monkeypatch.chdir(toy.folder)
    for key, text in toy.environment(CAPTIONLAB_SCRATCH=str(tmp_path / "scratch")).items():
        monkeypatch.setenv(key, text)
    run_command(stages=None, jobs=None, ray=cluster.address, keep_going=False, need=None)
    made_here, expected = toy.made(), plain.made()
    if made:  # Existing entries keep their places, so the order may differ.
        assert sorted((toy.folder / "dvc.lock").read_text()) == sorted(
            (plain.folder / "dvc.lock").read_text()
        )
        del made_here["dvc.lock"], expected["dvc.lock"]
    assert made_here == expected
    assert len(toy.begun()) == len(set(toy.begun())) == 8
    places = {stage: place for stage, *_, place in toy.ended()}
    assert str(tmp_path / "scratch") in places["score@b"]


def test_a_node_with_another_environment_is_refused_with_both_versions(
    packed: worker.Parcel,
) -> None:
    other = {**packed["versions"], "torch": "1.0"}
    torch = packed["versions"]["torch"]
    with pytest.raises(RuntimeError) as refused:
        worker.run_stage("download@d", b"", 0, {**packed, "versions": other}, Heard())
    assert f"has torch {torch}, the head has 1.0: install the same version" in str(refused.value)


def test_a_full_disk_of_a_node_is_one_line(
    packed: worker.Parcel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/scratch/slot-0/dvc.lock")

    monkeypatch.setattr(worker, "prepare", full)
    with pytest.raises(RuntimeError) as told:
        worker.run_stage("download@d", b"", 0, packed, Heard())
    assert re.fullmatch(
        r"node \S+: No space left on device \(/scratch/slot-0/dvc.lock\): free some space there, "
        "or name another folder with CAPTIONLAB_SCRATCH",
        str(told.value),
    )


def test_files_that_arguments_name_travel_and_those_outside_are_refused(
    toy: Toy, packed: worker.Parcel, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = load_params()
    variant = params.variants["merge"]
    vectors = toy.folder / "glove/vectors.txt"
    vectors.parent.mkdir()
    vectors.write_text("a 0.1 0.2\n")
    variant.args["vectors"] = "glove/vectors.txt"
    assert parcel.named(params) == ["glove/vectors.txt"]
    outside = toy.folder.parent / "elsewhere.txt"
    outside.write_text("a 0.1 0.2\n")
    variant.args["vectors"] = str(outside)
    assert parcel.named(params) == []  # An absolute path means a disk that all nodes share.
    variant.args["vectors"] = "../elsewhere.txt"
    with pytest.raises(UserError, match=r"^variants.merge.args.vectors names ../elsewhere.txt, w"):
        parcel.named(params)


def test_equal_workspaces_are_equal_parcels(packed: worker.Parcel) -> None:
    again = parcel.pack(load_params(), "other")
    assert worker.scratch_of(again) == worker.scratch_of(packed)


def test_what_a_training_took_comes_back_from_a_node(tmp_path: Path) -> None:
    cost = tmp_path / "checkpoints/merge/cost.json"
    cost.parent.mkdir(parents=True)
    cost.write_text("{}")
    (tmp_path / "checkpoints/merge/checkpoint.pt").write_bytes(b"large")
    (tmp_path / "checkpoints/lstm").mkdir()
    (tmp_path / "checkpoints/lstm/cost.json").write_text("an older one")
    assert worker.notes(tmp_path, "train@merge") == {"checkpoints/merge/cost.json": b"{}"}
    assert worker.notes(tmp_path, "score@merge") == {}


def test_a_stage_asks_for_no_more_than_a_single_node_has() -> None:
    head, gpu = {"CPU": 64.0, "memory": 9e9}, {"CPU": 1.0, "GPU": 1.0, "memory": 3e9}
    assert lendable(Need(gpus=1, cores=2, memory=6), [head, gpu]) == Need(1, 1, 3)
    assert lendable(Need(gpus=0, cores=2, memory=6), [head, gpu]) == Need(0, 2, 6)
    assert lendable(Need(gpus=4, cores=2, memory=6), [head]) == Need(0, 2, 6)


def test_a_node_without_git_is_told_so(
    packed: worker.Parcel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "git")

    monkeypatch.setattr(worker.subprocess, "run", missing)
    with pytest.raises(RuntimeError, match=r"git reset in .* failed .* work on every node$"):
        worker.run_stage("download@d", b"", 0, packed, Heard())


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:1", "does not answer ("),
        ("ray://127.0.0.1:1", "does not answer ("),
        ("head", "has no port: give HOST:PORT"),
    ],
)
def test_an_address_that_does_not_answer_is_one_line(toy: Toy, address: str, told: str) -> None:
    status, _, errors = toy.run("--ray", address)
    assert status == 2
    assert errors.startswith(f"error: --ray {address} {told}")
    assert errors.count("\n") == 1
    assert toy.begun() == []


def test_without_ray_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError) as refused:
        on_ray.connect("auto")
    assert str(refused.value) == (
        'captionlab run --ray needs Ray: pip install "captionlab[cluster]" (in a clone: make env)'
    )

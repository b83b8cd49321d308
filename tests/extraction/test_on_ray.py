"""`CAPTIONLAB_RAY`: on a cluster, the stage `extract` writes the same bytes as on one machine."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from pipeline.core import ray_cluster
from pipeline.core.errors import UserError
from pipeline.data.checked import read_json
from pipeline.data.shards import Shards
from pipeline.extraction import on_ray
from pipeline.extraction.extract import extract
from pipeline.features.features import Features
from pipeline.sources.shared import shards
from tests.features.test_store import TinyEncoder, contents, pictures, run
from tests.pictures import exchange

pytestmark = pytest.mark.slow

# They fill five shards of 16.
PICTURES = 70


class Scaled(TinyEncoder):
    """An encoder with a random weight, which the nodes must receive unchanged.

    If there is a file `die`, it kills its process once.
    """

    def __init__(self, notes: Path):
        super().__init__()
        import torch

        self.notes, self.weight = notes, torch.rand(()) + 0.5

    def __call__(self, pixels: Any) -> Any:
        with (self.notes / "batches").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if (self.notes / "die").exists():
            (self.notes / "die").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        seen = super().__call__(pixels)
        return Features(seen.grid * self.weight, seen.pooled * self.weight)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a cluster of two nodes, groups of processes here, with one core each."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1, object_store_memory=10**8)
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(scope="module")
def nodes(address: str) -> Iterator[on_ray.Nodes]:
    with on_ray.nodes(address) as found:
        yield found


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shards:
    monkeypatch.setattr(shards, "PICTURES", 16)
    pictures(tmp_path / "raw", PICTURES)
    exchange(tmp_path / "raw", i03=b"", i20=b"no picture", i69=b"")
    return Shards(tmp_path / "raw")


def on(nodes: Any, encoder: Any, images: Shards, tmp_path: Path, **about: Any) -> Path:
    about = {"encoder": "tiny", "args": {}, **about}
    folder = tmp_path / "cluster"
    extract(encoder, images, folder, about, "cpu", threads=2, batch=3, make=nodes.make)
    return folder


def computed(tmp_path: Path) -> int:
    """Return the number of forward passes, and set it back to 0."""
    notes = tmp_path / "batches"
    found = len(notes.read_text().splitlines())
    notes.unlink()
    return found


def test_a_cluster_writes_the_bytes_of_the_stage_alone_and_only_small_records_come_back(
    nodes: on_ray.Nodes, images: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Scaled(tmp_path)
    expected = contents(run(encoder, images, tmp_path, "alone", 7))
    (tmp_path / "batches").unlink()
    records, whole = [], nodes._records

    def seen(*args: Any) -> Iterator[Any]:
        for record in whole(*args):
            records.append(record)
            yield record

    monkeypatch.setattr(nodes, "_records", seen)
    assert contents(on(nodes, encoder, images, tmp_path)) == expected
    assert str(os.getpid()) not in (tmp_path / "batches").read_text().split()
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "alone", "batches", "cluster", "raw",
    ]  # fmt: skip
    assert sorted(record["shard"] for record in records) == [0, 1, 2, 3, 4]
    assert max(len(json.dumps(record)) for record in records) < 200


def test_a_killed_actor_is_started_again_and_changes_no_byte(
    nodes: on_ray.Nodes, images: Shards, tmp_path: Path
) -> None:
    encoder = Scaled(tmp_path)
    about = {"dtype": "int8", "keep": "pooled"}
    expected = contents(run(encoder, images, tmp_path, "alone", **about))
    (tmp_path / "die").touch()
    assert contents(on(nodes, encoder, images, tmp_path, **about)) == expected
    assert not (tmp_path / "die").exists()


def interrupted(encoder: Any, images: Shards, tmp_path: Path, done: list[int]) -> Path:
    """Return the part that an interrupted run on a cluster leaves.

    The shards in `done` are done, and others are torn.
    """
    run(encoder, images, tmp_path, "alone")

    def some(job: Any, todo: list[int]) -> Iterator[Any]:
        from pipeline.extraction.extract import _here

        yield from _here(job, done)
        (job.folder / "pooled-00001.npy").write_bytes(b"torn")
        (job.folder / ".actors-killed").mkdir()
        (job.folder / ".actors-killed/grid-00001.npy").write_bytes(b"torn")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        on(type("Nodes", (), {"make": staticmethod(some)}), encoder, images, tmp_path)
    (tmp_path / "batches").unlink()
    return tmp_path / ".cluster.part"


@pytest.mark.parametrize("where", ["cluster", "alone"])
def test_any_shards_that_are_done_stay_done(
    images: Shards, tmp_path: Path, where: str, request: pytest.FixtureRequest
) -> None:
    encoder = Scaled(tmp_path)
    part = interrupted(encoder, images, tmp_path, [0, 2, 4])
    kept = {f.name: f.stat().st_ino for f in part.glob("grid-*.npy")}
    remembered = read_json(part / "progress.json")["shards"]
    assert [shard["shard"] for shard in remembered] == [0, 2, 4]
    if where == "cluster":
        folder = on(request.getfixturevalue("nodes"), encoder, images, tmp_path)
    else:
        folder = run(encoder, images, tmp_path, "cluster", batch=3)
    assert contents(folder) == contents(tmp_path / "alone")
    assert computed(tmp_path) == 2 * 6  # two shards of 16 in batches of three
    assert {name: (folder / name).stat().st_ino for name in kept} == kept


def test_a_node_that_does_not_see_the_disk_is_one_line(
    nodes: on_ray.Nodes, images: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = nodes._task

    def elsewhere(*args: Any) -> Any:
        task = whole(*args)
        task.data = Path("/not/here")
        return task

    monkeypatch.setattr(nodes, "_task", elsewhere)
    with pytest.raises(
        UserError, match=r"^node \S+ does not see /not/here/images.parquet as the head does: put "
    ) as error:
        on(nodes, Scaled(tmp_path), images, tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "cluster").exists()


@pytest.fixture
def one_actor(nodes: on_ray.Nodes, monkeypatch: pytest.MonkeyPatch) -> on_ray.Nodes:
    """Nodes whose one actor runs in this process, which saves the start of another."""

    def records(task: on_ray.Task, todo: list[int]) -> Iterator[Any]:
        actor = on_ray.Actor(task)
        yield from (json.loads(actor({"shard": [n]})["record"][0]) for n in todo)

    monkeypatch.setattr(nodes, "_records", records)
    return nodes


def test_a_node_with_other_code_is_one_line(
    one_actor: on_ray.Nodes, images: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([{"torch": "1.0"}, {"torch": "2.0"}])
    monkeypatch.setattr(on_ray, "versions", lambda: next(found))
    with pytest.raises(UserError, match=r"^node \S+ has torch 2.0, the head has 1.0: install the"):
        on(one_actor, Scaled(tmp_path), images, tmp_path)


def test_a_shard_that_breaks_is_one_line_and_costs_no_finished_shard(
    one_actor: on_ray.Nodes, images: Shards, tmp_path: Path
) -> None:
    shard = tmp_path / "raw/shards/000004.tar"
    shard.write_bytes(shard.read_bytes()[:600])
    with pytest.raises(UserError, match=r"^/\S+/000004\.tar: byte \d+ does not begin the"):
        on(one_actor, Scaled(tmp_path), images, tmp_path)
    assert len(read_json(tmp_path / ".cluster.part/progress.json")["shards"]) == 4


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("127.0.0.1:1", r"does not answer \(.+\): give"),
        ("no address", "has no port: give"),
        (":6379", "has no port: give"),
    ],
)
def test_an_address_that_cannot_answer_is_one_line(address: str, what: str) -> None:
    with pytest.raises(UserError, match=rf"^CAPTIONLAB_RAY={address} {what} HOST:PORT of a runn"):
        ray_cluster.connect(address, "CAPTIONLAB_RAY=", "CAPTIONLAB_RAY")


def test_a_cluster_that_asks_for_a_token_is_one_line_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the token, Ray's client sees only that it cannot connect."""

    def refused(**_: Any) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at 127.0.0.1:6379")

    monkeypatch.setattr(ray, "init", refused)
    with pytest.raises(UserError, match=r"^--ray auto: no Ray cl.+ set RAY_AUTH_MODE=token here t"):
        ray_cluster.connect("auto", "--ray ", "captionlab run --ray")


def test_without_ray_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(UserError, match=r'^CAPTIONLAB_RAY needs Ray: pip install "captionlab\[clu'),
        on_ray.nodes("auto"),
    ):
        pass


def test_without_the_variable_the_stage_imports_no_ray() -> None:
    code = "import sys, pipeline.extraction.on_ray; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

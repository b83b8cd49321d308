"""`captionlab run --jobs N` runs several stages at once on one machine, with the results of
`dvc repro`."""

import os
import re
import signal
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import yaml

from captionlab.running.graph import read_graph
from captionlab.running.local import Local, log_of
from captionlab.running.lock_file import KEPT, in_order
from captionlab.running.needs import Needs
from pipeline.core.errors import UserError
from tests.running.toy import Toy, processes_in, wait_for

pytestmark = pytest.mark.slow

FEW = ("a", "b")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of the outputs of `dvc repro` in the toy graph."""
    toy = Toy(tmp_path_factory.mktemp("plain"), FEW)
    toy.repro()
    return toy.made()


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path, FEW)


def test_several_at_once_make_what_dvc_repro_makes_and_its_lock_file_byte_for_byte(
    toy: Toy, plain: dict[str, str]
) -> None:
    holds = [toy.mark("hold", f"train@{name}") for name in FEW]
    process = toy.start("--jobs", "3")
    wait_for(lambda: sorted(toy.begun()[1:]) == ["train@a", "train@b"])
    for hold in reversed(holds):
        hold.unlink()
    out, errors = process.communicate(timeout=200)
    assert process.returncode == 0, out + errors
    assert toy.made() == plain
    lines = out.splitlines()
    assert lines[:2] == ["download@d: started", lines[1]]
    assert re.fullmatch(r"download@d: done \(0:\d\d; 1 of 5 done\)", lines[1])
    assert sorted(toy.begun()) == sorted({stage for stage, *_ in toy.ended()})
    toy.notes.joinpath("begun").unlink()
    assert toy.run("--jobs", "2")[0] == 0
    assert toy.begun() == []


def test_one_job_at_a_time_is_one_job_at_a_time(toy: Toy, plain: dict[str, str]) -> None:
    assert toy.run("--jobs", "1")[0] == 0
    spans = sorted((begin, end) for _, begin, end, *_ in toy.ended())
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    assert toy.made() == plain


def test_a_failed_stage_is_one_line_what_succeeded_stays_and_the_same_command_goes_on(
    toy: Toy, plain: dict[str, str]
) -> None:
    fail = toy.mark("fail", "train@a")
    status, out, errors = toy.run("--jobs", "1")
    assert status == 2
    assert errors.splitlines()[-1] == (
        f"error: train@a failed: train@a was told to fail (its log is {log_of('train@a')})"
    )
    assert "Traceback" not in out + errors
    assert toy.begun() == ["download@d", "train@a"]
    assert "train@a was told to fail" in (toy.folder / log_of("train@a")).read_text()

    status, out, errors = toy.run("--jobs", "1", "--keep-going")
    assert status == 2
    assert toy.begun()[2:] == ["train@a", "train@b", "score@b", "track@b"]
    fail.unlink()
    assert toy.run("--jobs", "2")[0] == 0
    assert toy.begun()[6:] == ["train@a", "score@a", "track@a", "compare"]
    assert toy.made() == plain


def test_what_a_person_did_after_a_failed_run_counts_as_old(toy: Toy) -> None:
    fail = toy.mark("fail", "train@a")
    assert toy.run("--jobs", "1", "--keep-going")[0] == 2
    lock = toy.folder / "dvc.lock"
    content = yaml.safe_load(lock.read_text())
    content["stages"] = dict(reversed(content["stages"].items()))
    lock.write_text(yaml.safe_dump(content, sort_keys=False))
    fail.unlink()
    assert toy.run("--jobs", "2")[0] == 0
    order = list(yaml.safe_load(lock.read_text())["stages"])
    assert order[:4] == ["track@b", "score@b", "train@b", "download@d"]


@pytest.mark.parametrize("victim", ["stages.train", "captionlab.running.job"])
def test_a_job_that_is_killed_is_tried_again(toy: Toy, plain: dict[str, str], victim: str) -> None:
    hold = toy.mark("hold", "train@a")
    process = toy.start("--jobs", "2")
    wait_for(lambda: "train@a" in toy.begun())
    (killed,) = (
        one
        for one in psutil.Process(process.pid).children(recursive=True)
        if victim in " ".join(one.cmdline())
        and one.cmdline()[-1] in ("a", "train@a")
        and Path(one.exe()).name.startswith("python")
    )
    killed.kill()
    hold.unlink()
    out, errors = process.communicate(timeout=200)
    assert process.returncode == 0, out + errors
    assert re.search(
        r"^train@a: its process was killed \(status -?\d+\): it is tried again$", out, re.M
    )
    assert toy.made() == plain


def test_ctrl_c_ends_everything_and_the_same_command_goes_on(
    toy: Toy, plain: dict[str, str]
) -> None:
    holds = [toy.mark("hold", f"train@{name}") for name in FEW]
    process = toy.start("--jobs", "2")
    wait_for(lambda: len(toy.begun()) == 3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == ("error: interrupted; run the same command again to continue")
    wait_for(lambda: not processes_in(toy.folder), 10)
    for hold in holds:
        hold.unlink()
    assert toy.run("--jobs", "2")[0] == 0
    assert toy.made() == plain


def kill_at(toy: Toy, running: str, ended: str) -> None:
    """Kill a run while one stage works and another has just ended; wait for its processes."""
    hold = toy.mark("hold", running)
    process = toy.start("--jobs", "2")
    wait_for(lambda: running in toy.begun() and ended in [stage for stage, *_ in toy.ended()])
    process.kill()
    process.wait()
    wait_for(lambda: not processes_in(toy.folder), 15)
    hold.unlink()


def test_a_killed_run_leaves_no_process_and_the_next_one_goes_on(
    toy: Toy, plain: dict[str, str]
) -> None:
    kill_at(toy, "train@b", "train@a")
    status, _, errors = toy.run("--jobs", "2")
    assert status == 0, errors
    assert toy.made() == plain


@pytest.mark.parametrize("share", [0, 0.3, 0.7])
def test_half_a_lock_file_of_a_killed_run_is_replaced_and_what_was_finished_comes_back(
    toy: Toy, plain: dict[str, str], share: float
) -> None:
    """The kill met DVC while it wrote dvc.lock."""
    kill_at(toy, "score@b", "score@a")
    lock = toy.folder / "dvc.lock"
    content = lock.read_text()
    in_a_word = content.index("md5:", int(len(content) * share)) + 2
    lock.write_text(content[:in_a_word])
    (toy.folder / ".dvc/tmp/rwlock").write_text('{"')
    before = len(toy.ended())
    status, _, errors = toy.run("--jobs", "2")
    assert status == 0, errors
    assert "dvc.lock was half written when the last run was killed" in errors
    assert toy.made() == plain
    ran = [stage for stage, *_ in toy.ended()[before:]]
    assert not [stage for stage in ran if stage.startswith(("download", "train"))]


def test_a_lock_file_that_a_person_broke_is_left_alone(toy: Toy) -> None:
    toy.repro()
    lock = toy.folder / "dvc.lock"
    lock.write_text("<<<<<<< HEAD\n" + lock.read_text())
    broken = lock.read_text()
    assert toy.run("--jobs", "2")[0] == 2
    assert lock.read_text() == broken


def test_named_stages_run_with_what_they_stand_on_and_nothing_else(toy: Toy) -> None:
    assert toy.run("score@b", "--jobs", "2")[0] == 0
    assert toy.begun() == ["download@d", "train@b", "score@b"]
    assert toy.run("train", "--jobs", "2")[0] == 0
    assert toy.begun()[3:] == ["train@a"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["trian"], "unknown stage 'trian': name a kind (download, train, score, track, compare) "
                    "or one stage, such as download@d"),
        (["--need", "train.gpu=1"], "--need train.gpu=1: write STAGE.WHAT=NUMBER, where WHAT is "
                                    "one of gpus, cores, memory, such as train.cores=8; "
                                    "gpus above 1 are whole"),
        (["--need", "train.cores=-1"], "--need train.cores=-1: write STAGE.WHAT=NUMBER, where WHAT "
                                       "is one of gpus, cores, memory, such as train.cores=8; "
                                    "gpus above 1 are whole"),
        (["--need", "train.gpus=1.5"], "--need train.gpus=1.5: write STAGE.WHAT=NUMBER, where WHAT is "
                                       "one of gpus, cores, memory, such as train.cores=8; gpus "
                                       "above 1 are whole"),
        (["--need", "trian.cores=1"],
         "--need trian: the graph has no such stage, nor stages of that kind"),
        (["--ray", "auto", "--jobs", "2"],
         "--jobs is for this machine, --ray for a cluster: give one of them"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_nothing_runs(toy: Toy, options: list[str], line: str) -> None:
    assert toy.run(*options)[::2] == (2, f"error: {line}\n")
    assert toy.begun() == []
    assert not (toy.folder / "dvc.lock").exists()


def test_a_mistake_in_params_is_told_before_anything_runs(toy: Toy) -> None:
    params = toy.folder / "params.yaml"
    params.write_text(params.read_text().replace("epochs: 1", "epochs: one", 1))
    status, _, errors = toy.run("--jobs", "2")
    assert (status, toy.begun()) == (2, [])
    assert errors.startswith("error: params.yaml: train.epochs")


def test_a_folder_without_dvc_is_one_line(tmp_path: Path, toy: Toy) -> None:
    (toy.folder / ".dvc").rename(tmp_path / "gone")
    status, _, errors = toy.run()
    assert status == 2
    assert errors.count("\n") == 1
    assert "captionlab doctor" in errors


@pytest.fixture
def in_toy(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Toy:
    monkeypatch.chdir(toy.folder)
    for key, text in toy.environment(CAPTIONLAB_TOY_SECONDS="0.5").items():
        monkeypatch.setenv(key, text)
    return toy


def test_stages_at_once_have_gpus_of_their_own(in_toy: Toy) -> None:
    engine = Local(5, Needs(["score@b.gpus=0.5", "score@c.gpus=0.5"]), ["3", "5"])
    for stage in ("download@d",):
        engine.start(stage)
        wait_for(engine.finished)
    engine.start("train@a")
    engine.start("train@b")
    assert not engine.has_room("train@c")
    assert engine.has_room("score@a")  # It needs no GPU.
    wait_for(lambda: len(in_toy.ended()) == 3)
    assert {gpus for stage, _, _, gpus, _ in in_toy.ended() if stage != "download@d"} == {"3", "5"}
    done: list[str] = []
    wait_for(lambda: done.extend(one.stage for one in engine.finished()) or len(done) == 2)
    assert engine.has_room("train@c")
    engine.start("score@b")
    assert engine.has_room("score@c")  # Each takes half of the same GPU.
    engine.stop()
    assert processes_in(in_toy.folder) == []


def test_without_a_number_gpus_take_what_they_can_and_the_emptiest_first(
    in_toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTIONLAB_DEVICE", "cuda:1")
    holds = [in_toy.mark("hold", f"train@{name}") for name in FEW]
    engine = Local(None, Needs(["train.gpus=0.5"]), ["0", "1"])
    engine.start("download@d")
    assert engine.has_room("clean@d")  # As many stages run without a GPU as there are GPUs.
    wait_for(engine.finished)
    for name in FEW:
        engine.start(f"train@{name}")
    wait_for(lambda: len(in_toy.begun()) == 3)
    processes = [psutil.Process(pid) for pid in processes_in(in_toy.folder)]
    envs = [p.environ() for p in processes if p.cmdline()[-2:-1] == ["stages.train"]]
    assert {env["CUDA_VISIBLE_DEVICES"] for env in envs} == {"0", "1"}
    assert {env["CAPTIONLAB_DEVICE"] for env in envs} == {"cuda"}
    assert engine.has_room("train@c")
    for hold in holds:
        hold.unlink()
    engine.stop()


def test_a_second_run_in_a_workspace_is_refused_and_the_order_is_restored(in_toy: Toy) -> None:
    in_toy.repro()
    lock = (in_toy.folder / "dvc.lock").read_text()
    order = list(read_graph())
    with in_order(order) as run:
        refused = pytest.raises(UserError, match=r"^another captionlab run works in this workspac")
        with refused, in_order(order):
            pass
        content = yaml.safe_load(lock)
        content["stages"] = dict(reversed(content["stages"].items()))
        (in_toy.folder / "dvc.lock").write_text(yaml.safe_dump(content, sort_keys=False))
        run.complete = True
    assert (in_toy.folder / "dvc.lock").read_text() == lock
    assert not KEPT.exists()


def test_a_stage_on_two_gpus_gets_both_and_trains_in_two_processes(in_toy: Toy) -> None:
    with pytest.raises(UserError, match=r"^--need train.gpus=3: this machine has 2$"):
        Local(5, Needs(["train.gpus=3"]), ["3", "5"])
    engine = Local(5, Needs(["train.gpus=2"]), ["3", "5"])
    engine.start("download@d")
    wait_for(engine.finished)
    engine.start("train@a")
    assert not engine.has_room("train@b")
    wait_for(lambda: "train@a" in in_toy.begun())
    processes = [psutil.Process(pid) for pid in processes_in(in_toy.folder)]
    (pid,) = (p for p in processes if p.cmdline()[-2:] == ["stages.train", "a"])
    assert pid.environ()["CUDA_VISIBLE_DEVICES"] == "3,5"
    assert pid.environ()["CAPTIONLAB_PROCESSES"] == "2"
    wait_for(engine.finished)


def test_a_stage_that_is_not_allowed_computes_nothing(in_toy: Toy) -> None:
    engine = Local(1, Needs(), [])
    engine.run("download@d", "repro", "-s", "download@d", CAPTIONLAB_ONLY="train@a,train@b")
    ended: list[str] = []
    wait_for(lambda: ended.extend(one.said for one in engine.finished()) or ended)
    assert ended == [
        "CAPTIONLAB_ONLY does not allow download@d, and DVC's run cache holds no such run: unset "
        "it to compute, or fetch the run cache (dvc pull --run-cache)"
    ]
    assert in_toy.begun() == []
    assert os.environ.get("CAPTIONLAB_ONLY") is None

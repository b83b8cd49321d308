"""`captionlab caption FOLDER --out FILE`: the file has one line for every image, however often the
run was interrupted."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from pipeline.captioner import folder
from pipeline.captioner.captioner import GREEDY, Captioner
from pipeline.captioner.folder import caption_into, find_images
from pipeline.core.errors import UserError
from pipeline.data.files import write_json
from tests.tracking_workspace import make_captioner

COUNT = 7


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with model/ and photos/. Of the seven pictures, one lies in a subfolder."""
    root = tmp_path_factory.mktemp("made")
    make_captioner(root / "model")
    write_json(root / "model/decode.json", GREEDY)
    (root / "photos/below").mkdir(parents=True)
    for n in range(COUNT):
        cells = np.random.default_rng(n).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        name = f"below/{n}.PNG" if n == 0 else f"{n}.png"
        Image.fromarray(cells).resize((40, 30), Image.Resampling.NEAREST).save(
            root / "photos" / name
        )
    return root


@pytest.fixture
def workspace(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def caption(captionlab):
    """A function that captions photos/ into out.jsonl. It takes extra arguments and returns the
    status and standard error."""

    def call(*extra):
        status, out, err = captionlab(
            "caption", "photos", "--model", "model", "--out", "out.jsonl", *extra
        )
        assert out == ""
        return status, err

    return call


def lines(path="out.jsonl"):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def same(ours, theirs):
    assert [(r["file"], r["caption"], r["made_by"]) for r in ours] == [
        (r["file"], r["caption"], r["made_by"]) for r in theirs
    ]
    assert [r["log_prob"] for r in ours] == pytest.approx([r["log_prob"] for r in theirs], abs=1e-4)


def test_every_image_of_a_folder_has_the_line_that_the_captioner_gives_it(workspace, caption):
    (workspace / "photos/.hidden.png").write_bytes(b"x")
    (workspace / "photos/notes.txt").write_text("no picture")
    assert caption("--beam", "2") == (
        0,
        "out.jsonl: 7 of 7 images captioned, 0 broken\n",
    )
    found = lines()
    files = [*(f"photos/{n}.png" for n in range(1, COUNT)), "photos/below/0.PNG"]
    assert [row["file"] for row in found] == files
    theirs = Captioner.load(Path("model")).caption([Path(file) for file in files], beam=2)
    assert [row["caption"] for row in found] == [c.text for c in theirs]
    assert [row["log_prob"] for row in found] == pytest.approx(
        [c.log_prob for c in theirs], abs=1e-4
    )
    assert [[a["text"] for a in row["alternatives"]] for row in found] == [
        [one.text for one in c.alternatives] for c in theirs
    ]
    assert {(row["model"], row["made_by"]) for row in found} == {("model", found[0]["made_by"])}
    assert sorted(os.listdir()) == ["model", "out.jsonl", "photos"]


def test_what_a_folder_was_captioned_with_can_be_scored(workspace, caption, captionlab):
    """An unreadable picture gets a line without a caption, so its image has no prediction."""
    Path("photos/3.png").write_bytes(b"no picture")
    assert caption()[0] == 0
    said = {Path(row["file"]).stem: row["caption"] for row in lines() if "caption" in row}
    Path("references.json").write_text(
        json.dumps({**dict.fromkeys(map(str, range(COUNT)), "x"), **said})
    )
    arguments = (
        "score",
        "out.jsonl",
        "references.json",
        "--protocol",
        "raw",
        "--metrics",
        "rouge_l",
    )
    told = (
        "out.jsonl: 1 of 7 images of references.json have no prediction, the first is '3': "
        "--partial scores the others, --split chooses images by a column `split`"
    )
    assert captionlab(*arguments) == (2, "", f"error: {told}\n")
    status, out, _ = captionlab(*arguments, "--partial")
    assert status == 0
    assert out.splitlines()[1].split() == ["rouge_l", "1.0000", "1.0000", "-", "1.0000", "6"]


def test_a_second_run_captions_only_what_is_new(workspace, caption, monkeypatch):
    caption()
    before = Path("out.jsonl").read_bytes()
    shutil.copy("photos/1.png", "photos/new.png")
    seen = []
    original = Captioner.caption
    monkeypatch.setattr(
        Captioner,
        "caption",
        lambda self, images, *a: seen.append(len(images)) or original(self, images, *a),
    )
    assert caption()[1] == (
        "out.jsonl: 8 of 8 images captioned, 0 broken; 7 of them were in the file already\n"
    )
    after = Path("out.jsonl").read_bytes()
    assert seen == [1]
    assert after.startswith(before)
    assert json.loads(after[len(before) :])["file"] == "photos/new.png"
    assert caption()[0] == 0
    assert Path("out.jsonl").read_bytes() == after


def test_the_same_folder_named_otherwise_is_not_captioned_twice(workspace, caption, captionlab):
    caption()
    before = Path("out.jsonl").read_bytes()
    assert (
        captionlab(
            "caption",
            workspace / "photos",
            "photos/1.png",
            "--model",
            "model",
            "--out",
            "out.jsonl",
        )[0]
        == 0
    )
    assert Path("out.jsonl").read_bytes() == before


def test_wherever_a_killed_run_ended_the_next_one_ends_with_the_same_lines(workspace, caption):
    caption()
    whole, expected = Path("out.jsonl").read_bytes(), lines()
    ends = [n + 1 for n, byte in enumerate(whole) if byte == ord("\n")]
    for cut in (0, 1, 5, ends[0] - 1, ends[0], ends[0] + 1, ends[3] + 40, ends[-1] - 1):
        Path("out.jsonl").write_bytes(whole[:cut])
        assert caption()[0] == 0
        same(lines(), expected)


def test_ctrl_c_keeps_what_is_captioned_and_says_how_to_go_on(workspace, caption, monkeypatch):
    monkeypatch.setattr(folder, "BATCH", 3)
    caption()
    expected = lines()
    Path("out.jsonl").unlink()
    original, calls = Captioner.caption, []

    def interrupted(self, *args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Captioner, "caption", interrupted)
        assert caption() == (130, "error: interrupted; run the same command again to continue\n")
    same(lines(), expected[:3])
    assert caption()[1] == (
        "out.jsonl: 7 of 7 images captioned, 0 broken; 3 of them were in the file already\n"
    )
    same(lines(), expected)


def test_broken_images_are_set_aside_with_their_reason_and_counted(workspace, caption):
    Path("photos/3.png").write_bytes(b"no picture")
    Path("photos/5.png").write_bytes(Path("photos/5.png").read_bytes()[:60])
    status, err = caption()
    assert (status, err) == (
        0,
        "out.jsonl: 5 of 7 images captioned, 2 broken\n",
    )
    broken = {row["file"]: row["error"] for row in lines() if "error" in row}
    assert broken.keys() == {"photos/3.png", "photos/5.png"}
    assert broken["photos/3.png"] == "not a picture"
    assert (
        caption()[1]
        == "out.jsonl: 5 of 7 images captioned, 2 broken; 7 of them were in the file already\n"
    )
    assert len(lines()) == COUNT


def test_a_folder_of_nothing_but_broken_images_is_an_error(workspace, caption):
    for path in find_images([Path("photos")]):
        Path(path).write_bytes(b"")
    assert caption() == (2, "error: none of the 7 images can be read: out.jsonl says why\n")


def test_a_file_of_another_model_or_decoding_is_refused_and_stays_as_it_is(
    workspace, caption, captionlab
):
    caption("--beam", "2")
    before = Path("out.jsonl").read_bytes()
    assert caption("--beam", "3") == (
        2,
        "error: out.jsonl, line 1 was made by 'model' with other weights or another decoding: "
        "name another --out, or delete the file\n",
    )
    shutil.copytree("model", "other")
    Path("other/config.json").write_text(Path("other/config.json").read_text() + "\n")
    _, _, err = captionlab(
        "caption", "photos", "--model", "other", "--out", "out.jsonl", "--beam", "2"
    )
    assert (
        err == "error: out.jsonl, line 1 was made by 'model', not 'other': name another --out, or "
        "delete the file\n"
    )
    assert Path("out.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [b"\x89PNG\r\n\x1a\n no end of line", b'{"image_id": 1}\n', b"[]\n", b'{"file": 3}\n'],
)
def test_a_file_that_is_not_ours_is_never_touched(workspace, caption, content):
    Path("out.jsonl").write_bytes(content)
    assert caption() == (
        2,
        "error: out.jsonl, line 1 is not a line written by captionlab caption: name another --out\n",
    )
    assert Path("out.jsonl").read_bytes() == content


def test_a_file_that_the_other_run_deletes_meanwhile_is_not_written(workspace, monkeypatch):
    acquire = FileLock.acquire

    def late(self, **options):
        Path("out.jsonl").unlink()
        return acquire(self, **options)

    monkeypatch.setattr(FileLock, "acquire", late)
    with pytest.raises(UserError, match=r"^out\.jsonl is being written by another run: "):
        caption_into(Path("out.jsonl"), ["photos/1.png"], None, "model", "f", None, None, 1)


def test_two_runs_into_one_file_are_one_too_many(workspace, caption):
    with FileLock(".out.jsonl.lock"):
        assert caption() == (
            2,
            "error: out.jsonl is being written by another run: wait for it, or name "
            "another --out\n",
        )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["empty", "--out", "a.jsonl"],
            "empty holds no images (.bmp, .gif, .jpeg, .jpg, .png, .tif, .tiff, .webp)",
        ),
        (
            ["nowhere", "--out", "a.jsonl"],
            "nowhere is not there: name an image, or a folder of images",
        ),
        (
            ["photos", "--out", "no/a.jsonl"],
            "no/a.jsonl (--out): there is no folder no: make it first",
        ),
        (["photos", "--out", "model"], "model (--out) is a folder: name a file"),
        (["photos", "--out", "/dev/null"], "/dev/null (--out) is no plain file: name a file"),
        (["photos"], "photos is a folder: say where its captions go, --out captions.jsonl"),
        (
            ["photos", "--out", "a.jsonl", "--beam", "2", "--samples", "2"],
            "beam and samples exclude each other: give only one",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(workspace, captionlab, arguments, line):
    Path("empty").mkdir()
    assert captionlab("caption", *arguments, "--model", "model") == (2, "", f"error: {line}\n")
    assert sorted(os.listdir()) == ["empty", "model", "photos"]


def test_a_place_where_nothing_can_be_created_is_one_line(workspace):
    out = Path("/proc/a.jsonl")
    with pytest.raises(
        UserError, match=r"^/proc/a\.jsonl \(--out\) cannot be written \(.+\): name another place$"
    ):
        caption_into(out, ["photos/1.png"], None, "model", "f", None, None, 1)


def test_large_pictures_reach_the_model_a_few_at_a_time_and_small_ones_by_the_batch(
    workspace, monkeypatch
):
    monkeypatch.setattr(folder, "BATCH_PIXELS", 3 * 40 * 30)
    monkeypatch.setattr(folder, "BATCH", 4)
    captioner, sizes = Captioner.load(Path("model")), []
    original = captioner.caption
    captioner.caption = lambda images, *a: sizes.append(len(images)) or original(images, *a)
    files = find_images([Path("photos")])
    caption_into(Path("a.jsonl"), files, captioner, "model", "f", None, None, 2)
    monkeypatch.setattr(folder, "BATCH_PIXELS", 10**9)
    caption_into(Path("b.jsonl"), files, captioner, "model", "f", None, None, 2)
    assert sizes == [3, 3, 1, 4, 3]
    same(lines("a.jsonl"), lines("b.jsonl"))


def test_a_file_name_of_bytes_that_are_no_text_comes_back_from_the_file(workspace, caption):
    strange = os.fsdecode(b"photos/\xff\xfe.png")
    shutil.copy("photos/1.png", strange)
    assert caption()[0] == 0
    assert strange in {row["file"] for row in lines()}
    assert caption()[1] == (
        "out.jsonl: 8 of 8 images captioned, 0 broken; 8 of them were in the file already\n"
    )


def test_a_named_image_that_is_broken_still_exits_2_without_out(workspace, captionlab):
    Path("photos/3.png").write_bytes(b"no picture")
    status, out, err = captionlab("caption", "photos/3.png", "photos/4.png", "--model", "model")
    assert (status, err) == (2, "error: photos/3.png: not a picture\n")
    assert [line.split("\t")[0] for line in out.splitlines()] == ["photos/4.png"]


NO_FILE = "not a regular file (a folder, pipe or device): name a picture's file"


@pytest.fixture
def impostors(workspace):
    """Paths in photos/ that have the suffix of a picture but are none, with the reason for each."""
    os.mkfifo("photos/pipe.jpg")
    os.symlink("/dev/zero", "photos/endless.png")
    with open("photos/sparse.png", "wb") as file:
        file.truncate(40 * 10**9)
    return {
        "photos/endless.png": NO_FILE,
        "photos/pipe.jpg": NO_FILE,
        "photos/sparse.png": "40,000,000,000 bytes, more than 256,000,000: scale it down",
    }


@pytest.mark.timeout(120)
def test_what_is_no_picture_is_a_line_with_its_reason_and_the_others_are_captioned(
    workspace, caption, impostors
):
    Image.new("RGB", (1, 60_000)).save("photos/long.png")
    assert caption() == (
        0,
        "out.jsonl: 8 of 11 images captioned, 3 broken\n",
    )
    assert {row["file"]: row["error"] for row in lines() if "error" in row} == impostors


@pytest.mark.timeout(120)
def test_pictures_named_one_by_one_are_captioned_beside_those_that_are_none(
    workspace, captionlab, impostors
):
    good = ["photos/1.png", "photos/2.png"]
    shutil.copy("photos/1.png", "photos/es\x1b[2Jcape\n.png")
    os.mkfifo("photos/p\x1b[1m.png")
    status, out, err = captionlab(
        "caption", good[0], *impostors, "photos/p\x1b[1m.png", "photos/es\x1b[2Jcape\n.png",
        good[1], "--model", "model",
    )  # fmt: skip
    assert status == 2
    assert [line.split("\t")[0] for line in out.splitlines()] == [
        good[0],
        "photos/es\\x1b[2Jcape\\n.png",
        good[1],
    ]
    assert err.splitlines() == [
        *(f"error: {name}: {reason}" for name, reason in impostors.items()),
        f"error: photos/p\\x1b[1m.png: {NO_FILE}",
    ]

"""A3DS is published as a pickle, and nothing in it is run.

Only arrays, numbers, strings, lists and dicts are read from it.
"""

import json
import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest

from pipeline.core import registry
from pipeline.core.errors import UserError
from pipeline.images.reading import read_image
from pipeline.sources import a3ds
from pipeline.sources.shared import base
from tests.pictures import pictures_of
from tests.releases import everything, index_of, split_of, write_zip

RAN = []


class Evil:
    """Appends to RAN if it is unpickled."""

    def __reduce__(self):
        return RAN.append, (1,)


def content(images=20, kind=np.uint8):
    """Return the release's dict with `images` random pictures."""
    rng = np.random.default_rng(0)
    return {
        "original_ids": list(range(images)),
        "images": [rng.integers(0, 256, (64, 64, 3)).astype(kind) for _ in range(images)],
        "labels_numeric": [np.array([0.5, n]) for n in range(images)],
        "labels_long": [
            [f"the picture {n} shows a big ball", f"a big ball {n}"] for n in range(images)
        ],
        "labels_short": [[f"a ball {n}"] for n in range(images)],
    }


def release(folder, data=None, member="A3DS/sandbox_3Dshapes_1000.pkl"):
    """Write A3DS.zip with a pickle in it, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pickled = data if isinstance(data, bytes) else pickle.dumps(data or content())
    write_zip(
        folder / "A3DS.zip",
        {member: pickled, "A3DS/vocab.pkl": b"x", "__MACOSX/A3DS/._" + member[5:]: b"x"},
    )
    return str(folder)


def plain(data):
    return a3ds.plain_pickle(data, "the file")


def test_images_and_the_chosen_captions_become_the_index(tmp_path):
    folder = release(tmp_path / "zips")
    a3ds.fetch(tmp_path / "raw", archives=folder, seed=3)
    index = index_of(tmp_path / "raw")
    assert list(index) == ["image_id", "caption_id", "raw", "undecodable", "split_random"]
    assert index.iloc[2].to_list()[:4] == [
        "a3ds-0001",
        "a3ds-0001#0",
        "the picture 1 shows a big ball",
        False,
    ]
    kept = pictures_of(tmp_path / "raw")
    for n, picture in enumerate(content()["images"]):
        assert np.array_equal(np.asarray(read_image(kept[f"a3ds-{n:04d}"])), picture)
    a3ds.fetch(tmp_path / "short", archives=folder, captions="short", seed=3)
    assert list(index_of(tmp_path / "short")["raw"]) == [f"a ball {n}" for n in range(20)]


def test_the_split_is_80_10_10_by_image_and_follows_the_seed(tmp_path):
    folder = release(tmp_path / "zips")
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        a3ds.fetch(tmp_path / name, archives=folder, seed=seed)
    one, three = split_of(tmp_path / "one", "random"), split_of(tmp_path / "three", "random")
    assert sorted(one.values()) == ["test"] * 2 + ["train"] * 16 + ["val"] * 2
    assert everything(tmp_path / "one") == everything(tmp_path / "two")
    assert one != three
    assert one == base.random_split(one, 0.1, 0.1, 1)


def test_equal_pictures_are_in_one_split(tmp_path):
    data = content(40)
    data["images"][20:] = data["images"][:20]
    a3ds.fetch(tmp_path / "raw", archives=release(tmp_path / "zips", data))
    splits = split_of(tmp_path / "raw", "random")
    assert sorted(splits.values()) == ["test"] * 4 + ["train"] * 32 + ["val"] * 4
    assert all(splits[f"a3ds-{n:04d}"] == splits[f"a3ds-{20 + n:04d}"] for n in range(20))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", "<f4", ">i8", "?", "<U3", "S2"])
def test_plain_arrays_come_out_as_numpy_would_give_them(protocol, order, dtype):
    array = np.asarray(np.arange(24).reshape(2, 3, 4) % 5, dtype=dtype, order=order)
    value = {
        "a": [array, array[0], np.zeros((0, 3), dtype), (1, 2.5, None, True)],
        "b": "é",
        "c": array.flat[7],
    }
    ours, theirs = plain(pickle.dumps(value, protocol)), pickle.loads(pickle.dumps(value, protocol))
    for mine, other in zip(ours["a"][:3], theirs["a"][:3], strict=True):
        assert (mine.dtype.newbyteorder("="), mine.shape) == (
            other.dtype.newbyteorder("="),
            other.shape,
        )
        assert np.array_equal(mine, other)
    assert ours["a"][3] == [1, 2.5, None, True]
    assert (ours["b"], ours["c"]) == ("é", theirs["c"].item())


def test_pickles_of_numpy_1_are_read():
    data = pickle.dumps(np.arange(3), 3)
    assert b"numpy._core" in data
    assert list(plain(data.replace(b"numpy._core", b"numpy.core"))) == [0, 1, 2]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Evil(), r"holds builtins\.getattr|holds __builtin__\.getattr"),
        (OrderedDict(), r"holds collections\.OrderedDict"),
        (exec, r"holds (builtins|__builtin__)\.exec"),
        (np.array([RAN, "x"], dtype=object), r"holds an array of dtype 'O8'"),
        (np.array([Evil()], dtype=object), r"holds an array of dtype 'O8'"),
        (np.zeros(2, [("a", "i4"), ("b", "O")]), r"holds an array of dtype 'V12'"),
        (np.zeros(2, "M8[s]"), r"holds an array of dtype 'M8'"),
        (np.ma.zeros(2), r"holds numpy\.ma"),
        ({"a": np.ndarray}, r"holds a type"),
    ],
)
def test_another_class_is_refused_by_its_name_and_not_run(protocol, value, name):
    with pytest.raises(UserError, match=name) as error:
        plain(pickle.dumps([value], protocol))
    assert str(error.value).startswith("the file holds ")
    assert str(error.value).endswith(
        "where only arrays, numbers, strings, lists and dicts may be; do not trust this file"
    )
    assert RAN == []


def test_objects_smuggled_as_the_state_of_a_plain_array_are_refused():
    number, text = b"J\xff\xff\xff\xff", b"X\x01\x00\x00\x00|"
    hidden = (
        b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00u1\x89\x88\x87R(K\x03"
        + text
        + b"N%sN"
        + 2 * number
        + b"K\x00tb."
    )
    names = b"X\x01\x00\x00\x00a\x85"
    assert isinstance(pickle.loads(hidden.replace(b"%s", b"N")), np.dtype)
    with pytest.raises(UserError, match="holds an array of structures"):
        plain(hidden.replace(b"%s", names))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"Psome id\n.", "the opcode PERSID"),
        (b"\x80\x02X\x01\x00\x00\x00aQ.", "the opcode BINPERSID"),
        (b"\x80\x02\x82\x01.", "the opcode EXT1"),
        (b"\x80\x02\x83\x01\x00.", "the opcode EXT2"),
        (b"\x80\x02\x84\x01\x00\x00\x00.", "the opcode EXT4"),
        (b"\x80\x05\x97.", "the opcode NEXT_BUFFER"),
        (b"(ios\nsystem\n.", "os.system"),
        (b"(cos\nsystem\nX\x04\x00\x00\x00trueo.", "os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", "numpy.ndarray.tofile"),
        (
            b"\x80\x02cnumpy\ndtype\n)\x81}X\x05\x00\x00\x00dtypeX\x01\x00\x00\x00Osb.",
            "a state for|not a pickle",
        ),
        (
            b"\x80\x02cnumpy._core.multiarray\n_reconstruct\n}X\x01\x00\x00\x00aK\x01sb.",
            "not a pickle of plain values",
        ),
        (
            b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.",
            "bytes in 'hex'",
        ),
        (b"\x80\x02Nr" + struct.pack("<I", 1 << 27) + b".", "the memo index 134217728"),
    ],
)
def test_what_reaches_outside_the_pickle_is_refused(data, what):
    with pytest.raises(UserError, match=what):
        plain(data)


def test_an_extension_that_python_has_cached_is_refused():
    import copyreg

    copyreg.add_extension("collections", "OrderedDict", 200)
    try:
        data = pickle.dumps(OrderedDict, 2)
        assert pickle.loads(data) is OrderedDict
        with pytest.raises(UserError, match="the opcode EXT1"):
            plain(data)
    finally:
        copyreg.remove_extension("collections", "OrderedDict", 200)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04.",
        b"<html>",
        pickle.dumps(list(range(99)))[:-3],
        b"\x80\x02B\xff\xff\xff\x7fab.",
    ],
)
def test_a_damaged_pickle_is_one_line(data):
    with pytest.raises(UserError, match=r"^the file is not a pickle of plain values") as error:
        plain(data)
    assert "\n" not in str(error.value)


def test_bytes_that_do_not_fit_their_shape_are_refused():
    data = pickle.dumps(np.arange(3, dtype="u1"), 3)
    assert data.count(b"K\x03\x85") == 1
    with pytest.raises(UserError, match="an array's bytes do not fit its shape and dtype"):
        plain(data.replace(b"K\x03\x85", b"K\xff\x85"))


def test_lists_that_share_and_hold_themselves_end():
    value = ["x"]
    for _ in range(60):
        value = [value, value]
    found = plain(pickle.dumps(value))
    assert found[0] is found[1]
    loop = []
    loop.append(loop)
    assert plain(pickle.dumps(loop)) == [None]


def changed(**changes):
    return {key: value for key, value in {**content(), **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1, 2], "0 images and 0 labels_long: it is not what was published"),
        (changed(labels_long=None), "20 images and 0 labels_long: it is not what was published"),
        (changed(labels_long=[["a"]]), "20 images and 1 labels_long"),
        (changed(images=[], labels_long=[]), "0 images and 0 labels_long"),
        (changed(labels_long=[["a"]] * 19 + [[3]]), r"labels_long\[19\] is not a list of strings"),
        (changed(labels_long=[["a"]] * 19 + [[]]), r"labels_long\[19\] is not a list of strings"),
        (changed(labels_long="x" * 20), "20 images and 0 labels_long"),
        (
            changed(images=[np.zeros((64, 64))] * 20),
            r"images\[0\] is not a picture with height, width and 3 colours: \(64, 64\)",
        ),
        (
            changed(images=[np.full((4, 4, 3), 0.5)] * 20),
            r"images\[0\] holds values other than the whole numbers 0 to 255",
        ),
        (changed(images=[np.full((4, 4, 3), 256)] * 20), r"images\[0\] holds values other than"),
        (changed(images=7), "0 images and 20 labels_long"),
        (changed(extra=Evil()), "holds builtins.getattr, where only arrays"),
    ],
)
def test_a_release_that_is_none_is_one_line_and_leaves_nothing(tmp_path, data, message):
    with pytest.raises(UserError, match=message) as error:
        a3ds.fetch(tmp_path / "raw", archives=release(tmp_path / "zips", data))
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["zips"]
    assert RAN == []


@pytest.mark.parametrize("kind", [np.int64, np.float64, np.uint8])
def test_pictures_of_any_number_type_are_the_same_pictures(tmp_path, kind):
    a3ds.fetch(tmp_path / "raw", archives=release(tmp_path / "zips", content(kind=kind)))
    picture = np.asarray(read_image(pictures_of(tmp_path / "raw")["a3ds-0007"]))
    assert np.array_equal(picture, content()["images"][7])


def test_one_array_of_all_images_will_do(tmp_path):
    a3ds.fetch(
        tmp_path / "raw",
        archives=release(tmp_path / "zips", changed(images=np.stack(content()["images"]))),
    )
    assert len(pictures_of(tmp_path / "raw")) == 20


def test_captions_that_utf8_cannot_hold_are_kept_and_marked(tmp_path):
    folder = release(tmp_path / "zips", changed(labels_long=[["caf\udce9"]] * 20))
    a3ds.fetch(tmp_path / "raw", archives=folder)
    assert index_of(tmp_path / "raw").iloc[0][["raw", "undecodable"]].to_list() == [
        "caf\\xe9",
        True,
    ]


def test_the_archive_is_downloaded_and_must_hold_the_pickle(server, tmp_path, monkeypatch):
    release(tmp_path / "served")
    monkeypatch.setattr(a3ds, "RELEASE", base.Archive("A3DS.zip", "", (server.url,)))
    server.files["/A3DS.zip"] = b"<html>"
    with pytest.raises(
        UserError,
        match=r"A3DS.zip: not a whole zip archive; or name a folder that holds it in "
        r"CAPTIONLAB_A3DS",
    ):
        a3ds.fetch(tmp_path / "raw/a")
    server.files["/A3DS.zip"] = (tmp_path / "served/A3DS.zip").read_bytes()
    a3ds.fetch(tmp_path / "raw/a")
    assert json.loads((tmp_path / "raw/a/manifest.json").read_text())["source"] == "a3ds"
    with pytest.raises(
        UserError,
        match=r"holds no sandbox_3Dshapes_1000.pkl: it is not the archive that was published",
    ):
        a3ds.fetch(
            tmp_path / "raw/b", archives=release(tmp_path / "other", member="A3DS/other.pkl")
        )


def test_params_may_say_long_or_short_only():
    registry.check_args(a3ds.fetch, {"captions": "short"}, "datasets.a3ds.args")
    with pytest.raises(UserError, match=r"datasets.a3ds.args.captions: .*'long' or 'short'"):
        registry.check_args(a3ds.fetch, {"captions": "middle"}, "datasets.a3ds.args")


def test_no_stand_in_is_a_name_of_numpy():
    for name in a3ds.STAND_INS.values():
        assert name.__module__ == a3ds.__name__

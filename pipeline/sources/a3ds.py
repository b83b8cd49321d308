"""A3DS: 1,000 rendered scenes of 3D Shapes, 64 x 64 pixels, 20 long and 27 short captions each
(Tsvilodub and Franke, "Evaluating pragmatic abilities of image captioners on A3DS", ACL 2023).

Split scheme `random`: 80/10/10 per cent of the images, drawn by `seed`; equal pictures are drawn as
one, so that they are in one split. The authors publish no split.

The release is a pickle, and unpickling normally runs code that the file names. Here nothing of
numpy or Python is looked up for the file. The few names that a pickle of arrays needs stand for
inert classes of this module, and arrays are built from their bytes.
"""

import hashlib
import io
import math
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from pipeline.core.errors import UserError, one_line
from pipeline.core.ranges import Seed
from pipeline.data.files import whole_folder
from pipeline.sources.shared import base

RELEASE = base.Archive(
    "A3DS.zip",
    "",
    (
        "https://github.com/michael-franke/npNLG/raw/main/neural_pragmatic_nlg/data/A3DS/",
        "https://raw.githubusercontent.com/michael-franke/npNLG/main/"
        "neural_pragmatic_nlg/data/A3DS/",
    ),
)
MEMBER = "sandbox_3Dshapes_1000.pkl"
# The bytes are those of 64 x 64 pictures as arrays. The archive contains these, zipped, and texts.
IMAGES, DOWNLOAD_BYTES = 1_000, 12_288_000
# Share of the images in test, and in val.
HELD_OUT = 0.1
# Accepted dtypes of arrays: booleans, numbers, strings.
PLAIN = re.compile(r"b1|[iuf][1248]|[SU]\d+")


def fetch(
    folder: Path, *, archives: str = "", captions: Literal["long", "short"] = "long", seed: Seed = 1
) -> None:
    """Fill `folder` from the public release.

    Args:
        archives: a local folder that contains A3DS.zip; if it is empty, the archive is downloaded.
            CAPTIONLAB_A3DS takes precedence.
        captions: `long` describes the whole scene, `short` leaves features out.
        seed: random seed of the split.

    Raises:
        UserError: the archive is missing, broken or unsafe; its pickle contains anything but
            arrays, numbers, strings, lists and dicts; it lacks the published images and captions.
    """
    with (
        base.find_archives(folder, "a3ds", [RELEASE], archives) as found,
        whole_folder(folder) as part,
    ):
        path = found[RELEASE.name]
        members = [name for name in base.names(path) if Path(name).name == MEMBER]
        if not members:
            raise UserError(f"{path} holds no {MEMBER}: it is not the archive that was published")
        where = f"{path}/{members[0]}"
        pictures, texts = _published(
            plain_pickle(base.read_member(path, members[0]), where), captions, where
        )
        rows, digests = [], {}
        with base.ShardWriter(part) as shards:
            for index, (picture, of_picture) in enumerate(zip(pictures, texts, strict=True)):
                name, png = f"a3ds-{index:04d}", io.BytesIO()
                Image.fromarray(picture).save(png, "PNG", compress_level=4)
                shards.add(name, png.getvalue(), ".png")
                digests[name] = hashlib.md5(png.getvalue()).hexdigest()
                rows += [base.make_row(name, n, text) for n, text in enumerate(of_picture)]
        split_of = base.random_split_of_pictures(digests, HELD_OUT, HELD_OUT, seed)
        base.write_index(
            part, rows, {"random": split_of}, {"source": "a3ds", "archives": base.md5s(found)}
        )


def size(*, archives: str = "", captions: str = "long", seed: int = 1) -> base.Size:
    return base.released_size("a3ds", IMAGES, DOWNLOAD_BYTES, archives)


def _published(
    content: object, captions: str, where: str
) -> tuple[list[np.ndarray], list[list[str]]]:
    """Return the pictures, (H, W, 3) uint8, and the captions of each."""
    key = f"labels_{captions}"
    found = [content.get(name) if isinstance(content, dict) else None for name in ("images", key)]
    pictures, texts = (
        list(values) if isinstance(values, list | np.ndarray) else [] for values in found
    )
    if not pictures or len(pictures) != len(texts):
        raise UserError(
            f"{where}: {len(pictures)} images and {len(texts)} {key}: it is not what was published"
        )
    for index, (picture, of_picture) in enumerate(zip(pictures, texts, strict=True)):
        of_picture = of_picture.tolist() if isinstance(of_picture, np.ndarray) else of_picture
        if (
            not isinstance(of_picture, list)
            or not all(isinstance(text, str) for text in of_picture)
            or not of_picture
        ):
            raise UserError(
                f"{where}: {key}[{index}] is not a list of strings: it is not what was published"
            )
        texts[index] = of_picture
        pictures[index] = _picture(picture, f"{where}: images[{index}]")
    return pictures, texts


def _picture(values: object, where: str) -> np.ndarray:
    picture = np.asarray(values)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype.kind not in "iuf":
        raise UserError(
            f"{where} is not a picture with height, width and 3 colours: "
            f"{picture.shape} {picture.dtype}"
        )
    if not ((picture >= 0) & (picture <= 255) & (picture == np.rint(picture))).all():
        raise UserError(f"{where} holds values other than the whole numbers 0 to 255")
    return np.ascontiguousarray(picture, dtype=np.uint8)


def plain_pickle(data: bytes, where: str) -> Any:
    """Return the content of a pickle of arrays, numbers, strings, lists and dicts, without running
    it.

    Raises:
        UserError: the pickle names another class or function, uses persistent ids or extension
            codes, or is damaged.
    """
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in FORBIDDEN:
                raise _forbidden(f"the opcode {opcode.name}")
            if "PUT" in opcode.name and int(argument or 0) > len(data):  # would take up memory
                raise _forbidden(f"the memo index {argument}")
        return _resolve(_Unpickler(io.BytesIO(data)).load(), {})
    except UserError as error:
        raise UserError(f"{where} {error}; do not trust this file") from None
    except Exception as error:  # a damaged pickle fails in many ways
        raise UserError(
            f"{where} is not a pickle of plain values ({type(error).__name__}: {one_line(error)})"
        ) from None


# Opcodes that reach outside the pickle. EXT takes what Python has cached, without calling
# find_class.
FORBIDDEN = {"PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}


def _forbidden(what: str) -> UserError:
    return UserError(f"holds {what}, where only arrays, numbers, strings, lists and dicts may be")


class _Inert:
    """Stands for a name in the pickle. It can be called as the original would be, and keeps only
    plain values."""

    def __setstate__(self, state: object) -> None:
        raise _forbidden(f"a state for {type(self).__name__}")


class _Bytes(_Inert):
    """Stands for `_codecs.encode`, which protocols below 3 write for bytes."""

    def __new__(cls, text: str, encoding: str) -> Any:
        if encoding != "latin1":
            raise _forbidden(f"bytes in {encoding!r}")
        return text.encode("latin1")


class _NoBytes(_Inert):
    """Stands for `bytes`, which protocols below 3 write for an empty string of bytes."""

    def __new__(cls) -> Any:
        return b""


class _Type(_Inert):
    """Stands for `numpy.dtype`; refuses objects, structures and subarrays."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if not isinstance(code, str) or not PLAIN.fullmatch(code):
            raise _forbidden(f"an array of dtype {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        _, order, subarray, names, fields, *_ = state
        if (subarray, names, fields) != (None, None, None):
            raise _forbidden("an array of structures")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(_Inert):
    """Stands for `numpy.ndarray`."""

    value: np.ndarray

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        self.value = _array(data, kind, shape, "F" if fortran else "C")


class _Empty(_Inert):
    """Stands for `numpy.core.multiarray._reconstruct`, which makes an array whose state comes
    next."""

    def __new__(cls, subtype: object, shape: object, kind: object) -> Any:
        if subtype is not _Array:
            raise _forbidden(f"an array of class {subtype!r}")
        return _Array()


class _Buffer(_Inert):
    """Stands for `numpy.core.numeric._frombuffer`, which protocol 5 writes for arrays."""

    def __new__(cls, data: bytes, kind: Any, shape: Any, order: Any, axes: None = None) -> Any:
        if axes is not None:
            raise _forbidden("an array with permuted axes")
        array = _Array()
        array.value = _array(data, kind, shape, order)
        return array


class _Scalar(_Inert):
    """Stands for `numpy.core.multiarray.scalar`; gives a Python number or string."""

    def __new__(cls, kind: Any, data: bytes) -> Any:
        return _array(data, kind, (), "C").item()


def _array(data: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    dtype = kind.dtype if isinstance(kind, _Type) else None
    if (
        dtype is None
        or not isinstance(data, bytes | bytearray)
        or len(data) != math.prod(shape) * dtype.itemsize
    ):
        raise ValueError("an array's bytes do not fit its shape and dtype")
    return np.ndarray(shape, dtype, bytes(data), order=order)


STAND_INS: dict[tuple[str, str], type[_Inert]] = {
    ("_codecs", "encode"): _Bytes,
    ("__builtin__", "bytes"): _NoBytes,
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Empty for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Buffer for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise _forbidden(f"{module}.{name}")
        return STAND_INS[module, name]


def _resolve(value: Any, seen: dict[int, Any]) -> Any:
    """Return the value with arrays in place of their stand-ins.

    An object that is referred to twice is visited once.
    """
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = None  # for a list that contains itself
    if isinstance(value, dict):
        made: Any = {key: _resolve(item, seen) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        made = [_resolve(item, seen) for item in value]
    elif isinstance(value, _Array):
        made = value.value
    elif isinstance(value, str | bytes | int | float | None):
        made = value
    else:
        raise _forbidden(f"a {type(value).__name__}")
    seen[id(value)] = made
    return made

"""Files that are pictures, or pretend to be."""

import os
import random
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.torture.damage import bytes_of

KINDS = [
    *[(mode, "PNG") for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")],
    *[(mode, "JPEG") for mode in ("RGB", "L", "CMYK")],
    *[(mode, "TIFF") for mode in ("RGB", "RGBA", "L", "CMYK", "LAB", "I", "F", "I;16", "1")],
    *[(mode, "WEBP") for mode in ("RGB", "RGBA")],
    *[
        ("P", "GIF"),
        ("RGB", "BMP"),
        ("RGB", "PPM"),
        ("RGBA", "ICO"),
        ("RGB", "TGA"),
        ("RGB", "JPEG2000"),
    ],
    *[
        ("RGB", "PDF"),
        ("RGB", "EPS"),
        ("RGB", "MPO"),
        ("RGBA", "DDS"),
        ("RGB", "PCX"),
        ("L", "SGI"),
    ],
]
SIZES = [(1, 1), (1, 3000), (3000, 1), (2, 2), (64, 64), (333, 20), (7, 4000), (2500, 2000)]
NAMES = [
    *("p.png", "p.jpg", "p.JPEG", "p.gif", "p.tiff", "p.webp", "p.bmp", "p", "p.txt", "p.png.jpg"),
    *(
        "p\n.png",
        "p\x1b[2J.png",
        "-p.png",
        "p \u202e.png",
        "\u00e9.png",
        'p,".png',
        "x" * 200 + ".png",
    ),
    *("p\udcff.png", "a\tb.jpg", "#.png", "'.png"),
]


def encoded(rng: random.Random) -> tuple[str, bytes]:
    """Return a picture of a random mode, format and size."""
    mode, form = rng.choice(KINDS)
    width, height = rng.choice(SIZES)
    if mode in ("I;16", "F", "I"):
        kind = {"I;16": np.uint16, "F": np.float32, "I": np.int32}[mode]
        values = np.full((height, width), rng.choice([0, 0.5, 1, 255, 65535]), kind)
        if mode == "F":
            values[0, 0] = rng.choice([np.nan, np.inf, -np.inf, 1e38])
        image = Image.fromarray(values)
    else:
        image = Image.effect_noise((width, height), 80).convert(
            "RGB" if mode in ("P", "CMYK", "LAB") else mode
        )
        image = (
            image.convert(mode)
            if mode != "LAB"
            else Image.frombytes("LAB", image.size, image.tobytes())
        )
    out = BytesIO()
    extra = (
        {"exif": rng.randbytes(rng.randrange(60_000))}
        if form in ("JPEG", "WEBP", "PNG") and rng.random() < 0.3
        else {}
    )
    try:
        image.save(out, form, **extra)
    except (OSError, ValueError, KeyError, struct.error):
        image.convert("RGB").save(out, "PNG")
        form = "PNG"
    return f"{form} {mode} {width}x{height}{' odd EXIF' * bool(extra)}", out.getvalue()


def bomb(rng: random.Random) -> bytes:
    """Return a small PNG whose header declares very many pixels. It may even contain them."""
    side = rng.choice([8_000, 30_000, 2**31 - 1])
    head = struct.pack(">IIBBBBB", side, side, rng.choice([1, 8, 16]), 0, 0, 0, 0)

    def chunk(name: bytes, data: bytes) -> bytes:
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    body = zlib.compress(bytes(1_000_000 if side > 8_000 else 8_001 * 8_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def animation(rng: random.Random) -> bytes:
    """Return a GIF, WebP or TIFF of hundreds of frames."""
    out = BytesIO()
    first, *rest = [Image.new("L", (20, 20), n % 255) for n in range(300)]
    first.save(out, rng.choice(["GIF", "WEBP", "TIFF"]), save_all=True, append_images=rest)
    return out.getvalue()


IMPOSTORS = [
    b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    b"<!DOCTYPE html><title>404</title>",
    b"%PDF-1.4\n",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    b"\xff\xd8\xff",
    b"GIF89a",
    b"BM",
    b"II*\x00\x08\x00\x00\x00\xff\xff",
    b"RIFF\xff\xff\xff\xffWEBPVP8 ",
    b"P6 99999999 99999999 255\n",
    b"\x00" * 4096,
    b"",
]


def put(rng: random.Random, file: Path) -> str:
    """Put something hostile at `file`, or under another name in its folder. Return what it is."""
    specials: dict[str, Callable[[], object]] = {
        "a FIFO": lambda: os.mkfifo(file),
        "a link to itself": lambda: file.symlink_to(file.name),
        "a link to nowhere": lambda: file.symlink_to("/nowhere/x.png"),
        "a link to /dev/zero": lambda: file.symlink_to("/dev/zero"),
        "a link to a text": lambda: file.symlink_to("/etc/passwd"),
        "a folder": lambda: file.mkdir(),
        "a terabyte without content": lambda: os.truncate(_touched(file), 2**40),
        "a hundred MB of zeros": lambda: os.truncate(_touched(file), 10**8),
        "unreadable": lambda: _touched(file).chmod(0),
    }
    kind = rng.choice(
        ["picture"] * 5
        + ["damaged"] * 9
        + ["bomb", "animation", "impostor", "special", "special", "special"]
    )
    if kind == "special":
        what = rng.choice(list(specials))
        specials[what]()
        return what
    if kind in ("picture", "damaged"):
        what, data = encoded(rng)
        if kind == "damaged":
            how, data = bytes_of(rng, data)
            what += f", {how}"
    else:
        data = {"bomb": bomb, "animation": animation}.get(kind, lambda rng: rng.choice(IMPOSTORS))(
            rng
        )
        what = kind
    file.write_bytes(data)
    return what


def _touched(file: Path) -> Path:
    file.touch()
    return file

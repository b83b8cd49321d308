"""Drawn scenes: one to three coloured shapes, their spatial relations, and five references each.
Needs no download.

Split scheme `official`: of every eight images six are train, one is val and one is test. Each of
the 49 combinations of colour and shape belongs to one split. `val` and `test` hold out seven each:
every colour and every shape is seen in training, but no held-out pair is. Each picture of val and
test shows a pair held out for it; its other objects are from training. Some ordered pairs of shapes
(`a star above a heart`) also appear in test only. Every reference names colour and shape of all
objects, so no caption can occur in two splits.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw

from pipeline.core.errors import UserError
from pipeline.core.ranges import Pixels, Positive, Seed
from pipeline.data.files import whole_folder
from pipeline.sources.shared import base

COLOURS = {
    "red": (214, 30, 38),
    "orange": (247, 140, 20),
    "yellow": (250, 220, 40),
    "green": (30, 150, 60),
    "blue": (30, 80, 210),
    "purple": (128, 40, 160),
    "pink": (250, 130, 190),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "diamond")
PLURALS = {"cross": "crosses"}
# Diameter as a share of the picture's side.
SIZES = {"big": 0.42, "small": 0.27}
TEXTURES = ("plain", "striped", "dotted")
GROUNDS = {
    "white": (245, 245, 242),
    "grey": (150, 152, 155),
    "black": (25, 25, 28),
    "brown": (110, 75, 45),
}
SYNONYMS = {"big": ("big", "big", "large"), "small": ("small", "small", "little")}
RELATIONS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
COUNTS = {2: "two", 3: "three"}
REFERENCES = 5
# Splits of every eight images, in order.
CYCLE = ("train", "train", "train", "val", "train", "train", "train", "test")
# Bytes per pixel, measured on 2,400 pictures of 128 x 128.
PNG_BYTES = 0.14
SUPERSAMPLING = 3


@dataclass(frozen=True)
class Group:
    """`count` equal objects."""

    colour: str
    shape: str
    size: str
    texture: str
    count: int = 1


@dataclass(frozen=True)
class Scene:
    """A scene of one to three groups.

    `groups[0]` is in the relation `relation` to `groups[1]`; a third group is in the relation
    `third` to both.
    """

    groups: tuple[Group, ...]
    relation: str
    third: str
    ground: str


def fetch(folder: Path, *, images: Positive, size: Pixels, seed: Seed) -> None:
    """Draw `images` pictures of `size` x `size` pixels; equal arguments give equal bytes.

    Raises:
        UserError: there are so few images that a split would be empty, or they are so small that
            shapes cannot be told apart.
    """
    from tqdm import tqdm

    if images < len(CYCLE) or size < 64:
        raise UserError(
            f"scenes: images: {images}, size: {size}: give at least 8 images of 64 pixels"
        )
    rows, split_of = [], {}
    with whole_folder(folder) as part, base.ShardWriter(part) as pictures:
        for index in tqdm(range(images), desc="drawing scenes", unit=" images", disable=None):
            rng = random.Random(f"{seed} {index}")
            name, split = f"scene-{index:05d}", CYCLE[index % len(CYCLE)]
            scene = compose(rng, split)
            png = BytesIO()
            draw(rng, scene, size).save(png, "PNG", compress_level=4)
            pictures.add(name, png.getvalue(), ".png")
            rows += [base.Row(name, n, text) for n, text in enumerate(describe(rng, scene))]
            split_of[name] = split
        base.write_index(part, rows, {"official": split_of}, {"source": "scenes", "archives": {}})


def size(*, images: int, size: int, seed: int) -> base.Size:
    return base.Size(images, int(images * size**2 * PNG_BYTES), 0)


def home(colour: str, shape: str) -> str:
    """Return the split that a pair of colour and shape belongs to.

    The pairs form a Latin square, so each split has every colour and every shape.
    """
    return {0: "val", 3: "test"}.get(
        (list(COLOURS).index(colour) + SHAPES.index(shape)) % 7, "train"
    )


def reserved(first: str, relation: str, second: str) -> bool:
    """Return whether this order of two shapes is kept for test; about one order in seven is.

    The first shape is left of the second, or above it.
    """
    return (3 * SHAPES.index(first) + SHAPES.index(second) + 2 * (relation == "above")) % 7 == 0


def compose(rng: random.Random, split: str) -> Scene:
    """Return a random scene that a picture of `split` may show."""
    while True:
        counts = rng.choice(
            ((1,), (1, 1), (1, 1), (1, 1), (1, 1), (2,), (3,), (2, 1), (1, 2), (1, 1, 1), (1, 1, 1))
        )
        focus = rng.randrange(len(counts))
        groups = tuple(
            _group(rng, split if at == focus else "train", count, len(counts))
            for at, count in enumerate(counts)
        )
        relation = rng.choice(("left", "above"))
        third = rng.choice(("above", "below") if relation == "left" else ("left", "right"))
        scene = Scene(groups, relation, third, rng.choice(list(GROUNDS)))
        distinct = len({(g.colour, g.shape) for g in groups}) == len(groups)
        if distinct and (split == "test" or not any(reserved(*order) for order in orders(scene))):
            return scene


def _group(rng: random.Random, palette: str, count: int, groups: int) -> Group:
    pairs = [(c, s) for c in COLOURS for s in SHAPES if home(c, s) == palette]
    colour, shape = rng.choice(pairs)
    size = "small" if count == 3 or (count == 2 and groups == 2) else rng.choice(list(SIZES))
    return Group(colour, shape, size, rng.choice(TEXTURES), count)


def orders(scene: Scene) -> list[tuple[str, str, str]]:
    """Return (first shape, `left` or `above`, second shape) for every two groups that a reference
    relates."""
    shapes = [group.shape for group in scene.groups]
    out = [(shapes[0], scene.relation, shapes[1])] if len(shapes) > 1 else []
    for shape in shapes[:2] if len(shapes) > 2 else []:
        pair = (shapes[2], shape) if scene.third in ("left", "above") else (shape, shapes[2])
        out.append((pair[0], "left" if scene.third in ("left", "right") else "above", pair[1]))
    return out


def describe(rng: random.Random, scene: Scene) -> list[str]:
    """Return five different references."""
    texts: dict[str, None] = {}
    while len(texts) < REFERENCES:
        texts[_sentence(rng, scene)] = None
    return list(texts)


def _sentence(rng: random.Random, scene: Scene) -> str:
    first, *others = (_phrase(rng, group, tails=len(scene.groups) < 3) for group in scene.groups)
    verb = "is" if scene.groups[0].count == 1 else "are"
    relation = scene.relation
    if len(others) == 1 and rng.random() < 0.2:
        first, others, relation = others[0], [first], OPPOSITE[relation]
        verb = "is" if scene.groups[1].count == 1 else "are"
    lead, link = rng.choice((("", f" {verb} "), ("", " "), (f"there {verb} ", " ")))
    ground = rng.choice((f" on a {scene.ground} background", f" on {scene.ground}", ""))
    if not others:
        lead = rng.choice(("", f"there {verb} ", "a picture of "))
        return f"{lead}{first}{_arrangement(scene)}{ground}"
    text = f"{lead}{first}{link}{rng.choice(RELATIONS[relation])} {others[0]}"
    if len(others) == 2:
        text += (
            f" and {others[1]} {rng.choice(RELATIONS[scene.third])} {rng.choice(('them', 'both'))}"
        )
    return text + ground


def _arrangement(scene: Scene) -> str:
    if scene.groups[0].count == 1:
        return ""
    if scene.groups[0].count == 3:
        return " in a row" if scene.relation == "left" else " in a column"
    return " side by side" if scene.relation == "left" else " one above the other"


def _phrase(rng: random.Random, group: Group, tails: bool) -> str:
    """Return a noun phrase, e.g. `an orange star`, `two little striped red circles` or, with tails,
    `a big blue heart with dots`."""
    words, tail = (
        [
            group.colour,
            PLURALS.get(group.shape, group.shape + "s") if group.count > 1 else group.shape,
        ],
        "",
    )
    if group.texture != "plain":
        if not tails or rng.random() < 0.75:
            words.insert(0, group.texture)
        else:
            tail = {"striped": " with stripes", "dotted": " with dots"}[group.texture]
    if rng.random() < 0.8:
        words.insert(0, rng.choice(SYNONYMS[group.size]))
    determiner = COUNTS[group.count] if group.count > 1 else "an" if words[0][0] in "aeiou" else "a"
    return " ".join([determiner, *words]) + tail


def draw(rng: random.Random, scene: Scene, size: int) -> Image.Image:
    """Draw the picture, `size` x `size`. It is drawn larger and then reduced, for smooth edges."""
    side = size * SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), _shade(rng, GROUNDS[scene.ground], 8))
    for group, places in zip(scene.groups, _places(scene), strict=True):
        for x, y in places:
            diameter = int(side * SIZES[group.size] * rng.uniform(0.92, 1.08))
            sticker, mask = _sticker(rng, group, diameter)
            jitter = 0.03 if len(places) == 1 else 0.01
            left = int(side * (x + rng.uniform(-jitter, jitter)) - diameter / 2)
            top = int(side * (y + rng.uniform(-jitter, jitter)) - diameter / 2)
            canvas.paste(sticker, (left, top), mask)
    return canvas.reduce(SUPERSAMPLING)


def _places(scene: Scene) -> list[list[tuple[float, float]]]:
    """Return the centres of the objects of each group, as shares of the side; x to the right, y
    down."""
    if len(scene.groups) == 1:
        spread = {1: (0.5,), 2: (0.27, 0.73), 3: (0.18, 0.5, 0.82)}[scene.groups[0].count]
        places = [[(along, 0.5) for along in spread]]
    elif len(scene.groups) == 2:
        across = [(0.5,) if group.count == 1 else (0.3, 0.7) for group in scene.groups]
        places = [[(along, y) for y in ys] for along, ys in zip((0.26, 0.74), across, strict=True)]
    else:
        row, third = (0.26, 0.74) if scene.third in ("below", "right") else (0.74, 0.26)
        places = [[(0.26, row)], [(0.74, row)], [(0.5, third)]]
    if scene.relation == "left":
        return places
    return [[(y, x) for x, y in group] for group in places]


def _shade(rng: random.Random, colour: Sequence[int], amount: int) -> tuple[int, ...]:
    shift = rng.randint(-amount, amount)
    return tuple(max(0, min(255, value + shift)) for value in colour)


def _sticker(rng: random.Random, group: Group, diameter: int) -> tuple[Image.Image, Image.Image]:
    """Return one object on a square of `diameter` pixels, and the mask of the object."""
    colour = _shade(rng, COLOURS[group.colour], 12)
    sticker = Image.new("RGB", (diameter, diameter), colour)
    pen = ImageDraw.Draw(sticker)
    if group.texture != "plain":
        PATTERNS[group.texture](pen, diameter, max(8, diameter // 6))
    outline = _outline(group.shape, rng.uniform(-0.2, 0.2), diameter)
    mask = Image.new("L", (diameter, diameter))
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    pen.line([*outline, outline[0]], fill=(20, 20, 20), width=max(3, diameter // 24), joint="curve")
    return sticker, mask


def _stripes(pen: ImageDraw.ImageDraw, diameter: int, step: int) -> None:
    for at in range(-diameter, diameter, 2 * step):
        pen.line([(at, diameter), (at + diameter, 0)], fill=(255, 255, 255), width=int(step * 0.8))


def _dots(pen: ImageDraw.ImageDraw, diameter: int, step: int) -> None:
    for row, y in enumerate(range(step // 2, diameter, int(1.5 * step))):
        for x in range(step // 2 + (row % 2) * step, diameter, 2 * step):
            pen.ellipse(
                [x - step * 0.42, y - step * 0.42, x + step * 0.42, y + step * 0.42],
                fill=(255, 255, 255),
            )


PATTERNS: dict[str, Callable[..., None]] = {"striped": _stripes, "dotted": _dots}


def _outline(shape: str, angle: float, diameter: int) -> list[tuple[float, float]]:
    """Return the polygon of a shape, turned by `angle` radians, within a square of `diameter`
    pixels."""
    cos, sin, half = math.cos(angle), math.sin(angle), diameter / 2
    return [
        (half + 0.94 * half * (x * cos - y * sin), half + 0.94 * half * (x * sin + y * cos))
        for x, y in _corners(shape)
    ]


def _corners(shape: str) -> list[tuple[float, float]]:
    """Return the corners of a shape in the unit circle; y down."""
    turn = 2 * math.pi
    if shape == "star":
        return [_polar(1 if n % 2 == 0 else 0.42, turn * n / 10) for n in range(10)]
    if shape == "heart":
        curve = [turn * n / 48 for n in range(48)]
        wave = [
            (
                16 * math.sin(t) ** 3,
                13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t),
            )
            for t in curve
        ]
        return [(x / 18, -(y + 2) / 18) for x, y in wave]
    if shape == "cross":
        a, b = 0.3, 0.95
        return [
            (-a, -b),
            (a, -b),
            (a, -a),
            (b, -a),
            (b, a),
            (a, a),
            (a, b),
            (-a, b),
            (-a, a),
            (-b, a),
            (-b, -a),
            (-a, -a),
        ]
    if shape == "square":
        return [(-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)]
    if shape == "diamond":
        return [(0, -1), (0.62, 0), (0, 1), (-0.62, 0)]
    corners = {"triangle": 3, "circle": 48}[shape]
    return [_polar(1, turn * n / corners) for n in range(corners)]


def _polar(radius: float, angle: float) -> tuple[float, float]:
    """Return a point by its radius and its angle, clockwise from the top."""
    return radius * math.sin(angle), -radius * math.cos(angle)

"""`captionlab plan`: estimate what the rows of an experiment would cost.

The estimate uses shapes alone: it downloads nothing, loads no weights and runs nothing.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from captionlab.plan_checks import problems, small_splits
from pipeline.core.errors import UserError
from pipeline.core.quick_torch import leave_out_compiler
from pipeline.core.registry import check_args, load
from pipeline.features.features import parts
from pipeline.features.quantise import SCALE_BYTES, grid_dtype
from pipeline.languages.languages import find_language
from pipeline.languages.tokens import need

if TYPE_CHECKING:
    from pipeline.captioning.footprint import Footprint
    from pipeline.encoders.shared.base import Shapes
    from pipeline.experiment.params import Params, Variant
    from pipeline.sources.shared.base import Size

# Size of the vocabulary that is assumed if the corpus has not been cleaned yet.
WORDS = 10_000
# Approximate bytes of a weight, as models and hubs store it.
FLOAT32 = 4


@dataclass(frozen=True)
class Grid:
    """One feature set."""

    network: str
    "The encoder's name for the model."
    shapes: "Shapes"
    sizes: dict[str, int]
    "Bytes of the grid and of the pooled vectors, whether kept or not."
    keep: str
    read: str
    "The `keep` that its decoders need."
    download: int

    @property
    def disk(self) -> int:
        return self.takes(self.keep)

    def takes(self, keep: str) -> int:
        return sum(self.sizes[part] for part in parts(keep))

    def numbers(self) -> int:
        """Return how many numbers are kept per image."""
        shapes = self.shapes
        each = {"grid": shapes.positions * shapes.grid_dim, "pooled": shapes.pooled_dim}
        return sum(each[part] for part in parts(self.keep))


@dataclass(frozen=True)
class Model:
    """A decoder with its arguments and its vocabulary.

    All numbers are 0 if it could not be built; `problem` says why.
    """

    words: int
    assumed: bool
    "Whether the vocabulary is not that of cleaned captions."
    trainable: int
    "Number of parameters that are trained; 0 for a published model that is used as it is."
    parameters: int
    saved: int
    "Bytes that a model folder holds."
    fetched: str
    "Name on the hub that its weights are downloaded from; '' if none."
    download: int
    "Bytes of that download."
    problem: str
    "Why the decoder could not be built; '' if it could."
    footprint: "Footprint | None" = None
    "None if the decoder could not be built."


@dataclass(frozen=True)
class Row:
    """One variant. Its bytes cover everything that it needs, shared or not."""

    name: str
    source: str
    network: str
    decoder: str
    model: "Model"
    disk: int
    weights: int
    "Bytes of `disk` that belong to this variant alone: its model, once per seed."
    download: int
    paper: str
    brings: bool
    "Whether it brings weights of its own, which `download` does not count."
    lacks: str
    "What it needs and is not there; '' if nothing."


@dataclass(frozen=True)
class Plan:
    sizes: "dict[str, Size]"
    "Sizes of the data sets, by name."
    grids: dict[str, Grid]
    rows: list[Row]


def plan(params: "Params", corpora: Path) -> Plan:
    """Return the costs of every row.

    Args:
        corpora: the folder data/corpora. A corpus in it gives the real size of a vocabulary.

    Raises:
        UserError: arguments do not fit a source, an encoder or a decoder; a file or a split scheme
            does not exist; or a tokenizer is not installed. All problems of data sets, corpora and
            features are reported at once.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub's library is imported
    for row in params.corpora.values():
        need(find_language(row.language).tokenizer)
    sizes, grids = _shared(params)
    return Plan(
        sizes, grids, [_row(name, params, sizes, grids, corpora) for name in params.variants]
    )


def _shared(params: "Params") -> "tuple[dict[str, Size], dict[str, Grid]]":
    """Return data sets and feature sets.

    Raises:
        UserError: something is wrong with them or with corpora; one error reports everything.
    """
    from pipeline.sources.shared.base import Size

    sizes, grids, wrong = {}, {}, []
    for name, row in params.datasets.items():
        sizes[name] = Size(0, 0, 0)
        try:
            sizes[name] = _size(name, row.source, row.args)
        except UserError as error:
            wrong.append(str(error))
    for name in params.features:
        try:
            grids[name] = _grid(name, params, sizes)
        except UserError as error:
            wrong.append(str(error))
    wrong += problems(params, [name for name in params.features if name in grids])
    counts = {name: size.images for name, size in sizes.items()}
    wrong = wrong or list(small_splits(params, counts))
    if wrong:
        raise UserError("; ".join(wrong))
    return sizes, grids


def _size(name: str, source: str, args: dict[str, Any]) -> "Size":
    module = load("sources", source)
    check_args(module.fetch, args, f"datasets.{name}.args")
    try:
        size: Size = module.size(**args)
    except UserError as error:
        raise UserError(f"datasets.{name}: {error}") from None
    return size


def _grid(name: str, params: "Params", sizes: "dict[str, Size]") -> Grid:
    import numpy as np

    from pipeline.experiment.params import least, needed

    row = params.features[name]
    module = load("encoders", row.encoder)
    check_args(module.Encoder.__init__, row.args, f"features.{name}.args")
    try:
        shapes = module.shapes(**row.args)
        kinds = np.dtype(grid_dtype(module.Encoder, row.dtype)), np.dtype(row.dtype)
    except UserError as error:
        raise UserError(f"features.{name}: {error}") from None
    scale = SCALE_BYTES if row.dtype == "int8" else 0
    vectors = {
        "grid": shapes.positions * (shapes.grid_dim * kinds[0].itemsize + scale),
        "pooled": shapes.pooled_dim * kinds[1].itemsize + scale,
    }
    disk = {part: sizes[row.dataset].images * size for part, size in vectors.items()}
    from_hub = row.args.get("weights", "hub" if shapes.parameters else "") == "hub"
    network = str(row.args.get("model", row.encoder)).split("/")[-1].split(".")[0]
    download = FLOAT32 * shapes.parameters if from_hub else 0
    return Grid(network, shapes, disk, row.keep, least(needed(params, name).values()), download)


def _row(
    name: str, params: "Params", sizes: "dict[str, Size]", grids: dict[str, Grid], corpora: Path
) -> Row:
    variant = params.variants[name]
    grid, dataset = grids[variant.features], params.corpora[variant.corpus].dataset
    model, size = _model(name, params, grid.shapes, corpora), sizes[dataset]
    weights = model.saved * len(params.training(name).seeds)
    return Row(
        name=name,
        source=params.datasets[dataset].source,
        network=grid.network,
        decoder=variant.decoder,
        model=model,
        disk=size.disk + grid.disk + weights,
        weights=weights,
        download=size.download + grid.download + model.download,
        paper=f"{variant.paper.table}, {variant.paper.system}" if variant.paper else "",
        brings=_brings(variant) and not model.fetched,
        lacks=model.problem or _missing_file(variant),
    )


def _model(name: str, params: "Params", shapes: "Shapes", corpora: Path) -> Model:
    """Build a decoder whose tensors have no storage, and count its parameters and bytes."""
    import torch

    from pipeline.captioning.footprint import of_decoder
    from pipeline.decoders.shared.contract import Sizes
    from pipeline.decoders.shared.four_bits import published_sizes
    from pipeline.decoders.shared.lora import is_adapter
    from pipeline.decoders.shared.model_folder import build_decoder, check_grid

    variant, where = params.variants[name], f"variants.{name}.args"
    check_args(load("decoders", variant.decoder).Decoder.__init__, variant.args, where)
    try:
        check_grid(variant.decoder, shapes.positions, f"features '{variant.features}'")
        words, known, assumed = _vocabulary(name, params, corpora)
        sizes = Sizes(shapes.grid_dim, shapes.pooled_dim, words, known)
        leave_out_compiler()
        with torch.device("meta"):
            decoder = build_decoder(variant.decoder, sizes, variant.args)
    except UserError as error:
        return Model(0, False, 0, 0, 0, "", 0, str(error))
    if variant.args.get("vectors") and not variant.args.get(
        "tune_vectors", True
    ):  # they are frozen when they are read
        decoder.get_submodule("embedding").requires_grad_(False)
    options = params.training(name)
    trains = options.epochs + options.self_critical_epochs > 0
    trained = [w.numel() for w in decoder.parameters() if w.requires_grad and trains]
    each = {n: w.numel() * w.element_size() for n, w in decoder.named_parameters()}
    published = published_sizes(decoder)
    held = set(decoder.saved())
    from_hub = (
        decoder.published == variant.args.get("model") and not Path(decoder.published).is_dir()
    )
    fetched = decoder.published if from_hub else ""
    return Model(
        words,
        assumed,
        sum(trained),
        sum(n for n, _ in published.values()),
        sum(size for n, size in each.items() if n in held),
        fetched,
        sum(size for n, (_, size) in published.items() if not is_adapter(n)) if fetched else 0,
        "",
        of_decoder(variant.decoder, sizes, variant.args, shapes.positions),
    )


def _vocabulary(name: str, params: "Params", corpora: Path) -> tuple[int, dict[str, Any], bool]:
    """Return the size of the vocabulary, `Sizes.known`, and whether they are assumed.

    A decoder may take its vocabulary from a language model. Its module may then have a function
    `outline(**args)`, which returns size and `known` for a well-known model, and None for any
    other. They are used if the model's files or the cleaned captions are not there. With
    PLANNED_BY_OUTLINE = True they are always used, because reading the captions would take too
    much.
    """
    from pipeline.decoders.shared.model_folder import read_vocabulary

    variant, options, where = params.variants[name], params.training(name), f"variants.{name}.args"
    module = load("decoders", variant.decoder)
    outline = module.outline(**variant.args) if hasattr(module, "outline") else None
    texts = _texts(corpora / variant.corpus / "captions.parquet", options.vocabulary_splits)
    if outline and (texts is None or getattr(module, "PLANNED_BY_OUTLINE", False)):
        return (*outline, True)
    if texts is None and "read" not in vars(module.Decoder):
        return WORDS, {}, True
    try:
        with redirect_stderr(StringIO()):  # transformers' progress bar has no switch
            tokenizer, known = read_vocabulary(
                variant.decoder, texts or [], options.min_count, variant.args, where
            )
    except UserError:
        if outline is None:
            raise
        return (*outline, True)
    return len(tokenizer), known, texts is None


def _texts(file: Path, splits: Sequence[str]) -> Iterable[str] | None:
    """Return the captions whose words are counted, or None if they have not been cleaned yet."""
    from pipeline.data.corpus import Captions, columns_of

    if not file.is_file():
        return None
    columns_of(
        file, ["text", "split"]
    )  # reports a damaged file now, whatever a decoder does with its texts later
    return Captions(file, splits, ["text"])["text"]


def _brings(variant: "Variant") -> bool:
    """Return whether a variant takes weights from a hub.

    Random weights, those of an installed package, and those in a local file do not count.
    """
    decoder = load("decoders", variant.decoder).Decoder
    args = {**(decoder.__init__.__kwdefaults__ or {}), **variant.args}
    from_nothing = "random" in (args.get("weights"), args.get("lm_weights"))
    named = [str(args[key]) for key in ("model", "lm", "clip") if key in args]
    here = all(name == "package" or Path(name).expanduser().exists() for name in named)
    return "read" in vars(decoder) and not from_nothing and not here


def _missing_file(variant: "Variant") -> str:
    named = {key: str(variant.args.get(key, "")) for key in ("vectors", "checkpoint")}
    return next(
        (
            f"{file} (args.{key}) is not there: get it, or delete the row"
            for key, file in named.items()
            if file and not Path(file).expanduser().is_file()
        ),
        "",
    )


def render(plan: Plan, title: str) -> str:
    """Return the plan as text, at most 120 columns wide if the names are short."""
    count = f"{title}: {len(plan.rows)} variant{'s' * (len(plan.rows) != 1)}"
    blocks = [count, _datasets(plan), _features(plan), _variants(plan), _totals(plan)]
    return "\n\n".join(blocks)


def _datasets(plan: Plan) -> str:
    rows = [
        [name, f"{s.images:,}", _bytes(s.disk), _bytes(s.download)]
        for name, s in plan.sizes.items()
    ]
    return "\n".join(_aligned([["data set", "images", "on disk", "download"], *rows], 1))


def _features(plan: Plan) -> str:
    """Return the table of feature sets; `saved` is what the parts not kept would take."""
    head = ["features", "network", "grid", "pooled", "keep", "on disk", "saved"]
    head += ["parameters", "weights"]
    rows = []
    for name, grid in plan.grids.items():
        s = grid.shapes
        numbers = [f"{s.positions:,} x {s.grid_dim:,}", f"{s.pooled_dim:,}"]
        numbers += [grid.keep, _bytes(grid.disk), _bytes(grid.takes("both") - grid.disk)]
        rows.append([name, grid.network, *numbers, _millions(s.parameters), _bytes(grid.download)])
    return "\n".join([*_aligned([head, *rows], 2), *_savings(plan)])


def _savings(plan: Plan) -> Iterable[str]:
    """Yield a line for each feature set that keeps more than its decoders read."""
    for name, grid in plan.grids.items():
        if spare := grid.disk - grid.takes(grid.read):
            yield f"{name}: its decoders read {grid.read}: keep: {grid.read} saves {_bytes(spare)}"


def _variants(plan: Plan) -> str:
    """Return the table of variants, grouped by the paper's row beside which they stand.

    Within a group, they keep the order of the file.
    """
    head = ["variant", "source", "encoder", "decoder", "words", "trained", "of", "disk", "download"]
    cells = [head]
    for row in plan.rows:
        m = row.model
        counts = (
            [f"{'~' * m.assumed}{m.words:,}", _millions(m.trainable), _millions(m.parameters)]
            if m.words
            else ["?"] * 3
        )
        cells.append(
            [
                "  " + row.name,
                row.source,
                row.network,
                row.decoder,
                *counts,
                _bytes(row.disk),
                _bytes(row.download),
            ]
        )
    first, *lines = _aligned(cells, 4)
    out = [first]
    for paper in dict.fromkeys(row.paper for row in plan.rows):
        out.append(f"beside {paper}:" if paper else "beside no paper's row:")
        out += [line for line, row in zip(lines, plan.rows, strict=True) if row.paper == paper]
    return "\n".join(out)


def _totals(plan: Plan) -> str:
    """Return the totals; what variants share counts once."""
    used = plan.grids.values()
    models = sum(row.weights for row in plan.rows)
    disk = sum(s.disk for s in plan.sizes.values()) + sum(g.disk for g in used) + models
    weights = {g.network: g.download for g in used} | {
        row.model.fetched: row.model.download for row in plan.rows
    }
    download = sum(s.download for s in plan.sizes.values()) + sum(weights.values())
    lines = [f"all together: about {_bytes(disk)} on disk, {_bytes(download)} to download"]
    if any(row.model.assumed for row in plan.rows):
        lines.append(
            "~: assumed, because the captions have not been cleaned yet; the "
            "parameter counts depend on it"
        )
    bring = dict.fromkeys(row.decoder for row in plan.rows if row.brings)
    lines += [
        f"{decoder} brings weights of its own, which are not in the downloads" for decoder in bring
    ]
    for lacks in dict.fromkeys(row.lacks for row in plan.rows if row.lacks):
        names = ", ".join(row.name for row in plan.rows if row.lacks == lacks)
        lines += wrap(f"{names}: {lacks}", 100, subsequent_indent="  ", break_long_words=False)
    return "\n".join(lines)


def _aligned(rows: list[list[str]], left: int) -> Iterable[str]:
    """Yield lines with columns two spaces apart.

    The first `left` columns are left-aligned, the others right-aligned.
    """
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        cells = (
            cell.ljust(w) if n < left else cell.rjust(w)
            for n, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"


def _bytes(count: int) -> str:
    """Return a size in decimal units with three digits."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:#.3g}".rstrip(".") + f" {unit}"
    return f"{count} B" if count else "0"

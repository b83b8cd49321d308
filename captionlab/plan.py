"""`captionlab plan`: what the rows of an experiment would cost, from shapes alone: no network, no
weights, nothing is run."""

import os
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from captionlab.plan_checks import problems
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

WORDS = 10_000
"the vocabulary that is assumed where the corpus has not been cleaned yet"
FLOAT32 = 4
"bytes of a weight, as models are written and as hubs hold them, about"


@dataclass(frozen=True)
class Grid:
    """One feature set."""

    network: str
    "what its encoder calls the model"
    shapes: "Shapes"
    sizes: dict[str, int]
    "bytes of the grid and of the pooled vectors, kept or not"
    keep: str
    read: str
    "the `keep` that its decoders need"
    download: int

    @property
    def disk(self) -> int:
        return self.takes(self.keep)

    def takes(self, keep: str) -> int:
        return sum(self.sizes[part] for part in parts(keep))

    def numbers(self) -> int:
        """Of an image, of what is kept."""
        shapes = self.shapes
        each = {"grid": shapes.positions * shapes.grid_dim, "pooled": shapes.pooled_dim}
        return sum(each[part] for part in parts(self.keep))


@dataclass(frozen=True)
class Model:
    """A decoder as its arguments and its vocabulary make it; all zero where neither its files nor
    an outline are there."""

    words: int
    assumed: bool
    "the vocabulary is not that of cleaned captions"
    trainable: int
    "none where a published model is used as it is"
    parameters: int
    saved: int
    "bytes of what a model folder holds"
    fetched: str
    "the name on the hub that its weights come from"
    download: int
    "bytes of these"
    problem: str
    "why it could not be built"
    footprint: "Footprint | None" = None
    "None where it could not be built"


@dataclass(frozen=True)
class Row:
    """One variant; bytes are of all that it needs, shared or not."""

    name: str
    source: str
    network: str
    decoder: str
    model: "Model"
    disk: int
    weights: int
    "bytes of `disk` that are this variant's alone: its model, once per seed"
    download: int
    paper: str
    brings: bool
    "weights of its own, which `download` does not count"
    lacks: str
    "what is not there and is needed"


@dataclass(frozen=True)
class Plan:
    sizes: "dict[str, Size]"
    "by dataset"
    grids: dict[str, Grid]
    rows: list[Row]


def plan(params: "Params", corpora: Path) -> Plan:
    """Cost every row.

    Args:
        corpora: data/corpora; a corpus that is there gives the real size of a vocabulary.

    Raises:
        UserError: arguments that do not fit a source, an encoder or a decoder; files and split
            schemes that are not there; a tokenizer that is not installed. All that data sets,
            corpora and features have wrong is told at once.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub's library is imported
    for row in params.corpora.values():
        need(find_language(row.language).tokenizer)
    sizes, grids = _shared(params)
    return Plan(
        sizes, grids, [_row(name, params, sizes, grids, corpora) for name in params.variants]
    )


def _shared(params: "Params") -> "tuple[dict[str, Size], dict[str, Grid]]":
    """Data sets and feature sets, or one error for all that is wrong with them and with corpora."""
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
    """A decoder built where tensors have no storage."""
    import torch

    from pipeline.captioning.footprint import of_decoder
    from pipeline.decoders.shared.contract import Sizes
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
    ):  # frozen when they are read
        decoder.get_submodule("embedding").requires_grad_(False)
    options = params.training(name)
    trains = options.epochs + options.self_critical_epochs > 0
    counts = [(w.numel(), w.requires_grad and trains) for w in decoder.parameters()]
    each = {n: w.numel() * w.element_size() for n, w in decoder.named_parameters()}
    held = set(decoder.saved())
    from_hub = (
        decoder.published == variant.args.get("model") and not Path(decoder.published).is_dir()
    )
    fetched = decoder.published if from_hub else ""
    return Model(
        words,
        assumed,
        sum(n for n, trained in counts if trained),
        sum(n for n, _ in counts),
        sum(size for n, size in each.items() if n in held),
        fetched,
        sum(size for n, size in each.items() if not is_adapter(n)) if fetched else 0,
        "",
        of_decoder(variant.decoder, sizes, variant.args, shapes.positions),
    )


def _vocabulary(name: str, params: "Params", corpora: Path) -> tuple[int, dict[str, Any], bool]:
    """Entries of the vocabulary, `Sizes.known`, and whether they are assumed.

    A decoder's file whose vocabulary is a language model's may have a function `outline(**args)`:
    entries and known of a well-known model, for when its files or the cleaned captions are not
    there; None of any other. PLANNED_BY_OUTLINE = True says that reading the captions would take
    too much.
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
        with redirect_stderr(StringIO()):  # a bar of transformers that it has no switch for
            tokenizer, known = read_vocabulary(
                variant.decoder, texts or [], options.min_count, variant.args, where
            )
    except UserError:
        if outline is None:
            raise
        return (*outline, True)
    return len(tokenizer), known, texts is None


def _texts(file: Path, splits: Sequence[str]) -> Iterable[str] | None:
    """The captions whose words are counted; None: they have not been cleaned yet."""
    from pipeline.data.corpus import Captions, columns_of

    if not file.is_file():
        return None
    columns_of(
        file, ["text", "split"]
    )  # says now what is wrong with the file, whatever a decoder makes of its texts later
    return Captions(file, splits, ["text"])["text"]


def _brings(variant: "Variant") -> bool:
    """Weights of a hub: neither drawn, nor in an installed package, nor in a local file."""
    decoder = load("decoders", variant.decoder).Decoder
    args = {**(decoder.__init__.__kwdefaults__ or {}), **variant.args}
    from_nothing = "random" in (args.get("weights"), args.get("lm_weights"))
    named = [str(args[key]) for key in ("model", "lm", "clip") if key in args]
    here = all(name == "package" or Path(name).expanduser().exists() for name in named)
    return "read" in vars(decoder) and not from_nothing and not here


def _missing_file(variant: "Variant") -> str:
    named = [str(variant.args.get(key, "")) for key in ("vectors", "checkpoint")]
    return next(
        (
            f"{file} is not there"
            for file in named
            if file and not Path(file).expanduser().is_file()
        ),
        "",
    )


def render(plan: Plan, title: str) -> str:
    """The plan as text of at most 120 columns where the names are short."""
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
    """`saved`: what is not kept would take."""
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
    """A line for each feature set that keeps more than its decoders read."""
    for name, grid in plan.grids.items():
        if spare := grid.disk - grid.takes(grid.read):
            yield f"{name}: its decoders read {grid.read}: keep: {grid.read} saves {_bytes(spare)}"


def _variants(plan: Plan) -> str:
    """Under the paper's row that they stand beside; of each group in the order of the file."""
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
    """What is shared counts once."""
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
            "~: assumed, for the captions have not been cleaned yet; parameters move with it"
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
    """Columns two spaces apart; the first `left` of them flush left, the others right."""
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
    """Decimal units, three digits."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:#.3g}".rstrip(".") + f" {unit}"
    return f"{count} B" if count else "0"

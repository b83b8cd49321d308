"""params.yaml as typed, checked values. Nothing that changes a result has a default here: every
value stands in the file."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.core.errors import UserError
from pipeline.core.ranges import (
    Beams,
    Exponent,
    LearningRate,
    Natural,
    Positive,
    Scale,
    Seed,
    Share,
    Tokens,
    Weight,
)
from pipeline.core.registry import check_args, find, nearest, reads, signature
from pipeline.core.yaml12 import read_yaml
from pipeline.experiment.protocols import find_protocol, of_paper
from pipeline.languages.languages import ENGLISH, Language, find_language

Slug = Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Dataset(Section):
    source: str
    "A file of pipeline/sources/."
    args: dict[str, Any]
    "Arguments of that source."


class Corpus(Section):
    dataset: Slug
    "A row of `datasets`."
    split: str
    "A split scheme of the source, such as official or karpathy; the source names those it has."
    language: str
    """What the captions are written in, by its ISO 639 code: en, de, ar, hi, ja, zh, ... It says
    how captions are cleaned, and by which tokenizer they are scored."""
    lower: bool
    "Whether captions are lower-cased."
    punctuation: Literal["keep", "drop", "letters"]
    """`drop` keeps letters, digits and spaces alone, and the apostrophes inside words of other
    languages than English; `letters` splits at all but a-z, for English alone."""
    one_letter_words: Literal["keep", "drop"]
    "`drop` removes words of one letter, 'a' too."
    min_words: Positive
    "Captions with fewer words are set aside in rejected.parquet."
    max_words: Positive
    "Captions with more words are set aside."
    max_rejected: Share
    "The pipeline stops when more than this share of the rows is set aside."
    min_images_per_split: Positive
    "A split with fewer images fails validation."
    max_shared_captions: Share
    """Validation fails when more than this share of a split's captions stands, word for word, in
    another split."""
    max_shared_pictures: Share
    """Validation fails when more than this share of the captions has a picture that stands, pixel
    for pixel, in another split as well."""
    max_uneven_captions: Share
    """Validation fails when more than this share of the captions belongs to an image that was
    published with fewer than half, or more than twice, as many captions as most images have; 1
    allows any number."""


class FeatureSet(Section):
    dataset: Slug
    "A row of `datasets`."
    encoder: str
    "A file of pipeline/encoders/."
    args: dict[str, Any]
    "Arguments of that encoder."
    dtype: Literal["float16", "int8"]
    "The type of the features on disk. `int8` has one scale per vector and takes half the space."
    keep: Literal["pooled", "grid", "both"]
    """What is written of them: the vector of each whole picture, the grid of vectors, or both. The
    decoder of each variant says which it reads."""


class Training(Section):
    seeds: Annotated[list[Seed], Field(min_length=1)]
    """One training per seed. The first one's model is served; the tables show mean and spread over
    all."""
    epochs: Natural
    """Passes over the training images at most. 0 uses a published model as it is, or goes straight
    to self-critical training."""
    batch_images: Positive
    "Images in a step; each brings all its captions."
    micro_batch: Natural
    """Images that pass through the decoder at once, where memory is short; 0 is all of a step. The
    gradients of a step stay those of all its images; what is drawn at random, such as dropout, is
    drawn for each pass."""
    optimizer: Literal["adam", "adamw", "sgd"]
    "The optimizer."
    lr: LearningRate
    "Learning rate."
    weight_decay: Weight
    "Weight decay of the optimizer."
    momentum: Share
    "Momentum, of sgd alone."
    schedule: Literal["constant", "linear", "cosine", "plateau"]
    """How the learning rate falls after the warm-up. `linear` and `cosine` reach 0 at the last
    step; `plateau` falls when validation does not gain."""
    warmup_steps: Natural
    "Steps in which the learning rate rises from 0."
    plateau_factor: Share
    "What `plateau` multiplies the learning rate by."
    plateau_patience: Natural
    "Epochs without gain before `plateau` lowers the learning rate."
    clip: Literal["none", "norm", "value"]
    "How gradients are clipped: by their norm, value by value, or not."
    clip_at: Scale
    "The norm or value that gradients are clipped at."
    label_smoothing: Share
    "Share of the probability that label smoothing spreads over all words."
    precision: Literal["float32", "bfloat16"]
    "The type that training computes in."
    select: Literal["cider", "bleu_4", "loss"]
    """The validation figure that chooses the checkpoint. cider and bleu_4 are of greedy captions,
    never teacher-forced."""
    patience: Positive
    "Training stops after this many epochs without gain."
    scheduled_sampling: Literal["none", "linear", "inverse_sigmoid", "always"]
    """How often the decoder reads its own previous word in training. `always` is training without
    teacher forcing."""
    sampling_end: Share
    "`linear`: the share of own words at the last step."
    sampling_k: Scale
    "`inverse_sigmoid`: a number of steps; the larger, the later own words come."
    self_critical_epochs: Natural
    "Epochs of self-critical training on CIDEr-D that follow, from the best weights."
    self_critical_lr: LearningRate
    "Learning rate of self-critical training."
    self_critical_samples: Annotated[int, Field(ge=1, le=999)]
    "Captions drawn per image and step of self-critical training."
    min_count: Positive
    "A word must be seen at least this often to have an entry in the vocabulary."
    vocabulary_splits: list[Literal["train", "val", "test"]]
    "The splits whose words are counted: [train], unless a paper did otherwise."


class Decoding(Section):
    beam: Beams
    "Beam width; 1 is greedy."
    max_tokens: Tokens
    "Tokens of a caption at most, its end token counted."
    length_penalty: Exponent
    """Hypotheses are ranked by log-probability / length ** length_penalty; 0 ranks by log-
    probability alone."""
    alternatives: Beams
    "Captions kept per image: at most `beam`, or `samples`."
    samples: Annotated[int, Field(ge=0, le=999)]
    """0 searches. Otherwise this many captions are drawn per image, best first as the decoder
    judges them, and `beam` is not used."""
    temperature: Scale
    "Log-probabilities are divided by it in a draw."
    top_k: Natural
    "A word is drawn among this many likeliest ones; 0 draws among all."
    seed: Seed
    """Random seed of the draw. What is drawn for an image depends on its features too, and on no
    other image."""
    also: list[Annotated[str, Field(pattern=r"^(greedy|beam-[1-9][0-9]{0,2})$")]]
    "Further searches to caption by, for the protocols of these names: greedy, beam-<k>."


class Chair(Section):
    synonyms: str
    "A file of COCO's synonyms: a line an object, its names parted by commas, the object first."
    instances: list[str]
    "Files of COCO's instances, whose objects count beside those that references name; [] for none."


class Scoring(Section):
    metrics: list[str]
    "Files of pipeline/metrics/."
    clip: dict[str, Any] | None
    """Arguments of the encoder `clip`, for the metric clip_score, such as {model: openai/clip-vit-
    base-patch32}."""
    protocols: list[str]
    "Protocols under which every variant is scored, beside `standard`."
    chair: Chair | None = None
    "Files for the metric chair. DVC does not watch them: after an edit, dvc repro -f scores again."

    @property
    def chair_files(self) -> dict[str, Any] | None:
        """As its `score` takes them."""
        return self.chair.model_dump() if self.chair else None


class PaperRow(Section):
    table: str
    "A table of pipeline/experiment/papers.yaml."
    system: str
    "A row of that table."


class Variant(Section):
    corpus: Slug
    "A row of `corpora`."
    features: Slug
    "A row of `features`, of the same data set."
    decoder: str
    "A file of pipeline/decoders/."
    args: dict[str, Any]
    "Arguments of that decoder."
    train: dict[str, Any]
    "Overrides of the top-level `train`."
    decode: dict[str, Any]
    "Overrides of the top-level `decode`."
    protocols: list[str]
    "Further protocols of this variant. That of the paper's row must be among them."
    paper: PaperRow | None = None
    "The row of pipeline/experiment/papers.yaml that this variant stands beside."
    notes: str = ""
    "Deviations from the source, printed under the table."


class Params(Section):
    datasets: dict[Slug, Dataset]
    corpora: dict[Slug, Corpus]
    features: dict[Slug, FeatureSet]
    train: Training
    decode: Decoding
    scoring: Scoring
    variants: dict[Slug, Variant]

    def training(self, variant: str) -> Training:
        """The top-level `train` with the variant's overrides."""
        return Training(**{**self.train.model_dump(), **self.variants[variant].train})

    def decoding(self, variant: str) -> Decoding:
        return Decoding(**{**self.decode.model_dump(), **self.variants[variant].decode})

    def protocols(self, variant: str) -> list[str]:
        """Under which a variant is scored beside `standard`, in the order of the file."""
        named = dict.fromkeys([*self.scoring.protocols, *self.variants[variant].protocols])
        return [name for name in named if name != "standard"]


PAPERS = Path(__file__).with_name("papers.yaml")
NEUTRAL = dict.fromkeys(("args", "train", "decode"), "{}") | {
    "protocols": "[]",
    "also": "[]",
    "clip": "null",
    "language": "en",
    "instances": "[]",
    "keep": "both",
    "micro_batch": "0",
}
"values that change nothing, by key"


def read_params_file(path: Path = Path("params.yaml")) -> Any:
    """The file as DVC reads it: unchecked, without what is derived.

    Raises:
        UserError: it is not there, or it is not YAML.
    """
    try:
        return read_yaml(path)
    except FileNotFoundError:
        raise UserError(
            f"{path} is not there: copy one from experiments/, e.g. cp "
            "experiments/quickstart.yaml params.yaml"
        ) from None


def _describe(problem: dict[str, Any], prefix: str = "") -> str:
    where = prefix + ".".join(str(part) for part in problem["loc"] if part != "[key]")
    if problem["type"] == "missing":
        return f"{where}: missing{_neutral(problem['loc'])}"
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key"
    return f"{where}: {problem['msg'].removeprefix('Input ')}, not {problem['input']!r}"


def _neutral(place: tuple[str | int, ...]) -> str:
    """What to write for a key of a row that is not wanted. It has no default: dvc.yaml names it,
    and DVC runs no stage that lacks a key of its own."""
    key = str(place[-1])
    value = NEUTRAL.get(key) if len(place) > 1 else None  # the top-level `train` has none
    return f", write {key}: {value}" if value else ""


def problems_of(model: type[Section], data: Any, prefix: str = "") -> list[str]:
    """What is wrong with a section, key by key."""
    try:
        model.model_validate(data, strict=True)
    except ValidationError as error:
        return [_describe(problem, prefix) for problem in error.errors()]  # type: ignore[arg-type]
    return []


def _override_problems(data: dict[str, Any]) -> list[str]:
    out = []
    for name, row in data["variants"].items():
        for key, model in (("train", Training), ("decode", Decoding)):
            out += problems_of(model, {**data[key], **row[key]}, f"variants.{name}.{key}.")
    return out


def _registry_problems(params: Params) -> list[str]:
    """Names that no file of the registry bears and arguments that it does not take, told before the
    first stage has run."""
    rows: list[tuple[str, str, str, dict[str, Any]]]
    rows = [
        (f"datasets.{n}.", "sources", row.source, row.args) for n, row in params.datasets.items()
    ]
    rows += [
        (f"features.{n}.", "encoders", row.encoder, row.args) for n, row in params.features.items()
    ]
    rows += [
        (f"variants.{n}.", "decoders", row.decoder, row.args) for n, row in params.variants.items()
    ]
    rows += (
        [("scoring.clip.", "encoders", "clip", params.scoring.clip)] if params.scoring.clip else []
    )
    out = [
        _complaint("scoring.metrics: ", find, "metrics", name) for name in params.scoring.metrics
    ]
    if "clip_score" in params.scoring.metrics and not params.scoring.clip:
        out.append(
            "scoring.clip: clip_score needs a model, e.g. {model: openai/clip-vit-base-patch32}"
        )
    if "chair" in params.scoring.metrics and not params.scoring.chair:
        out.append(
            "scoring.chair: chair needs COCO's synonyms, "
            "e.g. {synonyms: synonyms.txt, instances: []}"
        )
    for where, kind, name, args in rows:
        unknown = _complaint(f"{where}{kind.removesuffix('s')}: ", find, kind, name)
        takes = None if unknown else signature(kind, name)
        out.append(_complaint("", check_args, takes, args, f"{where}args") if takes else unknown)
    return [problem for problem in out if problem]


def _complaint(prefix: str, check: Callable[..., object], *args: object) -> str:
    try:
        check(*args)
    except UserError as error:
        return f"{prefix}{error}"
    return ""


def _protocol_problems(params: Params) -> list[str]:
    """Protocols that protocols.yaml does not have, or whose captions the variant does not make."""
    out = [
        _complaint("scoring.protocols: ", find_protocol, name) for name in params.scoring.protocols
    ]
    for variant, row in params.variants.items():
        where = f"variants.{variant}.protocols: "
        out += [_complaint(where, find_protocol, name) for name in row.protocols]
        made = {"own", "argmax", *params.decoding(variant).also}
        for name in [] if any(out) else params.protocols(variant):
            search = find_protocol(name).captions
            out += (
                []
                if search in made
                else [f"{where}{name} needs captions of that search: decode: {{also: [{search}]}}"]
            )
        if len(set(params.training(variant).seeds)) < len(params.training(variant).seeds):
            out.append(f"variants.{variant}.train.seeds: a seed stands there twice")
    return list(dict.fromkeys(problem for problem in out if problem))


def _paper_problems(params: Params) -> list[str]:
    """Rows that papers.yaml does not have."""
    named = {name: row.paper for name, row in params.variants.items() if row.paper}
    if not named:
        return []
    tables = read_params_file(PAPERS)["tables"]
    out = []
    for name, paper in named.items():
        where, rows = f"variants.{name}.paper.", tables.get(paper.table, {"rows": []})["rows"]
        systems = {row["system"]: row.get("protocol") for row in rows}
        if paper.table not in tables:
            out.append(
                f"{where}table: papers.yaml has no '{paper.table}'{_there(paper.table, tables)}"
            )
        elif paper.system not in systems:
            out.append(
                f"{where}system: '{paper.table}' in papers.yaml has no "
                f"'{paper.system}'{_there(paper.system, systems)}"
            )
        else:
            theirs = of_paper(systems[paper.system])
            if theirs and theirs not in ["standard", *params.protocols(name)]:
                out.append(
                    f"variants.{name}.protocols: the paper's row is scored under {theirs}: "
                    "name it here"
                )
    return out


def _there(name: str, known: Iterable[str]) -> str:
    return f"{nearest(name, known)}: there are {', '.join(dict.fromkeys(known))}"


def _reference_problems(params: Params) -> list[str]:
    """References between sections that lead nowhere, or join two datasets."""
    out = []

    def known(where: str, name: str, section: str) -> bool:
        there = getattr(params, section)
        if name not in there:
            out.append(
                f"{where}: '{name}' is not in {section} (there are {', '.join(there) or 'none'})"
            )
        return name in there

    for section in ("corpora", "features"):
        for name, row in getattr(params, section).items():
            known(f"{section}.{name}.dataset", row.dataset, "datasets")
    for name, variant in params.variants.items():
        corpus_there = known(f"variants.{name}.corpus", variant.corpus, "corpora")
        features_there = known(f"variants.{name}.features", variant.features, "features")
        if (
            corpus_there
            and features_there
            and params.corpora[variant.corpus].dataset != params.features[variant.features].dataset
        ):
            out.append(
                f"variants.{name}: corpus '{variant.corpus}' and features "
                f"'{variant.features}' are of different datasets"
            )
    return out


def _language_problems(params: Params) -> list[str]:
    """Languages that there are not, and settings that would empty their captions."""
    out = []
    for name, row in params.corpora.items():
        where = f"corpora.{name}."
        if unknown := _complaint(f"{where}language: ", find_language, row.language):
            out.append(unknown)
        elif row.language != ENGLISH:
            out += [where + problem for problem in _not_for(find_language(row.language), row)]
    english = {name for name, row in params.corpora.items() if row.language == ENGLISH}
    for name, variant in params.variants.items():
        if variant.corpus in params.corpora.keys() - english:
            out += _english_only(f"variants.{name}.", variant, params.protocols(name))
    return out


def _not_for(language: Language, row: Corpus) -> Iterator[str]:
    if row.punctuation == "letters":
        yield (
            f"punctuation: letters keeps a-z alone and would empty captions in {language.name}: "
            "write drop"
        )
    if row.one_letter_words == "drop" and not language.spaced:
        yield f"one_letter_words: drop would take words away from {language.name}: write keep"


def _english_only(where: str, variant: Variant, protocols: list[str]) -> Iterator[str]:
    """The rows of papers.yaml are all of English captions, and so are the letters a-z."""
    if variant.paper:
        yield (
            f"{where}paper: the paper's captions are English, those of corpus "
            f"'{variant.corpus}' are not: leave it out"
        )
    for name in protocols:
        if find_protocol(name).tokens == "letters":
            yield f"{where}protocols: {name} keeps a-z alone, and these captions are not English"


def needed(params: Params, features: str) -> dict[str, str]:
    """What the decoders of a feature set read of it: variant -> `pooled`, `grid` or `both`."""
    rows = params.variants.items()
    return {name: reads(row.decoder) for name, row in rows if row.features == features}


def least(read: Iterable[str]) -> str:
    """The `keep` of a feature set that is read so."""
    different = set(read)
    return different.pop() if len(different) == 1 else "both"


def _keep_problems(params: Params) -> list[str]:
    """Feature sets that do not keep what a decoder reads."""
    out = []
    for name, row in params.features.items():
        read = needed(params, name)
        lacking = [v for v, what in read.items() if row.keep not in (what, "both")]
        if lacking:
            what = least(read[v] for v in lacking)
            out.append(
                f"features.{name}.keep: {row.keep}, but {what} is read by {', '.join(lacking)}: "
                f"write keep: {least(read.values())}"
            )
    return out


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check the whole file.

    Raises:
        UserError: one line that names every problem, its key, and what is allowed there.
    """
    data = read_params_file(path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected the keys {', '.join(Params.model_fields)}")
    problems = problems_of(Params, data)
    if not problems:
        params = Params.model_validate(data)
        overrides = _override_problems(data)
        problems = (
            overrides
            + _registry_problems(params)
            + _reference_problems(params)
            + _paper_problems(params)
        )
        problems += [] if problems else _language_problems(params)
        problems += [] if problems else _keep_problems(params)
        problems += [] if overrides else _protocol_problems(params)
    if problems:
        raise UserError(f"{path}: " + "; ".join(problems))
    return Params.model_validate(data)


def pick(params: Params, section: str, name: str) -> Any:
    """One named row of a section.

    Raises:
        UserError: there is no such row; the message lists those there are.
    """
    rows = getattr(params, section)
    if name not in rows:
        raise UserError(
            f"'{name}' is not in {section} of params.yaml: there are {', '.join(rows) or 'none'}"
        )
    return rows[name]

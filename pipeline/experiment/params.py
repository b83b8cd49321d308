"""params.yaml as typed, checked values.

No value that changes a result has a default here: every such value is in the file.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.core.errors import UserError
from pipeline.core.ranges import (
    Beams,
    Exponent,
    Form,
    LearningRate,
    Natural,
    Positive,
    Scale,
    Seed,
    Share,
    Tokens,
    Weight,
)
from pipeline.core.registry import nearest
from pipeline.experiment import together
from pipeline.experiment.keys import overrides, what_is_right
from pipeline.experiment.keys import problems_of as problems_of
from pipeline.experiment.keys import read_params_file as read_params_file
from pipeline.experiment.names import PAPERS as PAPERS
from pipeline.experiment.names import unknown_names
from pipeline.experiment.together import least as least
from pipeline.experiment.together import needed as needed

Slug = Annotated[str, Form(r"^[a-z0-9_-]+$", "a name of small letters, digits, - and _")]
Search = Annotated[str, Form(r"^(greedy|beam-[1-9][0-9]{0,2})$", "greedy or beam-<k>")]


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
    "A split scheme of the source, such as official or karpathy. Each source names its own schemes."
    language: str
    """Language of the captions by its ISO 639 code: en, de, ar, hi, ja, zh, ... It determines how
    captions are cleaned, and which tokenizer is used to score them."""
    lower: bool
    "Whether captions are lower-cased."
    punctuation: Literal["keep", "drop", "letters"]
    """`drop` keeps only letters, digits and spaces, and in languages other than English also
    apostrophes inside words. `letters` splits at everything but a-z, and is for English only."""
    one_letter_words: Literal["keep", "drop"]
    "`drop` removes words of one letter, including 'a'."
    min_words: Positive
    "Captions with fewer words are set aside in rejected.parquet."
    max_words: Positive
    "Captions with more words are set aside."
    max_rejected: Share
    "The pipeline stops if more than this share of the rows is set aside."
    min_images_per_split: Positive
    "A split with fewer images fails validation."
    max_shared_captions: Share
    """Validation fails if more than this share of a split's captions also occurs, word for word, in
    another split."""
    max_shared_pictures: Share
    """Validation fails if more than this share of the captions has a picture that also occurs,
    pixel for pixel, in another split."""
    max_uneven_captions: Share
    """Validation fails if more than this share of the captions belongs to images with an unusual
    number of published captions: fewer than half, or more than twice, as many as most images have.
    1 allows any number."""


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
    """Which features are written: the vector of each whole picture, the grid of vectors, or both.
    The decoder of each variant determines which it reads."""


class Training(Section):
    seeds: Annotated[list[Seed], Field(min_length=1)]
    """One training run per seed. The model of the first seed is served; the tables show mean and
    spread over all seeds."""
    epochs: Natural
    """Maximum number of passes over the training images. 0 uses a published model as it is, or goes
    straight to self-critical training."""
    batch_images: Positive
    "Images per step; each brings all its captions."
    micro_batch: Natural
    """Images that pass through the decoder at once, for when memory is short; 0 passes all images
    of a step. The gradients of a step are still those of all its images. What is random, such as
    dropout, is drawn for each pass."""
    optimizer: Literal["adam", "adamw", "sgd"]
    "The optimizer."
    lr: LearningRate
    "Learning rate."
    weight_decay: Weight
    "Weight decay of the optimizer."
    momentum: Share
    "Momentum, for sgd only."
    schedule: Literal["constant", "linear", "cosine", "plateau"]
    """How the learning rate falls after the warm-up. `linear` and `cosine` reach 0 at the last
    step; `plateau` lowers it when validation does not improve."""
    warmup_steps: Natural
    "Number of steps in which the learning rate rises from 0."
    plateau_factor: Share
    "Factor by which `plateau` multiplies the learning rate."
    plateau_patience: Natural
    "Epochs without improvement before `plateau` lowers the learning rate."
    clip: Literal["none", "norm", "value"]
    "How gradients are clipped: by their norm, value by value, or not."
    clip_at: Scale
    "The norm or value that gradients are clipped at."
    label_smoothing: Share
    "Share of the probability that label smoothing spreads over all words."
    precision: Literal["float32", "bfloat16"]
    "Number type used for computation in training."
    select: Literal["cider", "bleu_4", "loss"]
    """The validation figure that selects the checkpoint. cider and bleu_4 are computed on greedy
    captions, never on teacher-forced ones."""
    patience: Positive
    "Training stops after this many epochs without improvement."
    scheduled_sampling: Literal["none", "linear", "inverse_sigmoid", "always"]
    """How often the decoder reads its own previous word in training. `always` trains without
    teacher forcing."""
    sampling_end: Share
    "For `linear`: the share of the decoder's own words at the last step."
    sampling_k: Scale
    """For `inverse_sigmoid`: a number of steps. The larger it is, the later the decoder reads its
    own words."""
    self_critical_epochs: Natural
    "Epochs of self-critical training on CIDEr-D that follow, starting from the best weights."
    self_critical_lr: LearningRate
    "Learning rate of self-critical training."
    self_critical_samples: Annotated[int, Field(ge=1, le=999)]
    "Captions drawn per image and step of self-critical training."
    min_count: Positive
    "A word must occur at least this often to be in the vocabulary."
    vocabulary_splits: list[Literal["train", "val", "test"]]
    "The splits whose words are counted: [train], unless a paper did otherwise."


class Decoding(Section):
    beam: Beams
    "Beam width; 1 is greedy."
    max_tokens: Tokens
    "Maximum number of tokens in a caption, including its end token."
    length_penalty: Exponent
    """Hypotheses are ranked by log-probability / length ** length_penalty; 0 ranks by
    log-probability alone."""
    alternatives: Beams
    "Captions kept per image: at most `beam`, or `samples`."
    samples: Annotated[int, Field(ge=0, le=999)]
    """0 searches with `beam`. Otherwise this many captions are drawn per image, ordered by the
    decoder's own score from the best down; `beam` is then not used."""
    temperature: Scale
    "Log-probabilities are divided by this value when captions are drawn."
    top_k: Natural
    "A word is drawn from this many of the most likely words; 0 draws from all."
    seed: Seed
    """Random seed of the draw. The captions drawn for an image also depend on its features, but not
    on any other image."""
    also: list[Search]
    "Further searches that produce captions, for the protocols of the same names: greedy, beam-<k>."


class Chair(Section):
    synonyms: str
    """A file of COCO's synonyms. Each line lists the names of one object, separated by commas, the
    object first."""
    instances: list[str]
    """Files of COCO's instances; [] for none. Their objects count in addition to those that
    references name."""


class Scoring(Section):
    metrics: list[str]
    "Files of pipeline/metrics/."
    clip: dict[str, Any] | None
    """Arguments of the encoder `clip`, for the metric clip_score, such as {model:
    openai/clip-vit-base-patch32}."""
    protocols: list[str]
    "Protocols under which every variant is scored, in addition to `standard`."
    chair: Chair | None = None
    "Files for the metric chair. DVC does not watch them: after an edit, dvc repro -f scores again."

    @property
    def chair_files(self) -> dict[str, Any] | None:
        """The files as the metric's `score` takes them."""
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
    """Further protocols for this variant. The protocol of the paper's row must be `standard`, or be
    listed here or in `scoring`."""
    paper: PaperRow | None = None
    "The row of pipeline/experiment/papers.yaml that this variant is compared with."
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
        """Return the top-level `train` with the variant's overrides."""
        return Training(**{**self.train.model_dump(), **self.variants[variant].train})

    def decoding(self, variant: str) -> Decoding:
        return Decoding(**{**self.decode.model_dump(), **self.variants[variant].decode})

    def protocols(self, variant: str) -> list[str]:
        """Return the protocols under which a variant is scored besides `standard`, in the order of
        the file."""
        named = dict.fromkeys([*self.scoring.protocols, *self.variants[variant].protocols])
        return [name for name in named if name != "standard"]


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check the whole file.

    Raises:
        UserError: one line that names every problem, its key, and what is allowed there.
    """
    data = read_params_file(path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected the keys {', '.join(Params.model_fields)}")
    if problems := _problems(data):
        raise UserError(f"{path}: " + "; ".join(problems))
    return Params.model_validate(data)


def _problems(data: dict[Any, Any]) -> list[str]:
    wrong = problems_of(Params, data)
    rows = data.get("variants")
    for name, row in rows.items() if isinstance(rows, dict) else ():
        for key, model in (("train", Training), ("decode", Decoding)):
            own = row.get(key) if isinstance(row, dict) else None
            wrong += overrides(model, data.get(key), own, f"variants.{name}.{key}")
    params = what_is_right(Params, data) if wrong else Params.model_validate(data)
    unknown = unknown_names(params)
    if wrong:
        return wrong + unknown
    unknown += [] if unknown else list(together.all_known(params))
    return [*unknown, *together.files_of_metrics(params), *together.seeds(params)]


def pick(params: Params, section: str, name: str) -> Any:
    """Return one named row of a section.

    Raises:
        UserError: there is no such row; the message lists the existing ones.
    """
    rows = getattr(params, section)
    if name not in rows:
        raise UserError(
            f"'{name}' is not in {section} of params.yaml{nearest(name, rows)}: there are "
            f"{', '.join(rows) or 'none'}"
        )
    return rows[name]

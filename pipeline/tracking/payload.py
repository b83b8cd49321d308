"""Everything that MLflow stores of a variant. It is read from the variant's finished files before
any request to a server."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.core.errors import UserError
from pipeline.core.paths import home
from pipeline.data.checked import read_checked, read_table, read_texts
from pipeline.data.files import fingerprint, write_json
from pipeline.data.shards import Shards
from pipeline.experiment.params import Params, pick, read_params_file
from pipeline.results.history import read_history
from pipeline.results.result import (
    Files,
    Result,
    Setting,
    as_json,
    baseline_result,
    setting,
    variant_result,
)
from pipeline.results.scores import ScoreTable, read_image_scores
from pipeline.tracking.cost import read_cost
from pipeline.tracking.metric_names import named_scores
from pipeline.tracking.model_card import Described, card, read_run
from pipeline.tracking.tags import flat_params, tags
from pipeline.tracking.versions import (
    check_inputs,
    check_outputs,
    check_params,
    entries_fingerprint,
    lock_entries,
    version_tags,
)

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

LOCK = Path("dvc.lock")
# Artifact of a run from which `tables_of` builds the run's lines of the tables.
ROWS = "table_rows.json"
# Largest number of test images in the table of captions.
SAMPLES = 20
# Largest number of those images that are drawn.
PICTURES = 6
# Scores in the note at the top of a run's page.
SHOWN = ("val/cider", "val/bleu_4", "test/cider", "test/bleu_4")
# Width of a drawn picture in pixels.
WIDTH = 320
# Largest height of a drawn picture in pixels. A WebP file holds at most 16,383 pixels per side.
HEIGHT = 1280
# Largest number of lines of a drawn text. A caption in a dataset may have any length.
LINES = 12
# Characters per drawn line.
LINE = 50


class Places(Protocol):
    """The folders of pipeline/core/paths.py that this module uses."""

    DATA: Path
    RAW: Path
    CORPORA: Path
    FEATURES: Path
    REFERENCES: Path
    MODELS: Path
    CHECKPOINTS: Path
    CAPTIONS: Path
    SCORES: Path
    REPORTS: Path
    HISTORY: Path
    RUNS: Path


@dataclass(frozen=True)
class Payload:
    variant: str
    fingerprint: str
    "Digest of the commands, code, params and data that produced the variant."
    params: dict[str, str]
    tags: dict[str, str]
    scores: ScoreTable
    "Scores of the finished variant."
    cost: dict[str, float]
    "Cost of its training by MLflow's names. In neither the fingerprint nor the receipt."
    history: list[dict[str, float]]
    "Rows of the history file, each with its step."
    samples: list[dict[str, Any]]
    "Rows of the caption table: image_id, caption, log_prob, references and per-image scores."
    images: Path
    "Folder of the dataset, which holds the pictures of `samples`."
    files: dict[Path, Path]
    "Path among the artifacts -> file."
    rows: list[dict[str, Any]]
    """The variant's line of the tables and the baseline of its corpus, as `result.as_json` returns
    them."""
    requested: list[str]
    "The metrics of `scoring.metrics`."
    corpus: Path
    "The captions.parquet whose images and captions the model card counts."
    model: Path
    decode: dict[str, Any]
    run_file: Path
    "File that the live curves left: {tracking_uri, run_id, params}."
    lock: Path
    "Lock file that the publishing process holds."

    @property
    def metrics(self) -> dict[str, float]:
        """The scores by MLflow's names, such as test/cider and val/bleu_4."""
        return named_scores(self.scores)

    @property
    def note(self) -> str:
        """The text at the top of the run's page."""
        known = self.metrics
        scores = [f"{name} {known[name]:.4f}" for name in SHOWN if name in known]
        best = next(
            (f"{row['epoch']:.0f}" for row in reversed(self.history) if row.get("best")), "?"
        )
        weights = (
            f"weights of epoch {best} of {len(self.history)}" if self.history else "not trained"
        )
        return (
            f"{self.tags['decoder']} on {self.tags['encoder']}: {', '.join(scores)}; "
            f"{weights}\n\n{self.tags['protocol']}"
        )

    @property
    def receipt(self) -> dict[str, str]:
        """What DVC keeps as the output of `track`. It holds no run ids, no times and nothing that
        depends on the machine."""
        content = [self.params, self.metrics, self.history, self.samples, self.decode, self.rows]
        return {"fingerprint": self.fingerprint, "payload": fingerprint(content)}


def gather(variant: str, params: Params, places: Places) -> Payload:
    """Read everything about one variant.

    Raises:
        UserError: the variant is incomplete, or its files differ from dvc.lock.
    """
    v = pick(params, "variants", variant)
    entries = lock_entries(LOCK, variant)
    check_outputs(entries, variant)
    check_params(entries, read_params_file(), variant)
    inputs = {"corpus": places.CORPORA / v.corpus, "features": places.FEATURES / v.features}
    inputs["decoder"] = Path("pipeline/decoders") / f"{v.decoder}.py"
    check_inputs(entries, inputs, variant)
    captions, per_image = (
        places.CAPTIONS / variant / "captions.parquet",
        places.SCORES / variant / "images.parquet",
    )
    corpus = places.CORPORA / v.corpus / "captions.parquet"
    offered = _setting(params, v.corpus, corpus, places.REFERENCES / v.corpus / "references.json")
    row, baseline = (
        variant_result(variant, params, offered, places.SCORES),
        baseline_result(offered, places.SCORES),
    )
    for name, stage in ((variant, f"score@{variant}"), (baseline.name, f"baseline@{v.corpus}")):
        if missing_file := next(
            (path for path in Files.of(places.SCORES / name) if not path.is_file()), None
        ):
            raise UserError(f"{missing_file} is missing: run dvc repro {stage}")
    key = entries_fingerprint(entries)
    cost, device = read_cost(places.CHECKPOINTS / variant / "cost.json", places.MODELS / variant)
    missing = {
        f"unavailable.{name}": reason for name, reason in row.about.get("unavailable", {}).items()
    }
    return Payload(
        variant=variant,
        fingerprint=key,
        params=flat_params(variant, params),
        tags={
            **tags(variant, params),
            **version_tags(entries, [LOCK, places.REPORTS]),
            **_commit(row),
            **missing,
            **device,
            "fingerprint": key,
        },
        scores=row.scores or ScoreTable(()),
        cost=cost,
        history=read_history(places.HISTORY / f"{variant}.csv"),
        samples=_samples(captions, per_image, corpus),
        images=places.RAW / params.corpora[v.corpus].dataset,
        files={
            path.relative_to(places.DATA): path
            for path in [
                places.HISTORY / f"{variant}.csv",
                captions,
                per_image,
                *Files.of(places.SCORES / variant),
                *Files.of(places.SCORES / baseline.name),
            ]
        },
        rows=[as_json(row), as_json(baseline)],
        requested=params.scoring.metrics,
        corpus=corpus,
        model=places.MODELS / variant,
        decode=params.decoding(variant).model_dump(),
        run_file=places.CHECKPOINTS / variant / "mlflow.json",
        lock=home() / places.RUNS / ".lock",
    )


def _commit(row: Result) -> dict[str, str]:
    """Return the tag of the commit that the tables name for the row.

    HEAD, which `version_tags` gives, may be a later commit that changed nothing of the row. It
    stays in MLflow's own tag, and here only if the row has no commit.
    """
    commit = row.about.get("commit")
    return {"git.commit": commit} if isinstance(commit, str) else {}


def _setting(params: Params, name: str, corpus: Path, references: Path) -> Setting:
    options = params.corpora[name]
    return setting(
        name,
        options.split,
        read_table(corpus, ["image_id", "split"]),
        read_texts(references),
        options.language,
    )


def _samples(captions: Path, per_image: Path, corpus: Path) -> list[dict[str, Any]]:
    """Return test images with their captions, references and scores. The images are evenly spaced
    in the order of their ids."""
    said = read_table(captions, ["image_id", "split", "text", "log_prob"])
    scores = read_image_scores(per_image).drop(columns="split")
    known = read_table(corpus, ["image_id", "text"])
    test = said[said.split == "test"].sort_values("image_id")
    test = (
        test.iloc[:: max(1, math.ceil(len(test) / SAMPLES))]
        .drop(columns="split")
        .rename(columns={"text": "caption"})
    )
    table = test.merge(_references(known, test.image_id), on="image_id").merge(
        scores, on="image_id", how="left"
    )
    return [
        {str(k): None if v != v else v for k, v in row.items()} for row in table.to_dict("records")
    ]


def _references(known: "pd.DataFrame", image_ids: "pd.Series[str]") -> "pd.DataFrame":
    rows = known[known.image_id.isin(image_ids)]
    return rows.groupby("image_id").agg(references=("text", " | ".join)).reset_index()


def write_artifacts(payload: Payload, folder: Path) -> None:
    """Write the run's files into a folder: history, scores, captions, per-image scores, the table
    of captions, the rows of the tables, and the drawn pictures."""
    for place, path in payload.files.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / place)
    columns = list(payload.samples[0]) if payload.samples else []
    write_json(
        folder / "samples.json",
        {"columns": columns, "data": [list(row.values()) for row in payload.samples]},
    )
    write_json(folder / ROWS, {"rows": payload.rows, "requested": payload.requested})
    (folder / "images").mkdir()
    pictures = Shards(payload.images)
    for number, row in enumerate(
        payload.samples[:: max(1, len(payload.samples) // PICTURES)][:PICTURES], 1
    ):
        picture = draw(
            pictures.read(row["image_id"]), row["caption"], row["references"].split(" | ")[0]
        )
        # The name that `log_image` would give, without its timestamp.
        name = f"captions~{number}+step+0+timestamp+0+{fingerprint(row['image_id'])}"
        picture.save(folder / "images" / f"{name}.png")
        picture.save(folder / "images" / f"{name}+compressed.webp")


def draw(image: bytes, caption: str, reference: str) -> "Image":
    """Draw the caption in black and one reference in grey above the picture.

    Each text has at most `LINES` lines. The picture is `WIDTH` pixels wide; a very tall one is
    `HEIGHT` pixels high instead.
    """
    from PIL import Image, ImageDraw

    from pipeline.images.reading import read_image
    from pipeline.images.scaling import less_long, within

    picture = read_image(image)
    size = within(picture.size, (WIDTH, HEIGHT))
    picture = less_long(picture).resize(size)
    lines = [
        (line, colour)
        for text, colour in ((caption, "black"), (reference, "gray"))
        for line in _lines(text)
    ]
    top = 18 * len(lines) + 8
    sheet = Image.new("RGB", (WIDTH, top + picture.height), "white")
    sheet.paste(picture, (0, top))
    pen = ImageDraw.Draw(sheet)
    for number, (line, colour) in enumerate(lines):
        pen.text((6, 4 + 18 * number), line, fill=colour, font_size=12)
    return sheet


def _lines(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text[: 2 * LINE * LINES], LINE, max_lines=LINES, placeholder=" ...")


def write_model(payload: Payload, folder: Path) -> None:
    """Write the model folder with its decoding settings and the model card: everything that
    `Captioner.load` needs."""
    shutil.copytree(payload.model, folder)
    write_json(folder / "decode.json", payload.decode)
    (folder / "README.md").write_text(readme(payload), encoding="utf-8")


def readme(p: Payload) -> str:
    """The model card."""
    run = read_run(p.params, p.tags, p.scores, len(p.history), p.corpus)
    return card(read_checked(p.model / "config.json", Described), p.decode, run)


def example_image(payload: Payload) -> str:
    """Return a small test image as base64, a form that the served model accepts."""
    import base64
    from io import BytesIO

    from PIL import Image

    from pipeline.images.reading import read_image

    picture = (
        read_image(Shards(payload.images).read(payload.samples[0]["image_id"]))
        if payload.samples
        else Image.new("RGB", (64, 64))
    )
    picture.thumbnail((64, 64))
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()

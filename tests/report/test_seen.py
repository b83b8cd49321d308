"""What pretrained models saw before: the file of claims, and the column of the tables."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.experiment.params import load_params
from pipeline.report.formats import csv_text, markdown
from pipeline.report.page import Report, write_page
from pipeline.report.paper_tables import paper_sheets
from pipeline.report.results_table import everything
from pipeline.report.seen import FILE, read_known, seen
from pipeline.results.pretrained import pretrained
from pipeline.results.result import Result
from tests.report.test_results_table import PAPERS, baseline, result
from tests.workspace import ROOT

BLIP, GPT2, CLIP = "Salesforce/blip-image-captioning-base", "gpt2", "openai/clip-vit-base-patch32"
IMAGENET, LLAVA = "vgg16.tv_in1k", "llava-hf/llava-1.5-7b-hf"


def row(name: str, data: str, *models: str, **more: object) -> Result:
    made: Result = result(name, **more)  # type: ignore[arg-type]
    return replace(made, data=data, pretrained=models)


@pytest.mark.parametrize(
    ("data", "models", "mark"),
    [
        ("coco2014", (BLIP,), "captions"),
        ("hugging_face someone/COCO-karpathy", (BLIP,), "captions"),
        ("coco2014", ("file clipcap/coco_weights.pt", CLIP), "captions"),
        ("coco2014", ("microsoft/git-base-coco",), "captions"),
        ("coco2014", ("nlpconnect/vit-gpt2-image-captioning",), "captions"),
        ("coco2014", (LLAVA,), "pictures"),
        ("coco2014", ("HuggingFaceTB/SmolVLM-Instruct",), "pictures"),
        ("coco2014", ("HuggingFaceTB/SmolVLM-256M-Instruct",), "unknown"),
        ("coco2014", ("Qwen/Qwen2.5-VL-3B-Instruct",), "unknown"),
        ("coco2014", ("somebody/never-heard-of",), "unknown"),
        ("coco2014", (IMAGENET, GPT2), "unknown"),
        ("flickr8k", (BLIP,), "unknown"),
        ("flickr30k", (CLIP,), "unknown"),
        ("flickr8k", (IMAGENET,), "no captions"),
        ("coco2014", ("vit_base_patch16_clip_224.openai_ft_in1k",), "unknown"),
        ("coco2014", ("resnet50.fb_swsl_ig1b_ft_in1k",), "unknown"),
        ("coco2014", ("microsoft/git-base-vqav2",), "pictures"),
        ("coco2014", ("file w/vit.augreg_in21k.safetensors",), "unknown"),
        ("coco2014", ("decoder mine",), "unknown"),
        ("coco2014", (), "no"),
        ("scenes", (BLIP,), "-"),
        ("", (BLIP,), "-"),
    ],
)
def test_the_most_that_any_model_of_a_row_saw_of_its_data_set_is_told(
    data: str, models: tuple[str, ...], mark: str
) -> None:
    assert seen(row("one", data, *models)) == mark


def test_a_table_tells_it_of_every_row_with_the_source_of_each_claim() -> None:
    rows = [
        row("blip", "coco2014", BLIP),
        row("sat", "coco2014", IMAGENET),
        row("random", "coco2014"),
        baseline(),
    ]
    lines = markdown(everything(rows, ["cider"])).splitlines()
    assert lines[6:12] == [
        "| variant               | bleu_1 | bleu_4 |  cider |   loss |   top5 | seen in training |",
        "| --------------------- | -----: | -----: | -----: | -----: | -----: | ---------------: |",
        "| blip                  | 0.7000 | 0.2500 | 0.8100 | 2.5000 | 0.6600 |         captions |",
        "| sat                   | 0.7000 | 0.2500 | 0.8100 | 2.5000 | 0.6600 |      no captions |",
        "| random                | 0.7000 | 0.2500 | 0.8100 | 2.5000 | 0.6600 |               no |",
        "| most frequent caption | 0.4000 | 0.0500 | 0.0200 |    n/a |    n/a |              n/a |",
    ]
    told = [line for line in lines if line.startswith("- seen in training")]
    assert [line.split(",")[0] for line in told[:2]] == [
        "- seen in training: what the row's pretrained models saw of this data set in earlier training",
        "- seen in training: captions = its captions; pictures = its pictures",
    ]
    assert [line.partition(". Source: ")[0] for line in told[2:]] == [
        f"- seen in training, {BLIP} on coco: captions"
    ]
    assert "Li et al. 2022 (BLIP), section 4.1" in told[2]


def test_a_model_that_is_in_no_entry_is_told_with_the_file_to_add_it_to() -> None:
    text = markdown(everything([row("mine", "coco2014", "me/mine"), baseline()], ["cider"]))
    assert (
        "- seen in training, me/mine on coco: unknown. Source: none, the model is not in "
        "pipeline/report/seen_in_training.yaml.\n" in text
    )


def test_what_all_rows_saw_stands_above_the_table_once() -> None:
    text = markdown(everything([row("blip", "coco2014", BLIP), baseline()], ["cider"]))
    assert "at most 30 tokens. Seen in training: captions.\n" in text
    assert "| seen in training |" not in text


def test_what_some_rows_saw_does_not_stand_above_a_table_with_a_row_that_nothing_is_known_of() -> (
    None
):
    rows = [row("blip", "coco2014", BLIP), row("mine", "folder", BLIP), baseline()]
    text = markdown(everything(rows, ["cider"]))
    assert "Seen in training" not in text
    assert [line.split("|")[-2].strip() for line in text.splitlines() if line.startswith("| ")][
        2:5
    ] == ["captions", "-", "n/a"]


@pytest.mark.parametrize(
    ("model", "source"),
    [
        ("openai-community/gpt2", "GPT-2"),
        ("vit_base_patch16_clip_224.openai", "name of the weights"),
    ],
)
def test_the_source_is_that_of_the_models_own_entry(model: str, source: str) -> None:
    claim = read_known().claim(model, "coco")
    assert claim
    assert source in claim.source


@pytest.mark.parametrize("models", [(IMAGENET,), ("tf_efficientnet_lite0",), ()])
def test_a_table_of_rows_that_saw_no_caption_is_byte_for_byte_what_it_was(
    models: tuple[str, ...],
) -> None:
    new = everything([row("sat", "coco2014", *models), baseline()], ["cider"])
    old = everything([result("sat"), baseline()], ["cider"])
    assert (markdown(new), csv_text(new)) == (markdown(old), csv_text(old))


def test_the_csv_has_it_once_for_both_splits() -> None:
    scores = {split: {"cider": 0.8} for split in ("test", "val")}
    rows = [
        row("blip", "coco2014", BLIP, scores=scores),
        row("sat", "coco2014", IMAGENET, scores=scores),
    ]
    header, blip, sat = csv_text(everything(rows, ["cider"])).splitlines()
    assert header == "corpus,decoding,variant,seeds,commit,seen in training,test cider,val cider"
    assert blip.endswith(",blip,n/a,n/a,captions,0.8,0.8")
    assert sat.endswith(",sat,n/a,n/a,no captions,0.8,0.8")


def test_a_papers_table_tells_it_and_so_does_its_csv() -> None:
    rows = [
        row("blip", "coco2014", BLIP, paper=("nic", "small")),
        row("sat", "coco2014", IMAGENET, paper=("nic", "large")),
    ]
    [sheet] = paper_sheets(PAPERS, rows)
    assert [
        (c.metric, v)
        for c, v in zip(sheet.tables[0].columns, sheet.tables[0].rows[0][1], strict=True)
    ][-1] == ("seen in training", "captions")
    assert any(line.startswith(f"seen in training, {BLIP} on coco") for line in sheet.legend)
    assert {(r["variant"], r["seen in training"]) for r in sheet.records} == {
        ("blip", "captions"),
        ("sat", "no captions"),
    }
    [plain] = paper_sheets(PAPERS, rows[1:])
    assert "seen in training" not in markdown(plain) + csv_text(plain)


def test_the_page_shows_a_mark_of_two_words_as_one(tmp_path: Path) -> None:
    from pipeline.report.learning_curves import read_curves

    rows = [row("blip", "coco2014", BLIP), row("sat", "coco2014", IMAGENET)]
    sheets = [everything(rows, ["cider"])]
    write_page(tmp_path / "index.html", Report(sheets, read_curves({}), [], [], [], [], []))
    assert ">no captions</td>" in (tmp_path / "index.html").read_text()


def test_every_claim_has_a_source_and_every_model_is_named_once() -> None:
    known = read_known()
    assert list(known.data) == ["coco", "flickr8k", "flickr30k"]
    claims = [claim for entry in known.models for claim in entry.claims]
    assert [c for c in claims if len(c.source.split()) < 5] == []
    assert [c.source for c in claims if c.source.endswith(".") or "http" in c.source] == []
    names = [name for entry in known.models for name in entry.models]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "file", [ROOT / "params.yaml", *sorted((ROOT / "experiments").glob("*.yaml"))], ids=lambda f: f.stem
)  # fmt: skip
def test_every_pretrained_model_of_the_experiments_is_in_the_file(file: Path) -> None:
    params = load_params(file)
    named = {model for variant in params.variants for model in pretrained(params, variant)}
    assert {model for model in named if read_known().claim(model, "coco") is None} == set()


@pytest.mark.parametrize(
    "model",
    [
        "Salesforce/blip-image-captioning-large",
        "Salesforce/blip2-opt-2.7b",
        "microsoft/git-base",
        "microsoft/git-large-coco",
        "Qwen/Qwen3-VL-4B-Instruct",
        "OpenGVLab/InternVL3-1B-hf",
        "google/paligemma-3b-pt-224",
        "google/paligemma2-3b-pt-224",
        "google/gemma-3-4b-it",
        "google/siglip-base-patch16-224",
        "HuggingFaceM4/idefics2-8b",
        "HuggingFaceM4/Idefics3-8B-Llama3",
        "microsoft/Florence-2-base-ft",
        "HuggingFaceTB/SmolLM2-135M",
    ],
)
def test_well_known_models_are_in_the_file(model: str) -> None:
    assert all(read_known().claim(model, family) for family in read_known().data)


def test_an_encoder_without_a_tag_is_judged_by_the_tag_that_timm_gives_it() -> None:
    timm = pytest.importorskip("timm")
    known = read_known()
    models = {name: timm.get_pretrained_cfg(name) for name in timm.list_models()}
    tags = {name: f"{name}.{cfg.tag}" for name, cfg in models.items() if cfg and cfg.has_weights}
    judged = {name: known.claim(name, "coco") for name in tags}
    told = {name: claim.mark for name, claim in judged.items() if claim}
    assert {"resnet50", "vgg16", "convnext_base", "vit_base_patch16_224"} <= told.keys()
    full = {name: known.claim(tags[name], "coco") for name in told}
    assert {n for n, claim in full.items() if not claim or claim.mark != told[n]} == set()


GOOD = """data: {coco: [coco2014], flickr8k: [flickr8k]}
models:
  - models: [gpt2]
    claims:
      - {of: [coco, flickr8k], pictures: no, captions: unknown, source: a paper}
"""


@pytest.mark.parametrize(
    ("wrong", "right", "told"),
    [
        ("captions: maybe", "captions: unknown", "models.0.claims.0.captions: expected 'yes', 'no' or 'unknown', found 'maybe'"),
        (", source: a paper", "", "models.0.claims.0.source"),
        ("source: ''", "source: a paper", "models.0.claims.0.source"),
        ("pictures: no, films: no", "pictures: no", "models.0.claims.0.films"),
        ("of: [coco]", "of: [coco, flickr8k]", "models gpt2: claims of coco: give one of each of coco, flickr8k"),
        ("of: [coco, coco, flickr8k]", "of: [coco, flickr8k]", "claims of coco, coco, flickr8k: give one of each"),
        ("of: [coco, cocoa]", "of: [coco, flickr8k]", "claims of coco, cocoa: give one of each"),
        ("models: []", "models: [gpt2]", "models.0.models: expected a list of at least 1"),
    ],
)  # fmt: skip
def test_a_file_with_a_claim_that_is_none_is_refused_in_one_line(
    tmp_path: Path, wrong: str, right: str, told: str
) -> None:
    file = tmp_path / "claims.yaml"
    file.write_text(GOOD)
    assert read_known(file).models[0].claims[0].mark == "unknown"
    other = tmp_path / "wrong.yaml"
    other.write_text(GOOD.replace(wrong, "") if not right else GOOD.replace(right, wrong))
    with pytest.raises(UserError) as refused:
        read_known(other)
    assert told in str(refused.value)
    assert str(refused.value).startswith(f"{other}: ")
    assert "\n" not in str(refused.value)


def test_the_file_is_package_data() -> None:
    assert FILE.name == "seen_in_training.yaml"
    assert FILE.is_file()

"""The page shows what the captioner says. A visitor can reach nothing but the page, and mistakes
give a one-line error."""

import asyncio
import base64
import io
import json
import math
import os
import re
import shutil
import socket
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import requests
from PIL import Image

from captionlab.cli import app as command
from captionlab.models import load
from captionlab.page import answers
from captionlab.page.answers import (
    THUMBNAIL,
    Answer,
    Decoding,
    Section,
    Shelf,
    answer,
    render,
)
from captionlab.page.heat import SIDE
from captionlab.page.neutral import Wording, neutral_wording
from captionlab.page.server import (
    FORMS,
    HINT,
    PICTURES,
    POLICY,
    REQUEST,
    UPLOAD,
    Turns,
    answers_to,
    build,
    refused,
    serving,
    uploaded_picture,
)
from pipeline.captioner.captioner import GREEDY, Captioner
from pipeline.captioning.captions import Alternative, Caption
from pipeline.core.errors import UserError
from pipeline.metrics import gender
from pipeline.sources.shared.shards import ShardWriter
from tests.captioner.test_captioner import picture, write_model
from tests.pictures import png

ROOT = Path(__file__).parents[2]
NAMES = ["merge", "soft-attention"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A workspace with two models, one of which has attention. Tests drop picture.png on the
    page."""
    root = tmp_path_factory.mktemp("app")
    shutil.copy(ROOT / "params.yaml", root)
    for name in NAMES:
        write_model(root / "models" / name, name.replace("-", "_"))
    (root / "models/unfinished").mkdir()
    (root / "data/raw/scenes").mkdir(parents=True)
    with ShardWriter(root / "data/raw/scenes") as shards:
        for n in range(12):
            shards.add(f"{n:02}", png(picture(n)), ".png")
        shards.add("scan", b"", ".tif")
    rows = [(f"{n:02}", "test" if n % 2 else "train") for n in range(12)]
    rows += [("gone", "test"), ("scan", "test")]
    (root / "data/corpora/scenes").mkdir(parents=True)
    pd.DataFrame(rows, columns=["image_id", "split"]).to_parquet(
        root / "data/corpora/scenes/captions.parquet"
    )
    for n in (1, 3):
        picture(n).save(root / f"{n:02}.png")
    picture(99).save(root / "picture.png")
    return root


@pytest.fixture
def workspace(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


@pytest.fixture(scope="module")
def address(folder):
    """A running page with both models and two examples. Afterwards, it must have removed its
    uploads and restored the environment."""
    before = settings()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        examples = [folder / f"{n:02}.png" for n in (1, 3)]
        shelf = Shelf({name: folder / "models" / name for name in NAMES}, load)
        with serving(shelf, examples, "127.0.0.1", free_port()) as url:
            uploads = Path(os.environ["GRADIO_TEMP_DIR"])
            yield url
        assert not uploads.exists()
    assert settings() == before


def settings():
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("GRADIO_") or "proxy" in name.lower()
    }


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Said:
    """A captioner that always returns the same caption."""

    decode = GREEDY
    device = "cpu"

    def __init__(self, text, log_prob=-1.0, tokens=1, others=()):
        best = Alternative(text, log_prob, log_prob / tokens)
        self.said = Caption(text, log_prob, tokens, [best, *others])

    def decoding_as(self, **keys):
        return self

    def caption(self, images):
        return [self.said for _ in images]


def shelf_of(**captioners):
    return Shelf({name: Path(name) for name in captioners}, lambda path: captioners[path.name])


@pytest.mark.parametrize(
    ("chosen", "keys"),
    [
        ({}, {}),
        ({"way": "greedy"}, {"beam": 1, "alternatives": 1}),
        ({"way": "beam", "beam": 7}, {"beam": 7, "alternatives": 5}),
        (
            {"way": "sampling", "samples": 4, "temperature": 0.5, "seed": 3},
            {"samples": 4, "temperature": 0.5, "seed": 3, "alternatives": 4},
        ),
    ],
    ids=["own", "greedy", "beam", "sampling"],
)
@pytest.mark.parametrize("model", NAMES)
def test_a_card_says_what_the_captioner_says_with_that_decoding(workspace, model, chosen, keys):
    own = {**GREEDY, "beam": 3, "max_tokens": 30, "length_penalty": 0.7, "alternatives": 3}
    theirs = Captioner.load(Path("models") / model, "cpu", {**own, **keys}).caption([picture(5)])[0]
    ours = answer(
        Shelf({model: Path("models") / model}, load), model, picture(5), Decoding(**chosen)
    )
    assert (ours.text, ours.log_prob, ours.error) == (theirs.text, theirs.log_prob, "")
    assert ours.others == theirs.alternatives[1:]


def test_confidence_is_the_mean_probability_of_a_word(monkeypatch):
    monkeypatch.setattr(answers, "looked_at", lambda *_: [])
    ours = answer(shelf_of(a=Said("a dog", 3 * math.log(0.5), 3)), "a", picture(0), Decoding())
    assert ours.word_chance == pytest.approx(0.5)
    assert "<b>50 %</b> per word" in render([Section([ours])])


def test_a_decoder_that_attends_shows_a_picture_for_each_word_and_another_none(workspace):
    shelf = Shelf({name: Path("models") / name for name in NAMES}, load)
    looking = answer(shelf, "soft-attention", picture(5), Decoding())
    assert [word for word, _ in looking.looked] == looking.text.split()
    assert len({address for _, address in looking.looked}) > 1
    assert answer(shelf, "merge", picture(5), Decoding()).looked == []
    html = render([Section([looking])])
    assert html.count("<figure>") == len(looking.text.split()) > 0


def test_models_are_loaded_when_asked_for_and_few_are_kept():
    loaded = []
    shelf = Shelf(
        {name: Path(name) for name in "abc"}, lambda path: loaded.append(path.name) or path, kept=2
    )
    assert loaded == []
    for name in "aabacab":
        shelf.get(name)
    assert loaded == ["a", "b", "c", "b"]


def test_a_model_that_cannot_be_used_says_so_on_its_card_and_the_others_have_theirs(
    workspace, monkeypatch
):
    monkeypatch.setattr(answers, "looked_at", lambda *_: [])
    shelf = Shelf({name: Path("models") / name for name in ("unfinished", "merge")}, load)
    cards = [
        answer(shelf, name, picture(0), Decoding()) for name in ("unfinished", "merge", "unknown")
    ]
    assert cards[0].error.startswith(
        "models/unfinished is not a model folder: config.json is missing"
    )
    assert cards[1].error == ""
    assert cards[2].error == "unknown model 'unknown': there are unfinished, merge"
    assert render([Section(cards)]).count('role="alert"') == 2


def test_what_a_model_says_is_text_on_the_page():
    card = Answer(
        "<i>m</i>",
        text="<script>x</script>",
        others=[Alternative("<b>", -1.0, -1.0)],
        wording=Wording(("man",), "<u>"),
    )
    html = render([Section([card])])
    assert not re.search(r"<(script|b>|i>m|u>)", html.replace("<b>0 %", ""))
    assert "&lt;script&gt;" in html


def test_a_caption_that_names_a_gender_is_flagged_with_its_neutral_wording(monkeypatch):
    monkeypatch.setattr(answers, "looked_at", lambda *_: [])
    cards = [
        answer(shelf_of(a=Said(text)), "a", picture(0), Decoding())
        for text in ("a man runs", "a dog runs")
    ]
    assert "names a gender: man</span> Without it: <q>a person runs</q>" in render(
        [Section(cards[:1])]
    )
    assert "gender" not in render([Section(cards[1:])])


@pytest.mark.parametrize(
    ("caption", "neutral"),
    [
        ("a man in a red shirt", "a person in a red shirt"),
        ("A woman holds her baby", "A person holds their baby"),
        ("a man and a woman are standing", "two people are standing"),
        ("the boys and girls play", "the children play"),
        ("an uncle and a sportsman", "a relative and an athlete"),
        ("a female athlete runs", "an athlete runs"),
        ("a male and a female", "two people"),
        ("two male swimmers", "two swimmers"),
        (
            "A man's hat , and his dog looks at her .",
            "A person's hat , and their dog looks at them .",
        ),
        ("she is a girl", "they are a child"),
        ("a dog with a ball in his mouth", None),
        ("two people", None),
        ("", None),
    ],
)
def test_neutral_wording_follows_its_rule(caption, neutral):
    found = neutral_wording(caption)
    assert (found and found.text) == neutral


def test_every_gendered_word_has_a_neutral_counterpart():
    women, men, _ = gender.words()
    for word in women | men:
        found = neutral_wording(f"a {word} rests")
        assert found, word
        assert found.named == (word,)
        assert gender.named(found.text) is None, word


def test_a_misspelt_model_names_the_nearest():
    with pytest.raises(UserError) as error:
        Shelf({"merge": Path("models/merge")}, load).get("merg")
    assert str(error.value) == "unknown model 'merg' (did you mean 'merge'?): there are merge"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"way": "magic"}, "way: expected 'own', 'greedy', 'beam' or 'sampling', found 'magic'"),
        ({"beam": 0}, "beam: expected at least 1, found 0"),
        ({"samples": 10**6}, "samples: expected at most 10, found 1000000"),
        (
            {"temperature": "hot"},
            "temperature: expected a number, found 'hot'",
        ),
        ({"seed": None}, "seed: expected a whole number, found null"),
    ],
)
def test_a_decoding_that_cannot_be_is_one_line(values, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        Decoding.read(**values)


def said_last(shelf, uploads, *values):
    """Return what the page shows at the end."""
    turns = Turns(lambda jobs: [job() for job in jobs], batch=1)
    return list(answers_to(shelf, uploads, turns, *values))[-1]


def test_several_pictures_have_an_answer_each_and_a_broken_one_its_reason(workspace, tmp_path):
    shelf = Shelf({name: Path("models") / name for name in NAMES}, load)
    for n in range(3):
        picture(n).save(tmp_path / f"{n}.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "1.png").read_bytes()[:99])
    dropped = [
        {"image": {"path": str(tmp_path / name)}, "caption": None}
        for name in ("0.png", "broken.png", "2.png")
    ]
    html = said_last(shelf, tmp_path, dropped, NAMES, "own", 5, 5, 1.0, 1)
    assert html.count('<img class="seen"') == 2
    assert html.count('role="alert">this file cannot be used: ') == 1
    captions = re.findall(r'<p class="caption" dir="auto">(.*?)</p>', html)
    expected = [
        load(Path("models") / name).caption([picture(n)])[0].text for n in (0, 2) for name in NAMES
    ]
    assert captions == [text or "(no word)" for text in expected]


def sizes_of(addresses):
    """Return the sizes of pictures by their addresses (data:...)."""
    contents = (base64.b64decode(address.partition(",")[2]) for address in addresses)
    return [Image.open(io.BytesIO(content)).size for content in contents]


@pytest.fixture
def cropping(folder, tmp_path):
    """The models, changed to see the centre of a picture, 224 pixels wide."""
    for name in NAMES:
        changed = shutil.copytree(folder / "models" / name, tmp_path / "models" / name)
        config = json.loads((changed / "config.json").read_text())
        config["encoder"]["args"] |= {"resize": "crop", "image_size": 224}
        (changed / "config.json").write_text(json.dumps(config))
    return Shelf({name: tmp_path / "models" / name for name in NAMES}, load)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_a_very_long_picture_has_captions_a_small_copy_and_a_heat_map_for_each_word(
    workspace, cropping, tmp_path, size
):
    long = Image.new("RGB", size, "red")
    long.save(tmp_path / "long.png")
    picture(1).save(tmp_path / "1.png")
    dropped = [{"image": {"path": str(tmp_path / name)}} for name in ("long.png", "1.png")]
    html = said_last(cropping, tmp_path, dropped, NAMES, "own", 5, 5, 1.0, 1)
    assert "cannot be used" not in html
    assert len(re.findall(r'<p class="caption" dir="auto">', html)) == 4
    small, *_ = sizes_of(re.findall(r'<img class="seen" src="([^"]+)"', html))
    assert small == tuple(min(side, THUMBNAIL) for side in size)
    for shelf in (cropping, Shelf({name: Path("models") / name for name in NAMES}, load)):
        looked = answer(shelf, "soft-attention", long, Decoding()).looked
        assert looked
        assert all(max(shown) <= SIDE for shown in sizes_of(address for _, address in looked))


def test_more_pictures_than_are_taken_are_one_line(tmp_path):
    shelf, decoding = shelf_of(a=Said("a dog")), ("own", 5, 5, 1.0, 1)
    dropped = [{"image": {"path": "x"}}] * (PICTURES + 1)
    assert said_last(shelf, tmp_path, dropped, ["a"], *decoding) == (
        '<p class="trouble" role="alert">5 pictures, at most 4 at once: take some away</p>'
    )
    many = [f"m{n}" for n in range(7)]
    assert said_last(shelf, tmp_path, dropped[:4], many, *decoding) == (
        '<p class="trouble" role="alert">28 captions, at most 24 at once: choose fewer</p>'
    )


def test_a_visitor_with_one_picture_is_not_held_up_by_who_has_many(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "looked_at", lambda *_: [])
    picture(0).save(tmp_path / "a.png")
    dropped = {"image": {"path": str(tmp_path / "a.png")}}
    made, begun, go = [], threading.Event(), threading.Event()

    class Slow(Said):
        def caption(self, images):
            made.append(self.said.text)
            begun.set()
            assert go.wait(20)
            return super().caption(images)

    shelf = shelf_of(many=Slow("many"), one=Slow("one"))
    turns = Turns(lambda jobs: [job() for job in jobs], batch=1)

    def visit(pictures, model):
        return list(answers_to(shelf, tmp_path, turns, pictures, [model], "own", 5, 5, 1.0, 1))

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(visit, [dropped] * 4, "many")
        assert begun.wait(20)
        second = pool.submit(visit, [dropped], "one")
        while not turns._waiting:
            time.sleep(0.005)
        go.set()
        assert [len(first.result(20)), len(second.result(20))] == [4, 1]
    assert made.index("one") <= 2


def test_without_a_picture_or_a_model_the_page_asks_for_one(tmp_path):
    shelf, decoding = shelf_of(a=Said("a dog")), ("own", 5, 5, 1.0, 1)
    picture(0).save(tmp_path / "a.png")
    dropped = {"path": str(tmp_path / "a.png")}
    assert said_last(shelf, tmp_path, None, ["a"], *decoding) == HINT
    for models in ([], None, "a"):
        assert (
            said_last(shelf, tmp_path, dropped, models, *decoding)
            == '<p class="trouble" role="alert">choose a model</p>'
        )


def test_only_what_was_uploaded_is_opened(tmp_path):
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    picture(0).save(tmp_path / "outside.png")
    (uploads / "link.png").symlink_to(tmp_path / "outside.png")
    for path in (
        tmp_path / "outside.png",
        uploads / "../outside.png",
        uploads / "link.png",
        uploads / "none.png",
        uploads,
        "x",
    ):
        with pytest.raises(
            UserError, match=r"^this picture was not uploaded here, or is gone: drop it again$"
        ):
            uploaded_picture({"path": str(path)}, uploads)
    for nothing in ({}, {"url": "data:image/png;base64,AAAA"}, 3, "/etc/passwd"):
        with pytest.raises(UserError, match=r"^this picture was not uploaded here"):
            uploaded_picture(nothing, uploads)


def test_a_picture_that_is_none_or_too_large_is_one_line(tmp_path):
    contents = {"text": b"no picture", "empty": b"", "large": bytes(UPLOAD + 1)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    Image.fromarray(np.zeros((3001, 4000), dtype=np.uint8)).save(tmp_path / "many.png")
    messages = {
        "empty": "this file cannot be used: empty file",
        "large": "the picture has more than 10 MB: drop a smaller one",
        "text": "this file cannot be used: not a picture (JPEG, PNG, WEBP, GIF, BMP)",
        "many.png": "this file cannot be used: 4000 x 3001, more than 12,000,000 pixels: send it "
        "smaller, or as a JPEG",
    }
    for name, message in messages.items():
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            uploaded_picture({"path": str(tmp_path / name)}, tmp_path)


@pytest.mark.parametrize(
    ("request_line", "length", "status"),
    [
        ("GET /", None, None),
        ("GET /gradio_api/file=/tmp/a.png", None, None),
        ("GET /gradio_api/file=http://example.org/a", None, 403),
        ("GET /gradio_api/file=https://example.org/a", None, 403),
        ("GET /gradio_api/proxy=https://example.org/a", None, 403),
        ("GET /monitoring/summary", None, 403),
        ("POST /gradio_api/process_recording", 10, 403),
        ("POST /gradio_api/upload", PICTURES * (UPLOAD + FORMS), None),
        ("POST /gradio_api/upload", PICTURES * (UPLOAD + FORMS) + 1, 413),
        ("POST /gradio_api/upload", None, 411),
        ("POST /gradio_api/queue/join", REQUEST, None),
        ("POST /gradio_api/queue/join", REQUEST + 1, 413),
        ("POST /gradio_api/queue/join", "ten", 411),
    ],
)
def test_requests_are_bounded_and_lead_nowhere_else(request_line, length, status):
    found = refused(*request_line.split(), None if length is None else str(length).encode())
    assert (found and found[0]) == status


def test_the_server_serves_no_file_of_the_machine_and_binds_the_browser_to_itself(address, folder):
    page = requests.get(address, timeout=10)
    assert page.headers["content-security-policy"] == POLICY
    for path in (
        "/etc/passwd",
        folder / "params.yaml",
        "params.yaml",
        "%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        f"{folder}/models/merge/config.json",
    ):
        assert requests.get(f"{address}gradio_api/file={path}", timeout=10).status_code == 403, path
    assert (
        requests.get(f"{address}gradio_api/file=http://127.0.0.1:9/", timeout=10).status_code == 403
    )
    for path in ("openapi.json", "docs", "monitoring"):
        assert requests.get(address + path, timeout=10).status_code in (403, 404), path
    large = requests.post(
        f"{address}gradio_api/upload",
        files={"files": ("a.png", bytes(PICTURES * (UPLOAD + FORMS)))},
        timeout=30,
    )
    assert large.status_code == 413


def submit(address, picture_data, models=("merge",)):
    """Send data that no page would send to the page's event. Return the answer."""
    session = uuid.uuid4().hex
    functions = requests.get(f"{address}config", timeout=10).json()["dependencies"]
    index = next(f["id"] for f in functions if len(f["inputs"]) == 7)
    sent = {
        "data": [picture_data, list(models), "own", 5, 5, 1, 1],
        "fn_index": index,
        "session_hash": session,
    }
    joined = requests.post(f"{address}gradio_api/queue/join", json=sent, timeout=10)
    joined.raise_for_status()
    with requests.get(
        f"{address}gradio_api/queue/data", params={"session_hash": session}, stream=True, timeout=30
    ) as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix(b"data: ")) if line else {}
            if message.get("msg") == "process_completed":
                return message
    raise AssertionError("no answer")


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "{folder}/picture.png", "http://127.0.0.1:{port}/a.png"]
)
def test_a_forged_picture_is_refused_and_nothing_is_fetched(address, folder, path, server):
    port = server.server_address[1]
    described = {
        "path": path.format(folder=folder, port=port),
        "meta": {"_type": "gradio.FileData"},
    }
    answered = submit(address, [{"image": described, "caption": None}])
    assert not answered["success"], answered
    bare = submit(address, [{"image": {"path": described["path"]}}])
    assert not bare["success"] or "was not uploaded here" in bare["output"]["data"][0]


def test_no_address_is_fetched_for_a_picture(folder):
    page = build(Shelf({"merge": folder}, load), [], folder)
    box = next(block for block in page.blocks.values() if block.elem_id == "picture")
    with pytest.raises(ValueError, match="uploaded, not fetched"):
        asyncio.run(box.async_move_resource_to_block_cache("https://example.org/a.png"))
    with pytest.raises(ValueError, match="uploaded, not fetched"):
        box.move_resource_to_block_cache("https://example.org/a.png")


def browser_path():
    return (
        os.environ.get("CAPTIONLAB_CHROMIUM")
        or shutil.which("chromium")
        or shutil.which("chromium-browser")
    )


@pytest.mark.timeout(180)
@pytest.mark.skipif(not browser_path(), reason="no Chromium on PATH or in CAPTIONLAB_CHROMIUM")
def test_in_a_browser_an_uploaded_picture_gets_the_captions_of_the_chosen_models(
    address, folder, monkeypatch
):
    from playwright.sync_api import sync_playwright

    monkeypatch.chdir(folder)
    said = {name: load(Path("models") / name).caption([Path("picture.png")])[0] for name in NAMES}
    example = load(Path("models/merge")).caption([Path("03.png")])[0]
    chances = {"picture": f"{said['merge'].log_prob:.2f}", "example": f"{example.log_prob:.2f}"}
    assert chances["picture"] != chances["example"]
    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-sync",
    ]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_path(), args=flags)
        page = browser.new_page(viewport={"width": 400, "height": 800})
        asked, troubles = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "console", lambda line: troubles.append(line.text) if line.type == "error" else None
        )
        page.goto(address)
        page.set_input_files("#picture input[type=file]", "picture.png")
        page.wait_for_selector("[data-model=merge] .caption", timeout=60_000)
        page.get_by_label("soft-attention", exact=True).check()
        page.wait_for_selector("[data-model=soft-attention] .looked", timeout=60_000)
        for name, caption in said.items():
            card = page.locator(f"[data-model={name}]")
            assert card.locator(".caption").inner_text() == caption.text
            assert f"log-probability {caption.log_prob:.2f}" in card.inner_text()
            shown = card.locator(".others li").all_inner_texts()
            others = [(one.text, one.score, one.log_prob) for one in caption.alternatives[1:]]
            assert shown == [f"{text} {score:.2f}; {own:.2f}" for text, score, own in others]
            assert card.locator(".others li").count() == len(caption.alternatives) - 1
        words = page.locator("[data-model=soft-attention] figcaption").all_inner_texts()
        assert words == said["soft-attention"].text.split()
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        page.locator("button.gallery-item").nth(1).click()
        page.locator(
            "[data-model=merge]", has_text=f"log-probability {chances['example']}"
        ).wait_for(timeout=60_000)
        page.get_by_label("soft-attention", exact=True).uncheck()
        page.set_input_files("#picture input[type=file]", ["picture.png"] * 2)
        page.wait_for_function(
            "document.querySelectorAll('[data-model=merge] .caption').length > 1"
        )
        browser.close()
    assert troubles == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def test_the_workspaces_models_are_offered_and_unfinished_ones_are_not(workspace):
    with command.model_folders(None) as found:
        assert found == {name: Path("models") / name for name in NAMES}
    assert not Path("mlflow.db").exists()


def test_the_champion_stands_first_with_its_variants_name(workspace, monkeypatch, tmp_path):
    from contextlib import nullcontext

    (tmp_path / "config.json").write_text('{"variant": "merge"}')
    monkeypatch.setattr(command, "_has_registry", lambda: True)
    monkeypatch.setattr(command, "open_folder", lambda *_: nullcontext(tmp_path))
    with command.model_folders(None) as found:
        assert next(iter(found.items())) == ("champion (merge)", tmp_path)
        assert list(found) == ["champion (merge)", *NAMES]


def test_without_a_champion_the_page_says_why_and_offers_the_others(workspace, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with command.model_folders(None) as found:
        assert list(found) == NAMES
    assert capsys.readouterr().err.startswith(
        "no champion: MLflow at http://127.0.0.1:9 is out of reach ("
    )


def test_examples_are_test_images_that_a_browser_can_show(workspace, tmp_path):
    found = command.example_images(tmp_path)
    assert [path.name for path in found] == [f"{n:02}.png" for n in (1, 3, 5, 7, 9, 11)]
    assert [path.read_bytes() for path in found[:2]] == [png(picture(n)) for n in (1, 3)]


def test_a_port_in_use_and_an_unknown_host_are_one_line(workspace, captionlab):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, out, err = captionlab("app", "--port", port)
    assert (status, out) == (2, "")
    assert (
        err == f"error: cannot serve at 127.0.0.1:{port} (address already in use): name another "
        "--port, or --host\n"
    )
    status, _, err = captionlab("app", "--host", "no.such.host.invalid")
    assert status == 2
    assert err.startswith("error: cannot serve at no.such.host.invalid:7860 (")
    assert err.count("\n") == 1


def test_a_workspace_without_models_is_told_to_run_dvc_repro(tmp_path, monkeypatch, captionlab):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert captionlab("app", "--port", free_port()) == (
        2,
        "",
        "error: no trained model in models/, and no champion: run dvc repro (or make "
        "repro) first\n",
    )


def test_only_the_page_imports_gradio():
    for path in [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        assert path.name == "app.py" or not re.search(
            r"^\s*(import|from) gradio", path.read_text(), re.M
        ), path


@pytest.mark.parametrize("content", ["{", "[]", '{"variant": 3}'])
def test_a_champion_with_a_damaged_config_is_left_out_in_one_line(
    workspace, monkeypatch, tmp_path, capsys, content
):
    from contextlib import nullcontext

    (tmp_path / "config.json").write_text(content)
    monkeypatch.setattr(command, "_has_registry", lambda: True)
    monkeypatch.setattr(command, "open_folder", lambda *_: nullcontext(tmp_path))
    with command.model_folders(None) as found:
        assert list(found) == NAMES
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"no champion: {tmp_path}/config.json")
    assert line.endswith(": train it again, then captionlab register")

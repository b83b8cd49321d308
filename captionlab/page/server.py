"""The page to try models on: upload pictures, and see the models' captions side by side.

gradio serves the page. A visitor can reach little: a picture must be an upload (no path, no
address, no data URI) of at most `UPLOAD` bytes, and `look_at` reads it. Uploads lie in a folder
that is deleted with the server. The page requests nothing from any other machine; its
Content-Security-Policy makes the browser enforce this.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captionlab.page.answers import (
    WIDEST,
    Answer,
    Decoding,
    Section,
    Shelf,
    answer,
    render,
    thumbnail,
)
from pipeline.captioner.batcher import Together
from pipeline.captioner.served import look_at
from pipeline.core.errors import UserError, one_line
from pipeline.images.reading import ImageError

if TYPE_CHECKING:
    from gradio import Blocks
    from PIL.Image import Image
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Maximum bytes of a picture.
UPLOAD = 10 * 2**20
# Maximum pictures that are uploaded and captioned at once.
PICTURES = 4
# Maximum of pictures times models in one request.
CARDS = 24
# Maximum visitors whose cards are made in turns, one card at a time. Further visitors wait.
VISITORS = 8
# Maximum requests that wait. A further one is told that the queue is full.
QUEUE = 32
# Maximum bytes of a request that is no upload.
REQUEST = 2**20
# Maximum bytes of a multipart form around its picture.
FORMS = 2**14
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'; "
    "base-uri 'self'; form-action 'self'"
)
# Paths of gradio's server that lead to files and networks, and that this page does not need.
REFUSED = (
    "/file=http",
    "/proxy=",
    "/process_recording",
    "/vibe",
    "/run-history",
    "/monitoring",
    "/dev/",
)
WAYS = [
    ("as evaluated", "own"),
    ("greedy", "greedy"),
    ("beam search", "beam"),
    ("sampling", "sampling"),
]
HINT = (
    '<p class="empty">Captions are shown here. Up to '
    f"{PICTURES} pictures may be dropped at once, of at most {UPLOAD // 2**20} MB each.</p>"
)

# The jobs of all visitors, one at a time. A visitor with many pictures does not hold up others.
Turns = Together[Callable[[], Any], Any]


@contextmanager
def serving(shelf: Shelf, examples: Sequence[Path], host: str, port: int) -> Iterator[str]:
    """Yield the address of the running page; uploads are deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="captionlab-app-") as folder, _environment(folder):
        import gradio as gr
        from starlette.middleware import Middleware

        page = build(shelf, examples, Path(folder))
        page.queue(max_size=QUEUE, default_concurrency_limit=VISITORS)
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                share=False,
                prevent_thread_lock=True,
                quiet=True,
                inbrowser=False,
                max_file_size=UPLOAD,
                footer_links=[],
                run_history=False,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                enable_monitoring=False,
                app_kwargs={
                    "middleware": [Middleware(Guard)],
                    "docs_url": None,
                    "redoc_url": None,
                    "openapi_url": None,
                },
                theme=_theme(gr),
                css_paths=Path(__file__).with_name("page.css"),
            )
            yield address
        finally:
            page.close(verbose=False)


@contextmanager
def _environment(folder: str) -> Iterator[None]:
    """Set the environment variables that gradio reads on import and at launch.

    gradio looks up its own server, and this must not go through a proxy.
    """
    set_here = {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": folder,
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    direct = ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1,localhost"]))
    set_here |= {"NO_PROXY": direct, "no_proxy": direct}
    before = {
        name: os.environ.get(name)
        for name in [*set_here, *(n for n in os.environ if n.startswith("GRADIO_"))]
    }
    for name in before:
        os.environ.pop(name, None)
    os.environ.update(set_here)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _theme(gr: Any) -> Any:
    """Return a theme with the system's fonts, and soft text that can be read on white."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return gr.themes.Default(primary_hue="blue", neutral_hue="slate", **fonts).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )


def build(shelf: Shelf, examples: Sequence[Path], uploads: Path) -> "Blocks":
    """Return the page for the models of a shelf, with the first one chosen.

    Pictures are accepted only from the folder `uploads`.
    """
    import gradio as gr

    names = list(shelf.folders)
    with gr.Blocks(title="captionlab", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML("<h1>captionlab</h1><p>What trained models say of pictures.</p>", elem_id="title")
        with gr.Row(elem_id="layout"):
            with gr.Column():
                picture = _picture_box(gr)
                models = gr.CheckboxGroup(
                    names, value=names[:1], label="Models", info="Several are shown side by side."
                )
                go = gr.Button("Caption", variant="primary", elem_id="go")
                decoding = _decoding_box(gr)
            with gr.Column(elem_id="shown"):
                shown = gr.HTML(HINT, elem_id="answers", js_on_load=None)
            with gr.Column():
                _examples(gr, examples, picture)

        turns = Turns(lambda jobs: [job() for job in jobs], batch=1)

        def caption(*values: Any) -> Iterator[str]:
            yield from answers_to(shelf, uploads, turns, *values)

        events = [
            go.click,
            picture.change,
            models.change,
            *(getattr(c, "release", c.change) for c in decoding),
        ]
        gr.on(
            events,
            caption,
            [picture, models, *decoding],
            shown,
            preprocess=False,  # gradio would open the picture itself
            api_visibility="private",
            trigger_mode="always_last",
            show_progress="minimal",
        )
    built: Blocks = page
    return built


def _picture_box(gr: Any) -> Any:
    pictures = gr.Gallery(
        type="filepath",
        sources=["upload", "clipboard"],
        file_types=["image"],
        interactive=True,
        label=f"Pictures (up to {PICTURES})",
        height=300,
        columns=2,
        object_fit="contain",
        buttons=["fullscreen"],
        elem_id="picture",
    )
    pictures.move_resource_to_block_cache, pictures.async_move_resource_to_block_cache = (
        _only_uploads(pictures)
    )
    return pictures


def _examples(gr: Any, files: Sequence[Path], picture: Any) -> None:
    if files:
        shown = gr.Examples(
            [[[str(path)]] for path in files],
            picture,
            label="Test images",
            api_visibility="private",
        )
        for component in (picture, shown.dataset):
            component.keep_in_cache |= (
                component.temp_files
            )  # otherwise they are deleted after an hour, like uploads


def _only_uploads(component: Any) -> tuple[Any, Any]:
    """Return the component's two functions that take a file; they refuse addresses to fetch."""
    take, take_async = (
        component.move_resource_to_block_cache,
        component.async_move_resource_to_block_cache,
    )

    def checked(place: str | Path | None) -> str | Path | None:
        if place is not None and "://" in str(place):
            raise ValueError("pictures are uploaded, not fetched")
        return place

    async def uploaded(place: str | Path | None) -> str | None:
        kept: str | None = await take_async(checked(place))
        return kept

    return lambda place: take(checked(place)), uploaded


def _decoding_box(gr: Any) -> list[Any]:
    """Return the inputs of `Decoding`, in the order of its fields.

    The inputs of ways that are not chosen are hidden.
    """
    with gr.Accordion("Decoding", open=False):
        way = gr.Radio(WAYS, value="own", show_label=False)
        beam = gr.Slider(2, WIDEST, value=5, step=1, label="Beam width", visible=False)
        with gr.Group(visible=False) as sampling:
            samples = gr.Slider(
                1, WIDEST, value=5, step=1, label="Captions drawn; the best is shown first"
            )
            temperature = gr.Slider(0.1, 2, value=1, step=0.1, label="Temperature")
            seed = gr.Number(1, precision=0, minimum=0, label="Seed; another one draws others")

    def show(chosen: str) -> tuple[Any, Any]:
        return gr.update(visible=chosen == "beam"), gr.update(visible=chosen == "sampling")

    way.change(show, way, [beam, sampling], api_visibility="private", queue=False)
    return [way, beam, samples, temperature, seed]


def answers_to(
    shelf: Shelf, uploads: Path, turns: Turns, pictures: Any, models: Any, *decoding: Any
) -> Iterator[str]:
    """Yield the cards of the chosen models for every picture, as HTML, each time a card is done.

    If something is wrong, yield one line that says so.

    `pictures`, `models` and `decoding` come from a browser, so they may be anything.

    Args:
        uploads: the folder of uploaded pictures.
        turns: makes the cards of all visitors in turns.
        pictures: gradio's description of uploaded files, or None.
        models: names of models on the shelf.
        decoding: the fields of `Decoding`, in its order.
    """
    if not pictures:
        yield HINT
        return
    try:
        chosen = Decoding.read(**dict(zip(Decoding.model_fields, decoding, strict=True)))
        names = _names(models)
        files = _files(pictures, len(names))
    except UserError as error:
        yield f'<p class="trouble" role="alert">{escape(one_line(error))}</p>'
        return
    done: list[Section] = []
    for file in files:
        for section in _sections(shelf, uploads, turns, file, names, chosen):
            if section.answers and len(files) == 1:
                section = replace(section, address="")
            yield render([*done, section])
        done.append(section)


def _names(models: Any) -> list[str]:
    if not isinstance(models, list) or not models:
        raise UserError("choose a model")
    return list(dict.fromkeys(map(str, models)))


def _files(pictures: Any, models: int) -> list[Any]:
    files = pictures if isinstance(pictures, list) else [pictures]
    if len(files) > PICTURES:
        raise UserError(f"{len(files)} pictures, at most {PICTURES} at once: take some away")
    if len(files) * models > CARDS:
        raise UserError(f"{len(files) * models} captions, at most {CARDS} at once: choose fewer")
    return files


def _sections(
    shelf: Shelf, uploads: Path, turns: Turns, file: Any, names: list[str], chosen: Decoding
) -> Iterator[Section]:
    """Yield the section of one picture, each time with one more model."""
    try:
        [picture] = turns([partial(uploaded_picture, file, uploads)])
    except UserError as error:
        yield Section(error=one_line(error))
        return
    address, cards = thumbnail(picture), list[Answer]()
    for name in names:
        cards += turns([partial(answer, shelf, name, picture, chosen)])
        yield Section(tuple(cards), address=address)


def uploaded_picture(described: Any, uploads: Path) -> "Image":
    """Return an uploaded picture.

    Raises:
        UserError: it was not uploaded, is too large, or is no picture.
    """
    if isinstance(described, dict) and isinstance(described.get("image"), dict):
        described = described["image"]
    path = Path(str(described.get("path") if isinstance(described, dict) else described)).resolve()
    if not path.is_relative_to(uploads.resolve()) or not path.is_file():
        raise UserError("this picture was not uploaded here, or is gone: drop it again")
    if path.stat().st_size > UPLOAD:
        raise UserError(f"the picture has more than {UPLOAD // 2**20} MB: drop a smaller one")
    try:
        return look_at(path.read_bytes()).decode()
    except ImageError as error:
        raise UserError(f"this file cannot be used: {one_line(error)}") from None


class Guard:
    """Middleware that restricts requests and answers.

    A request must have a known, bounded length and a path that the page needs. The headers of an
    answer make the browser use only this server.
    """

    def __init__(self, app: "ASGIApp"):
        self.app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from starlette.responses import PlainTextResponse

        async def with_policy(message: "Message") -> None:
            if message["type"] == "http.response.start":
                policy = [
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                ]
                message["headers"] = [*message["headers"], *policy]
            await send(message)

        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        refusal = refused(
            scope["method"], scope["path"], dict(scope["headers"]).get(b"content-length")
        )
        answering = PlainTextResponse(refusal[1], refusal[0]) if refusal else self.app
        return await answering(scope, receive, with_policy)


def refused(method: str, path: str, length: bytes | None) -> tuple[int, str] | None:
    """Return status and reason if a request is refused, or None."""
    if any(part in path for part in REFUSED):
        return 403, "not served here"
    if method in ("GET", "HEAD", "OPTIONS"):
        return None
    if length is None or not length.isdigit():
        return 411, "the length of the request is missing"
    allowed = PICTURES * (UPLOAD + FORMS) if path.rstrip("/").endswith("/upload") else REQUEST
    return (413, f"more than {allowed} bytes") if int(length) > allowed else None

"""The page to try models on: a picture goes in, captions come out side by side. Served by gradio,
to this machine alone.

What a visitor can reach is kept small: pictures are taken from the upload and nowhere else (no
path, no address, no data URI), are at most `UPLOAD` large and pass `read_image`; they lie in a
folder that is deleted with the server. The page asks nothing of any other machine, which its
Content-Security-Policy makes the browser enforce.
"""

import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captionlab.page.answers import WIDEST, Decoding, Shelf, answer, render
from pipeline.core.errors import UserError, one_line
from pipeline.data.images import ImageError, read_image

if TYPE_CHECKING:
    from gradio import Blocks
    from PIL.Image import Image
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

UPLOAD = 10 * 2**20
"bytes of a picture"
REQUEST = 2**20
"bytes of any other request"
FORMS = 2**14
"bytes of a multipart form around its picture"
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'; "
    "base-uri 'self'; form-action 'self'"
)
REFUSED = (
    "/file=http",
    "/proxy=",
    "/process_recording",
    "/vibe",
    "/run-history",
    "/monitoring",
    "/dev/",
)
"ways of gradio's server into files and networks that this page has no use for"
WAYS = [
    ("as evaluated", "own"),
    ("greedy", "greedy"),
    ("beam search", "beam"),
    ("sampling", "sampling"),
]
HINT = '<p class="empty">Captions of the picture are shown here.</p>'


def check_address(host: str, port: int) -> None:
    """Raises a UserError where no server can listen, before anything slow begins."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            what = (error.strerror or str(error)).lower()
            raise UserError(
                f"cannot serve at {host}:{port} ({what}): name another --port, or --host"
            ) from None


@contextmanager
def serving(shelf: Shelf, examples: Sequence[Path], host: str, port: int) -> Iterator[str]:
    """Yields the address of the running page; what was uploaded is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="captionlab-app-") as folder, _environment(folder):
        import gradio as gr
        from starlette.middleware import Middleware

        page = build(shelf, examples, Path(folder))
        page.queue(max_size=32, default_concurrency_limit=1)
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
    """What gradio reads on import and at launch; its own look-up of this server must not go through
    a proxy."""
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
    """The system's fonts, where gradio would bring its own; soft text that can be read on white."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return gr.themes.Default(primary_hue="blue", neutral_hue="slate", **fonts).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )


def build(shelf: Shelf, examples: Sequence[Path], uploads: Path) -> "Blocks":
    """The page over the models of a shelf, of which the first is chosen; pictures are those below
    `uploads`."""
    import gradio as gr

    names = list(shelf.folders)
    with gr.Blocks(title="captionlab", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML("<h1>captionlab</h1><p>What trained models say of a picture.</p>", elem_id="title")
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

        def caption(*values: Any) -> str:
            return answers_to(shelf, uploads, *values)

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
    picture = gr.Image(
        type="filepath",
        sources=["upload", "clipboard"],
        label="Picture",
        height=300,
        buttons=["fullscreen"],
        elem_id="picture",
        placeholder=f"Drop a picture here, at most {UPLOAD // 2**20} MB\n- or -\nClick to choose "
        "one",
    )
    picture.move_resource_to_block_cache, picture.async_move_resource_to_block_cache = (
        _only_uploads(picture)
    )
    return picture


def _examples(gr: Any, files: Sequence[Path], picture: Any) -> None:
    if files:
        shown = gr.Examples(
            [[str(path)] for path in files], picture, label="Test images", api_visibility="private"
        )
        for component in (picture, shown.dataset):
            component.keep_in_cache |= (
                component.temp_files
            )  # else they were deleted after an hour, like uploads


def _only_uploads(component: Any) -> tuple[Any, Any]:
    """Its two ways of taking a file, without the addresses that gradio would fetch."""
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
    """The inputs of `Decoding`, in the order of its fields; those of another way are hidden."""
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


def answers_to(shelf: Shelf, uploads: Path, picture: Any, models: Any, *decoding: Any) -> str:
    """The cards of the chosen models, or one line on what is wrong, as HTML.

    Args:
        uploads: the folder of uploaded pictures.
        picture: gradio's description of an uploaded file, or None.
        models: names of the shelf.
        decoding: the fields of `Decoding`, in its order. All of it may be anything: it comes from a
            browser.
    """
    if not picture:
        return HINT
    try:
        chosen = Decoding.read(**dict(zip(Decoding.model_fields, decoding, strict=True)))
        if not isinstance(models, list) or not models:
            raise UserError("choose a model")
        seen = uploaded_picture(picture, uploads)
        return render([answer(shelf, str(name), seen, chosen) for name in dict.fromkeys(models)])
    except UserError as error:
        return f'<p class="trouble" role="alert">{escape(one_line(error))}</p>'


def uploaded_picture(described: Any, uploads: Path) -> "Image":
    """Raises a UserError for what was not uploaded, is too large, or is no picture."""
    path = Path(str(described.get("path") if isinstance(described, dict) else described)).resolve()
    if not path.is_relative_to(uploads.resolve()) or not path.is_file():
        raise UserError("this picture was not uploaded here, or is gone: drop it again")
    if path.stat().st_size > UPLOAD:
        raise UserError(f"the picture has more than {UPLOAD // 2**20} MB: drop a smaller one")
    try:
        return read_image(path)
    except ImageError as error:
        raise UserError(f"this file cannot be used: {one_line(error)}") from None


class Guard:
    """Middleware: requests of a known, bounded length to what the page needs; answers that bind the
    browser to this server."""

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
    """Status and reason of a request that goes no further."""
    if any(part in path for part in REFUSED):
        return 403, "not served here"
    if method in ("GET", "HEAD", "OPTIONS"):
        return None
    if length is None or not length.isdigit():
        return 411, "the length of the request is missing"
    allowed = UPLOAD + FORMS if path.rstrip("/").endswith("/upload") else REQUEST
    return (413, f"more than {allowed} bytes") if int(length) > allowed else None

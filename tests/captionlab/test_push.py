"""What `captionlab push` sends to a hub is what `captionlab export` writes; what the hub refuses is
one line, and nothing is made there."""

import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.captioner.captioner import GREEDY
from pipeline.data.files import write_json
from tests.captioner.test_captioner import picture, write_model
from tests.captionlab.test_export import copied_code, tiny_model
from tests.hub import TOKEN, Hub
from tests.releases import everything
from tests.tracking_workspace import lock_variant, make_captioner, make_workspace

__all__ = ["copied_code"]  # a fixture

PUSH = ("push", "model", "--to", "ann/captions")
FRESH = {"ann/captions": True}
"the repositories after a push that succeeds: a private one"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and its card."""
    folder = tmp_path_factory.mktemp("trained")
    tiny_model(folder / "model", "merge")
    (folder / "model/README.md").write_text("---\nlibrary_name: captionlab\n---\n# Of its run\n")
    return folder


@pytest.fixture
def hub(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Empty, asked from beside the model, with the token of ann. Afterwards, no push may have left
    its temporary folder."""
    from huggingface_hub import close_session, constants

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(trained)
    for name in ("HF_OIDC_RESOURCE", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with Hub() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        close_session()
        answer = {"poll_interval": 0.01}
        threading.Thread(target=running.serve_forever, kwargs=answer, daemon=True).start()
        yield running
        running.shutdown()
        close_session()
    assert not list((tmp_path / "temporary").glob("captionlab-*"))


def refusal(called: tuple[int, str, str]) -> str:
    """The line of a push that must fail with status 2."""
    status, _, error = called
    assert (status, error.count("\n")) == (2, 1), error
    assert error.startswith("error: ")
    return error


def test_the_files_on_the_hub_are_those_of_an_export_and_the_repository_is_private(
    hub: Hub, tmp_path: Path, captionlab: Any
) -> None:
    assert captionlab("export", "model", "--to", tmp_path / "out", "--format", "hf")[0] == 0
    status, out, error = captionlab(*PUSH)
    assert (status, error) == (0, "")
    assert out.splitlines() == [
        "ann/captions will be created, private",
        f"model is at {hub.url}/ann/captions/commit/1 (private)",
    ]
    assert hub.private == FRESH
    assert hub.files == {("ann/captions", "main"): everything(tmp_path / "out")}
    assert hub.messages == ["model, by captionlab push"]


def test_a_dry_run_lists_the_files_of_an_export_and_needs_neither_network_nor_token(
    hub: Hub, tmp_path: Path, captionlab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("HF_TOKEN")
    assert captionlab("export", "model", "--to", tmp_path / "out", "--format", "hf")[0] == 0
    sizes = {name: len(data) for name, data in everything(tmp_path / "out").items()}
    for options, visibility in ((), "private"), (("--public",), "public"):
        status, out, error = captionlab(*PUSH, "--dry-run", *options)
        assert (status, error) == (0, "")
        *files, total, end = out.splitlines()
        listed = [line.replace(",", "").split() for line in files]
        assert {name: int(size) for size, name in listed} == sizes
        assert total.split() == [
            f"{sum(sizes.values()):,}",
            "bytes",
            "in",
            str(len(sizes)),
            "files",
        ]
        assert end == f"dry run, nothing was uploaded: a new ann/captions would be {visibility}"
    assert hub.requests == []


def test_a_model_that_is_pushed_again_keeps_its_commit(hub: Hub, captionlab: Any) -> None:
    """An export is the same bytes again, so nothing is sent twice after an interruption either."""
    assert captionlab(*PUSH)[0] == 0
    status, out, _ = captionlab(*PUSH)
    assert (status, out.splitlines()) == (
        0,
        [
            "ann/captions exists, private",
            f"model is at {hub.url}/ann/captions/commit/1 (private)",
        ],
    )
    assert len(hub.messages) == 1


def test_an_interrupted_push_says_that_running_it_again_goes_on(
    hub: Hub, captionlab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    sent: list[Path] = []

    def interrupted(_: HfApi, folder_path: Path, **__: Any) -> None:
        sent.extend(folder_path.iterdir())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(HfApi, "upload_folder", interrupted)
        status, _, error = captionlab(*PUSH)
    assert (status, error) == (130, "error: interrupted; run the same command again to continue\n")
    assert sent
    assert not any(file.exists() for file in sent)
    assert captionlab(*PUSH)[0] == 0
    assert hub.files["ann/captions", "main"].keys() == {file.name for file in sent}


def test_what_is_asked_for_reaches_the_hub(hub: Hub, captionlab: Any) -> None:
    asked = ("--public", "--revision", "trial", "--message", "First try")
    status, out, _ = captionlab(*PUSH, *asked)
    assert (status, out.splitlines()[0]) == (0, "ann/captions will be created, public")
    assert out.endswith("(public)\n")
    assert hub.private == {"ann/captions": False}
    assert hub.files["ann/captions", "main"] == {}
    assert "config.json" in hub.files["ann/captions", "trial"]
    assert hub.messages == ["First try"]


def test_a_repository_that_is_there_keeps_its_visibility_and_its_files(
    hub: Hub, captionlab: Any
) -> None:
    hub.private["ann/captions"] = True
    hub.files["ann/captions", "main"] = {"mine.txt": b"kept"}
    status, out, _ = captionlab(*PUSH, "--public")
    said = "ann/captions exists and stays private, although --public is given"
    assert (status, out.splitlines()[0]) == (0, said)
    assert out.endswith("(private)\n")
    assert hub.private == FRESH
    assert hub.files["ann/captions", "main"]["mine.txt"] == b"kept"


def test_nothing_goes_to_a_public_repository_unless_public_is_said(
    hub: Hub, captionlab: Any
) -> None:
    hub.private["ann/captions"] = False
    hub.files["ann/captions", "main"] = {}
    error = refusal(captionlab(*PUSH))
    assert error == (
        "error: ann/captions exists already and is public: give --public to upload to it, or "
        "name a new repository\n"
    )
    assert hub.files == {("ann/captions", "main"): {}}
    assert captionlab(*PUSH, "--public")[0] == 0
    assert hub.private == {"ann/captions": False}


def test_without_a_token_that_may_write_nothing_is_made(
    hub: Hub, captionlab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.role = "read"
    assert "the token of ann may read, not write: make one" in refusal(captionlab(*PUSH))
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    error = refusal(captionlab(*PUSH))
    assert error.startswith("error: the hub does not accept the token (status 401: ")
    assert error.endswith("then set HF_TOKEN or run hf auth login\n")
    monkeypatch.delenv("HF_TOKEN")
    assert refusal(captionlab(*PUSH)) == (
        "error: there is no token of the hub: set HF_TOKEN or run hf auth login; it must be able "
        "to write\n"
    )
    assert hub.private == {}
    assert set(hub.requests) == {"whoami-v2"}


@pytest.mark.parametrize("there", [{}, {"bob/captions": False}], ids=["new", "public"])
def test_a_repository_of_somebody_else_is_refused(
    there: dict[str, bool], hub: Hub, captionlab: Any
) -> None:
    hub.private |= there
    error = refusal(captionlab("push", "model", "--to", "bob/captions", "--public"))
    assert "the token of ann may not write to bob/captions (status 403: " in error
    assert "name a repository of ann or of an organisation (the token's: lab)" in error
    assert hub.private == there


def test_a_token_that_may_read_a_repository_of_its_user_alone_is_refused(
    hub: Hub, captionlab: Any
) -> None:
    hub.private["ann/captions"] = True
    hub.refused = {"auth-check": 403}
    assert "may not write to ann/captions (status 403: " in refusal(captionlab(*PUSH))
    assert hub.files == {}


def test_a_hub_that_does_not_answer_is_one_line(
    hub: Hub, captionlab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    with socket.socket() as deaf:  # its port is taken, and nobody listens
        deaf.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", nowhere)
        error = refusal(captionlab(*PUSH))
    assert f"the hub at {nowhere} does not answer as it should (ConnectError: " in error
    assert error.endswith("check the network and HF_ENDPOINT, then run the same command again\n")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refusal(captionlab(*PUSH)) == (
        "error: HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set, so nothing can go up: unset it, "
        "or give --dry-run to see what would\n"
    )


def test_an_upload_that_the_hub_breaks_off_says_what_running_it_again_does(
    hub: Hub, captionlab: Any
) -> None:
    hub.refused = {"commit/": 501}
    error = refusal(captionlab(*PUSH))
    assert error.startswith("error: ann/captions: the hub refuses (status 501: ")
    assert error.endswith("run the same command again, which sends what is missing\n")
    hub.refused = {"commit/": 400}
    assert refusal(captionlab(*PUSH)).endswith(": change what the hub names here\n")
    hub.refused = {}
    assert captionlab(*PUSH)[0] == 0


def test_what_the_hub_says_of_a_card_is_a_line(hub: Hub, captionlab: Any) -> None:
    hub.warnings = [{"message": "no licence:\nstate one"}]
    status, out, error = captionlab(*PUSH)
    assert (status, error) == (
        0,
        "warning: Warnings while validating metadata in README.md: - no licence: state one\n",
    )
    assert "/ann/captions/commit/1" in out


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("captions", "names no user or organisation"),
        ("ann/a b", "is not a name on the hub (Repo id must use alphanumeric chars"),
        ("a/b/c", "is not a name on the hub (Repo id must be in the form"),
    ],
)
def test_a_wrong_name_of_a_repository_is_one_line(
    name: str, why: str, hub: Hub, captionlab: Any
) -> None:
    error = refusal(captionlab("push", "model", "--to", name, "--dry-run"))
    assert error.startswith(f"error: --to '{name}' {why}")
    assert error.endswith(": give USER/REPO, such as ann/captions\n")
    assert hub.requests == []


def test_a_model_that_is_not_there_or_has_no_card_is_not_pushed(
    hub: Hub, tmp_path: Path, captionlab: Any
) -> None:
    assert "unknown model 'modle'" in refusal(captionlab("push", "modle", "--to", "ann/captions"))
    bare = tiny_model(tmp_path / "bare", "merge")
    error = refusal(captionlab("push", bare, "--to", "ann/captions"))
    assert error.startswith(f"error: {bare} has no model card (")
    assert "write README.md into its folder, or name a variant of this workspace" in error
    (bare / "README.md").write_text("---\n- no keys\n---\n# Card\n")
    error = refusal(captionlab("push", bare, "--to", "ann/captions"))
    assert "README.md of the model begins with metadata that the hub does not take" in error
    assert hub.private == {}


def test_a_variant_goes_up_with_the_card_of_its_run(
    hub: Hub, tmp_path: Path, captionlab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_workspace(tmp_path)
    make_captioner(tmp_path / "models/merge")
    error = refusal(captionlab("push", "merge", "--to", "ann/captions", "--dry-run"))
    assert error.startswith("error: merge has no model card (")
    lock_variant(tmp_path, "merge")
    assert captionlab("push", "merge", "--to", "ann/captions")[0] == 0
    assert "| cider | 0.4000" in hub.files["ann/captions", "main"]["README.md"].decode()


def test_a_model_that_cannot_be_exported_and_an_unknown_format_are_refused_as_by_export(
    hub: Hub, tmp_path: Path, captionlab: Any
) -> None:
    write_model(tmp_path / "blind", "blind")
    (tmp_path / "blind/README.md").write_text("# Card\n")
    write_json(tmp_path / "blind/decode.json", GREEDY)
    error = refusal(captionlab("push", tmp_path / "blind", "--to", "ann/captions"))
    assert error.startswith("error: blind cannot be exported to hf: ")
    assert hub.private == {}
    hub.requests.clear()
    error = refusal(captionlab(*PUSH, "--format", "gguf"))
    assert error == "error: unknown format 'gguf': there are hf, onnx\n"
    assert hub.requests == []


@pytest.mark.usefixtures("copied_code")
def test_what_transformers_pushes_of_an_export_is_the_whole_export(
    hub: Hub, tmp_path: Path, captionlab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModel
    from transformers.utils import hub as known

    monkeypatch.setattr(known, "_hf_api", None)  # it remembers the hub that was asked first
    assert captionlab("export", "model", "--to", tmp_path / "out", "--format", "hf")[0] == 0
    model = AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True)
    model.push_to_hub("ann/captions", private=True)
    assert hub.private == FRESH
    (pushed,) = hub.files.values()
    expected = everything(tmp_path / "out")
    assert pushed.keys() == expected.keys()
    again = tmp_path / "again"
    again.mkdir()
    for name, content in pushed.items():
        (again / name).write_bytes(content)
    picture(0).save(tmp_path / "p.png")
    copy = AutoModel.from_pretrained(again, trust_remote_code=True)
    assert copy.captions([tmp_path / "p.png"])[0].text == model.caption(tmp_path / "p.png")
    folders = ("model", str(again))
    said = [captionlab("caption", tmp_path / "p.png", "--model", m)[:2] for m in folders]
    assert said[0] == said[1]
    assert said[0][0] == 0

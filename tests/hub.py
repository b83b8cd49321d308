"""A hub of 127.0.0.1: as much of the Hugging Face hub as an upload asks for."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_ann"


class Hub(ThreadingHTTPServer):
    """Of ann, who may write to what is hers and lab's.

    `role` is that of her token; `refused` gives parts of paths the status that they are answered
    with.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.role = "write"
        self.refused: dict[str, int] = {}
        self.private: dict[str, bool] = {}
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        "(repository, branch) -> its files"
        self.messages: list[str] = []
        "of the commits"
        self.warnings: list[dict[str, str]] = []
        "of a card's metadata"
        self.requests: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes | None) -> None:
        path = unquote(urlsplit(self.path).path).removeprefix("/api/")
        self.server.requests.append(path)
        status, content = self._content(path, body)
        data = json.dumps(content).encode()
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _content(self, path: str, body: bytes | None) -> tuple[int, Any]:
        hub = self.server
        status = next((s for part, s in hub.refused.items() if part in path), None)
        if status:
            return status, {"error": "refused"}
        if path == "validate-yaml":
            return 200, {"warnings": hub.warnings, "errors": []}
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"error": "no"}
        if path == "whoami-v2":
            token = {"accessToken": {"role": hub.role}}
            return 200, {"name": "ann", "orgs": [{"name": "lab"}], "auth": token}
        if path == "repos/create":
            return self._create(json.loads(body or b""))
        _, owner, name, *rest = path.split("/")
        return self._of_repository(f"{owner}/{name}", rest, body)

    def _create(self, wanted: dict[str, str]) -> tuple[int, Any]:
        if wanted["organization"] not in ("ann", "lab"):
            return 403, {"error": "no rights"}
        repository = f"{wanted['organization']}/{wanted['name']}"
        self.server.private[repository] = wanted["visibility"] == "private"
        self.server.files[repository, "main"] = {}
        return 200, {"url": f"{self.server.url}/{repository}"}

    def _of_repository(self, name: str, rest: list[str], body: bytes | None) -> tuple[int, Any]:
        hub = self.server
        if name not in hub.private:
            return 404, {"error": "not found"}
        address = f"{hub.url}/{name}/commit/{len(hub.messages)}"
        match rest:
            case [] | ["revision", _]:
                about = {"id": name, "private": hub.private[name], "sha": str(len(hub.messages))}
                return 200, about
            case ["auth-check", "write"]:
                return 200 if name.startswith(("ann/", "lab/")) else 403, {}
            case ["branch", branch]:
                hub.files[name, branch] = dict(hub.files[name, "main"])
                return 200, {}
            case ["preupload", branch]:
                there = hub.files[name, branch]
                paths = [file["path"] for file in json.loads(body or b"")["files"]]
                return 200, {"files": [described(path, there.get(path)) for path in paths]}
            case ["commit", branch]:
                lines = [json.loads(line) for line in (body or b"").splitlines()]
                self._commit(hub.files[name, branch], lines)
                address = f"{hub.url}/{name}/commit/{len(hub.messages)}"
                return 200, {"commitUrl": address, "commitOid": "0" * 40}
        return 404, {"error": "not found"}

    def _commit(self, files: dict[str, bytes], lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.server.messages.append(value["summary"])
            else:
                files[value["path"]] = base64.b64decode(value["content"])

    def log_message(self, *_: Any) -> None:
        pass


def described(path: str, content: bytes | None) -> dict[str, Any]:
    """What the hub says of a file before it is sent; `oid` is git's name of what is there."""
    about = {"path": path, "uploadMode": "regular", "shouldIgnore": False}
    if content is None:
        return about
    return about | {"oid": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}

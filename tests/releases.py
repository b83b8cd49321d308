"""Helpers for tests of sources: tiny pictures and archives, and a server that can misbehave as real
ones do."""

import io
import re
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
from PIL import Image


def jpeg(shade):
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(out, "JPEG")
    return out.getvalue()


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def everything(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def index_of(folder):
    """Return the rows of captions.parquet, with None for missing values."""
    table = pd.read_parquet(folder / "captions.parquet").astype(object)
    return table.where(table.notna(), None)


def split_of(folder, scheme):
    """Return a dict from image_id to split, for the images that have a split."""
    table = (
        pd.read_parquet(folder / "captions.parquet")
        .drop_duplicates("image_id")
        .set_index("image_id")
    )
    return table[f"split_{scheme}"].dropna().to_dict()


class Server(ThreadingHTTPServer):
    """An HTTP server that sends the bytes in `files` by path and supports Range requests.

    A test can make it truncate answers, redirect, or ignore Range. Unknown paths get status 404.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.redirects, self.requests, self.cut_at, self.ranges = {}, {}, [], [], True
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers.get("Range") if self.server.ranges else None
        self.server.requests.append((self.path, wanted))
        if self.path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[self.path])
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if self.path not in self.server.files:
            return self.send_error(404)
        data = self.server.files[self.path]
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        if wanted and start >= len(data):
            return self.send_error(416)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start : self.server.cut_at.pop(0) if self.server.cut_at else None])
        self.close_connection = True
        return None

    def log_message(self, *_):
        pass

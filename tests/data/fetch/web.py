"""A real HTTP server of a folder that fails as it is told."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

Fault = int | Literal["break", "short", "wrong", "stall", "drip"]
"""An HTTP status; or half the body, then the connection is cut; half the body, and a header that says that it is all; a
flipped bit; half the body, then silence; a byte now and then."""


class Web:
    def __init__(self, folder: Path, delay: float = 0.0, ranges: bool = True) -> None:
        self.folder = folder
        self.delay = delay
        self.ranges = ranges
        self.faults: dict[str, list[Fault]] = {}  # of a file's requests in turn; then all goes well
        self.requests: list[tuple[str, str | None]] = []
        self.over = threading.Event()
        self.most_at_once = 0
        self._now = 0
        self._counting = threading.Lock()
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def counts(self) -> Counter[str]:
        return Counter(name for name, _ in self.requests)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        name = unquote(urlsplit(handler.path).path).lstrip("/")
        wanted = handler.headers.get("Range")
        self.requests.append((name, wanted))
        with self._counting:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        time.sleep(self.delay)
        with self._counting:
            self._now -= 1
        turns = self.faults.get(name, [])
        fault = turns.pop(0) if turns else None
        path = self.folder / name
        if not path.is_file():
            fault = 404
        if isinstance(fault, int):
            handler.send_response(fault)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        body = path.read_bytes()
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        whole, body = len(body), body[start:]
        if start and not body:
            handler.send_error(416)
            return
        if fault == "short":
            body = body[: len(body) // 2]
        if fault == "wrong":
            body = body[:1000] + bytes([body[1000] ^ 1]) + body[1001:]
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        half = len(body) // 2
        if fault == "drip":
            for byte in body:
                if self.over.wait(0.05):
                    break
                handler.wfile.write(bytes([byte]))
        elif fault in {"break", "stall"}:
            handler.wfile.write(body[:half])
            handler.wfile.flush()
            if fault == "stall":
                self.over.wait(60)
            handler.close_connection = True
        else:
            handler.wfile.write(body)


@contextmanager
def serve(folder: Path, delay: float = 0.0, ranges: bool = True) -> Iterator[Web]:
    web = Web(folder, delay, ranges)
    thread = threading.Thread(target=web.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.over.set()
        web.server.shutdown()
        web.server.server_close()
        thread.join()

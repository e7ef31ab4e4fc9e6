"""A Hugging Face Hub on loopback, as far as `huggingface_hub` and `datasets` ask for it: repositories in memory, commits that check their parent, faults.

A client needs HF_ENDPOINT and HF_HUB_DISABLE_XET=1, both before huggingface_hub is imported: 2.4 asks for Xet tokens otherwise, which are not served
here. Earlier versions were not tried.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.routes import Answer, Repository, route


@dataclass
class Fault:
    """What happens to request number `at` (from 1), and with `lasting` to all after it: before, after, slow, hang, short, or a status."""

    at: int
    kind: str
    lasting: bool = False
    seconds: float = 0.0
    landed: int = 0

    def hits(self, number: int) -> bool:
        return number == self.at or (self.lasting and number > self.at)


class Hub:
    """The state of the stub. `tokens` maps a token to whether it may write; `seen` lists the requests without their headers."""

    def __init__(self, tokens: dict[str, bool]) -> None:
        self.tokens = tokens
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.seen: list[str] = []
        self.uploads = 0
        self.fault: Fault | None = None
        self.at_commit: Callable[[], None] | None = None  # called once, just before a commit is looked at
        self.lock = threading.RLock()
        self.endpoint = ""

    def snapshot(self) -> dict[str, list[str]]:
        """The ids of all commits of all repositories."""
        with self.lock:
            return {name: [commit for commit, _ in repository.commits] for name, repository in self.repositories.items()}

    def arm(self, fault: Fault | None) -> None:
        """Count requests from here on, and let this fault happen."""
        with self.lock:
            self.seen, self.fault = [], fault


@contextmanager
def serving(tokens: dict[str, bool]) -> Iterator[Hub]:
    """A stub on a free port of 127.0.0.1, until the block ends."""
    hub = Hub(tokens)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.hub.lock:
            self.hub.seen.append(f"{self.command} {self.path.split('?')[0]}")
            number, fault = len(self.hub.seen), self.hub.fault
            hit = fault if fault is not None and fault.hits(number) else None
            if hit:
                hit.landed += 1
        if hit is None:
            return self._send(self._answer(body))
        if hit.kind == "before":
            return self._drop()
        if hit.kind.isdigit():
            # As unfriendly as can be: the message repeats the header that holds the token.
            said = json.dumps({"error": f"fault, you sent {self.headers.get('Authorization')}"}).encode()
            asked = {"Retry-After": "1"} if hit.kind == "429" else {}
            return self._send(Answer(int(hit.kind), said, {"Content-Type": "application/json", **asked}))
        answer = self._answer(body)
        if hit.kind in ("slow", "hang"):
            time.sleep(hit.seconds)
        if hit.kind == "after":
            return self._drop()
        self._send(answer, short=hit.kind == "short")
        return None

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _drop(self) -> None:
        self.close_connection = True

    def _send(self, answer: Answer, short: bool = False) -> None:
        try:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body[: len(answer.body) // 2] if short else answer.body)
                self.wfile.flush()
            if short:
                self._drop()
        except OSError:
            self._drop()

    def _answer(self, body: bytes) -> Answer:
        split = urlsplit(self.path)
        path, query = unquote(split.path), {name: values[0] for name, values in parse_qs(split.query).items()}
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        with self.hub.lock:
            return route(self.hub, self.command, path, query, body, token, self.headers.get("Range", ""))

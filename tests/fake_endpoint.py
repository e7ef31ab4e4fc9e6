"""A chat endpoint in a thread, which answers as a test tells it to and remembers what it was asked."""

import json
import re
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Self

Answer = str | tuple[int, str] | tuple[int, str, Mapping[str, str]]  # the words, or status and raw body, and headers

_ROWS = re.compile(r'<(example|candidate letter="([A-Z])")>\n(.*?)\n</', re.DOTALL)


def shown_in(prompt: str) -> list[str]:
    """The texts of the examples already chosen."""
    return [text for kind, _, text in _ROWS.findall(prompt) if kind == "example"]


def candidates_in(prompt: str) -> dict[str, str]:
    """The text of each letter."""
    return {letter: text for _, letter, text in _ROWS.findall(prompt) if letter}


class FakeEndpoint:
    """`answer(prompt)` gives the words of a reply, or a status with a raw body; `requests` holds (headers, body) of each question."""

    def __init__(self, answer: Callable[[str], Answer]) -> None:
        self.answer = answer
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.paths: list[str] = []
        lock, outer = Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append((dict(self.headers), body))
                    outer.paths.append(self.path)
                    said = outer.answer(body["messages"][-1]["content"])
                status, raw, headers = (200, completion(said), {}) if isinstance(said, str) else (said[0], said[1], said[2] if len(said) > 2 else {})
                data = raw.encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        Thread(target=lambda: self._server.serve_forever(poll_interval=0.01), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def prompts(self) -> list[str]:
        """The questions, in the order they came."""
        return [body["messages"][-1]["content"] for _, body in self.requests]


def completion(words: str | None) -> str:
    """The body of a chat completion."""
    return json.dumps({"object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": words}}]})

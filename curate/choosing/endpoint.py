"""Questions to an OpenAI-compatible chat endpoint: one POST each, with a time limit and a few patient retries.

What may pass (a full queue, a restart, a broken connection) is tried again; what will not (a wrong key, an unknown model, a refused
request) is an error at once. The key goes to the one host that the URL names: redirects are not followed.
"""

import json
import time
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from curate.errors import ModelError

_PASSING = frozenset({408, 409, 425, 429})  # beside the server's own errors, 500 and more
_LONGEST_WAIT = 60.0
_LARGEST = 1 << 22  # bytes of a reply
_SHOWN = 200  # characters of a server's words in an error


class _Stay(HTTPRedirectHandler):
    """Follows no redirect: another host would get the key."""

    def redirect_request(self, *arguments: Any, **keywords: Any) -> None:
        return None


class _Passing(Exception):
    """A failure that another try may not meet; `wait` is what the server asks for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class ChatEndpoint:
    """Where to ask, whom, and how long to wait; `body` are the fields of the request beside model and messages."""

    url: str  # up to and including /v1
    model: str
    key: str = field(default="", repr=False)
    body: dict[str, Any] = field(default_factory=dict)
    timeout: float = 60.0  # seconds without a byte
    retries: int = 5
    backoff: float = 1.0  # seconds before the first retry; doubles with each, up to a minute

    def ask(self, prompt: str) -> str:
        """The text of the reply to one user turn; a ModelError says in a line what stands in the way."""
        for attempt in range(self.retries + 1):
            try:
                return self._post(prompt)
            except _Passing as failure:
                last = failure
            if attempt < self.retries:
                time.sleep(min(_LONGEST_WAIT, max(self.backoff * 2**attempt, last.wait)))
        raise ModelError(
            f"{self.url} gave no answer in {self.retries + 1} tries ({last}); "
            "check that the server runs, then run the same command again: what was answered is kept"
        )

    def _post(self, prompt: str) -> str:
        sent = {"model": self.model, "messages": [{"role": "user", "content": prompt}], **self.body}
        headers = {"Content-Type": "application/json", "Accept": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        request = Request(f"{self.url}/chat/completions", json.dumps(sent).encode(), headers)
        try:
            with _opener().open(request, timeout=self.timeout) as response:
                raw = response.read(_LARGEST + 1)
        except HTTPError as error:
            with error:
                raise self._refused(error) from error
        except (OSError, HTTPException) as error:  # refused, reset, timed out, cut short
            raise _Passing(self._clean(str(getattr(error, "reason", "") or error or type(error).__name__))) from error
        if len(raw) > _LARGEST:
            raise ModelError(f"{self.url} sent more than {_LARGEST >> 20} MiB for one answer; it is no chat endpoint, or max_tokens is far too large")
        return self._text(raw)

    def _refused(self, error: HTTPError) -> Exception:
        said = f"HTTP {error.code}"
        try:
            words = self._clean(error.read(_LARGEST).decode(errors="replace"))
        except (OSError, HTTPException):
            words = ""
        if error.code in _PASSING or error.code >= 500:
            return _Passing(f"{said} {words}".strip(), _seconds(error.headers.get("Retry-After")))
        if 300 <= error.code < 400:
            return ModelError(f"{self.url} redirects ({said}), which is not followed; give the address that it points to")
        advice = "check the API key" if error.code in (401, 403) else "check url and model" if error.code == 404 else "check the chooser's fields"
        return ModelError(f"{self.url} refuses the request ({said} {words}".strip() + f"); {advice}")

    def _text(self, raw: bytes) -> str:
        """The reply's words; no words at all are an empty reply, which the asker judges."""
        try:
            message = json.loads(raw)["choices"][0]["message"]
            content = message["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise _Passing(f"a reply that is no chat completion: {self._clean(raw[:4096].decode(errors='replace'))}") from error
        return content if isinstance(content, str) else ""

    def _clean(self, words: str) -> str:
        """One short printable line without the key."""
        line = " ".join((words.replace(self.key, "***") if self.key else words).split())
        return "".join(letter if letter.isprintable() else "?" for letter in line[:_SHOWN])


def _opener() -> OpenerDirector:
    return build_opener(_Stay)


def _seconds(value: str | None) -> float:
    """Of a Retry-After header in seconds; a date is not read."""
    try:
        wait = float(value or 0)
    except ValueError:
        return 0.0
    return wait if 0 <= wait < float("inf") else 0.0

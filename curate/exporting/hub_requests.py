"""Requests to the Hub: quiet, with a time limit, repeated where that is safe, and every failure as one line without a word of the server's."""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from curate.errors import CurateError, ExportError
from curate.hushed import hushed

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_SECONDS = 60.0  # that a request may wait for the next bytes
_TRIES = 3
_PAUSE = 30.0  # the longest between tries, whatever a server asks for
_PASSING = (408, 429, 500, 502, 503, 504)
_WORDS = {
    401: "the Hub does not know who you are (401); it reads the variable HF_TOKEN, or what `hf auth login` stored: give one a token that may write",
    403: "the token may not do this (403); use one that may write there: the variable HF_TOKEN, or `hf auth login`",
    404: "there is no such dataset, or the token may not see it (404); check the name, and HF_TOKEN or `hf auth login`",
    409: "the Hub reports a conflict (409), as where somebody else is changing it; look at it and run the same command again",
    412: "it was changed by somebody else meanwhile (412); look at it and run the same command again",
    413: "a file is too large for the Hub (413); lower the budget",
    429: "the Hub has had too many requests (429); wait some minutes and run the same command again",
}
Answer = TypeVar("Answer")


@contextlib.contextmanager
def quiet_client() -> Iterator["HfApi"]:
    """The Hub's client without progress bars, log lines and warnings: these name addresses that a signature may be part of."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        with hushed("huggingface_hub"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _limit_time()
            yield HfApi()
    finally:
        if shown:
            enable_progress_bars()


def _limit_time() -> None:
    from huggingface_hub import get_session

    get_session().timeout = _SECONDS  # the client's own default is to wait for ever


def repeated(repository: str, doing: str, call: Callable[[], Answer], or_raise: tuple[int, ...] = ()) -> Answer:
    """The answer of a request that may be sent more than once; ExportError if it fails for good, but the client's own error for `or_raise`."""
    for attempt in range(_TRIES):
        _limit_time()
        try:
            return call()
        except CurateError:
            raise
        except Exception as error:  # the client raises a dozen kinds, and what its transport and its parsers raise
            if status_of(error) in or_raise:
                raise
            if not _passes(error) or attempt == _TRIES - 1:
                raise explained(error, repository, doing) from None
            time.sleep(_pause(error, attempt))
    raise ExportError(f"cannot {doing} {repository}: it was never tried")


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error, or behind the one that it wraps; None where there was no answer."""
    for one in (error, error.__cause__, error.__context__):
        status = getattr(getattr(one, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def explained(error: BaseException, repository: str, doing: str, outcome: str = "") -> ExportError:
    """One line: what could not be done to what, why, what became of it, and what to do."""
    status = status_of(error)
    if status is not None:
        why = _WORDS.get(status) or f"the Hub {'failed' if status >= 500 else 'refused it'} ({status}); run the same command again later"
    elif type(error).__name__ == "OfflineModeIsEnabled":
        why = "HF_HUB_OFFLINE is set; unset it"
    else:
        why = f"no usable answer came ({type(error).__name__}); check the network and HF_ENDPOINT, and run the same command again"
    return ExportError(f"cannot {doing} {repository}: {f'{outcome}: ' if outcome else ''}{why}")


def _passes(error: BaseException) -> bool:
    """Whether trying again may help: a status that passes, or no answer at all."""
    status = status_of(error)
    return status in _PASSING if status is not None else type(error).__name__ != "OfflineModeIsEnabled"


def _pause(error: BaseException, attempt: int) -> float:
    headers = getattr(getattr(error, "response", None), "headers", {})
    asked = str(headers.get("Retry-After", "")) if hasattr(headers, "get") else ""
    return min(_PAUSE, float(asked) if asked.isascii() and asked.isdigit() else 2.0**attempt)

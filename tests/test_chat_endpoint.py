"""A chat endpoint is asked patiently for what may pass, not at all for what will not, and its key goes nowhere else."""

import socket
import time
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest

from curate.choosing.endpoint import ChatEndpoint
from curate.errors import ModelError
from tests.fake_endpoint import Answer, FakeEndpoint, completion

KEY = "sk-hush-0123456789"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def endpoint(server: FakeEndpoint, **fields: Any) -> ChatEndpoint:
    return ChatEndpoint(server.url, "tiny", **{"backoff": 0.0, "retries": 2, "timeout": 5.0, **fields})


def in_turn(*answers: Answer) -> Iterator[Answer]:
    yield from answers
    raise AssertionError("asked more often than expected")


def serving(*answers: Answer) -> FakeEndpoint:
    queue = in_turn(*answers)
    return FakeEndpoint(lambda prompt: next(queue))


def test_the_question_is_one_post_with_model_message_key_and_fields() -> None:
    with serving("[[B]]") as server:
        said = endpoint(server, key=KEY, body={"temperature": 0.0, "max_tokens": 7}).ask("Which?")
    headers, body = server.requests[0]
    assert said == "[[B]]" and server.paths == ["/v1/chat/completions"]
    assert body == {"model": "tiny", "messages": [{"role": "user", "content": "Which?"}], "temperature": 0.0, "max_tokens": 7}
    assert headers["Authorization"] == f"Bearer {KEY}" and headers["Content-Type"] == "application/json"


def test_without_a_key_no_authorization_is_sent() -> None:
    with serving("A") as server:
        endpoint(server).ask("Which?")
    assert "Authorization" not in server.requests[0][0]


@pytest.mark.parametrize(
    "failure",
    [
        (500, "oops"),
        (503, "busy", {"Retry-After": "0"}),
        (429, "slow down", {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
        (408, ""),
        (200, "<html>maintenance</html>"),
        (200, '{"choices": []}'),
        (200, '{"error": "overloaded"}'),
        (200, "[" * 100_000),
        (200, completion("[[A]]")[:-5], {"Content-Length": "9999"}),
    ],
)
def test_what_may_pass_is_tried_again(failure: Answer) -> None:
    with serving(failure, failure, "[[A]]") as server:
        assert endpoint(server, timeout=0.5).ask("Which?") == "[[A]]"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ((401, '{"error": "bad key"}'), r"refuses the request \(HTTP 401 .*bad key.*\); check the API key"),
        ((404, "no such model"), r"\(HTTP 404 no such model\); check url and model"),
        ((400, "too\nlong"), r"\(HTTP 400 too long\); check the chooser's fields"),
        ((307, "", {"Location": "http://127.0.0.1:9/v1/chat/completions"}), r"redirects \(HTTP 307\), which is not followed"),
        ((302, "", {"Location": "/other"}), r"redirects \(HTTP 302\)"),
    ],
)
def test_what_will_not_pass_is_an_error_at_once(failure: Answer, words: str) -> None:
    with serving(failure) as server, pytest.raises(ModelError, match=words) as caught:
        endpoint(server).ask("Which?")
    assert "\n" not in str(caught.value) and len(server.requests) == 1


def test_tries_are_counted_and_the_last_reason_is_given() -> None:
    with serving((500, "one"), (500, "two"), (500, "three\x1b[31m")) as server, pytest.raises(ModelError) as caught:
        endpoint(server).ask("Which?")
    assert "gave no answer in 3 tries (HTTP 500 three?[31m)" in str(caught.value)


def test_nobody_listening_is_an_error_of_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(ModelError, match="gave no answer in 1 tries") as caught:
        ChatEndpoint(url, "tiny", retries=0).ask("Which?")
    assert "\n" not in str(caught.value)


def test_silence_is_given_up_after_the_timeout() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        start = time.monotonic()
        with pytest.raises(ModelError, match="timed out"):
            ChatEndpoint(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", "tiny", retries=1, backoff=0.0, timeout=0.2).ask("Which?")
    assert 0.4 <= time.monotonic() - start < 3


def test_a_connection_that_breaks_off_is_tried_again() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        answered: list[int] = []

        def hang_up() -> None:
            for _ in range(2):
                listener.accept()[0].close()
                answered.append(1)

        thread = Thread(target=hang_up)
        thread.start()
        with pytest.raises(ModelError, match="gave no answer in 2 tries"):
            ChatEndpoint(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", "tiny", retries=1, backoff=0.0, timeout=2).ask("Which?")
        thread.join()
    assert len(answered) == 2


def test_waits_double_and_grow_to_what_the_server_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("curate.choosing.endpoint.time.sleep", waits.append)
    asked = [(500, "", {"Retry-After": value}) for value in ("0", "-5", "inf", "7.5", "99999", "soon")]
    with serving(*asked, "A") as server:
        endpoint(server, retries=6, backoff=1.0).ask("Which?")
    assert waits == [1.0, 2.0, 4.0, 8.0, 60.0, 32.0]


def test_the_key_is_shown_in_no_error_and_no_description() -> None:
    with serving((401, f"key {KEY} is wrong")) as server, pytest.raises(ModelError) as caught:
        endpoint(server, key=KEY).ask("Which?")
    assert KEY not in str(caught.value) and "***" in str(caught.value)
    with serving((500, KEY)) as server, pytest.raises(ModelError) as caught:
        endpoint(server, key=KEY, retries=0).ask("Which?")
    assert KEY not in str(caught.value) and KEY not in repr(endpoint(server, key=KEY))


def test_a_reply_without_words_is_empty_and_one_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving((200, completion(None))) as server:
        assert endpoint(server).ask("Which?") == ""
    monkeypatch.setattr("curate.choosing.endpoint._LARGEST", 1000)
    with serving("A" * 2000) as server, pytest.raises(ModelError, match="for one answer"):
        endpoint(server).ask("Which?")

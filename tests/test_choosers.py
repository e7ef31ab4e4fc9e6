"""A local model weighs the letters by their likelihood, an endpoint names one, and neither takes a key from a recipe."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from curate.choosing.choosers import Endpoint, LocalModel
from curate.data.template import Encoder
from curate.errors import ConfigError, ModelError
from curate.model import fresh, resolve
from curate.settings import ModelSpec
from tests.fake_endpoint import FakeEndpoint


def test_a_local_model_weighs_letters_by_their_likelihood(tiny: Path) -> None:
    prompts = ["Which one?", "Which other one, of these many?"]
    replies = LocalModel(model=str(tiny)).open("cpu", Path()).answer(prompts, 4)
    handle = resolve(ModelSpec(path=str(tiny)), tiny)
    model = fresh(handle)
    for prompt, reply in zip(prompts, replies, strict=True):
        asked = Encoder.of(model.tokenizer, 10_000).render_prompt([{"role": "user", "content": prompt}])
        nats = []
        for letter in "ABCD":
            answer = model.tokenizer(f"[[{letter}", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logits = model.model(input_ids=torch.tensor([asked + answer])).logits[0].double().log_softmax(-1)
            nats.append(sum(float(logits[len(asked) - 1 + place, token]) for place, token in enumerate(answer)))
        assert reply.weights is not None
        np.testing.assert_allclose(reply.weights, np.asarray(nats) - np.logaddexp.reduce(nats), atol=1e-4)
        assert reply.raw.startswith("A -") and len(reply.raw.split()) == 8


def test_what_a_local_model_decides_hangs_on_its_files_and_its_numbers(tiny: Path) -> None:
    plain = LocalModel(model=str(tiny)).open("cpu", Path()).identity()
    assert plain == {"kind": "local", "fingerprint": resolve(ModelSpec(path=str(tiny)), tiny).fingerprint, "dtype": "float32"}
    assert LocalModel(model=str(tiny), dtype="bfloat16").open("cpu", Path()).identity() != plain


def test_a_question_longer_than_the_model_reads_is_refused(tiny: Path) -> None:
    with pytest.raises(ModelError, match=r"tokens, and .* reads \d+; lower row_characters, shown or candidates"):
        LocalModel(model=str(tiny)).open("cpu", Path()).answer(["word " * 20_000], 3)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        LocalModel(model=str(tmp_path)).open("cpu", Path())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8000/v1", "begin with http"),
        ("file:///etc/passwd", "begin with http"),
        ("http:///v1", "begin with http"),
        ("https://me:secret@host/v1", "no password"),
        ("https://host/v1?key=secret", "no password"),
        ("https://host/v1/chat/completions", "ends before"),
    ],
)
def test_addresses_that_cannot_be_asked_are_refused(url: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Endpoint(url=url, model="tiny")


def test_a_key_in_the_place_of_its_name_is_refused() -> None:
    with pytest.raises(ValidationError, match="never the key itself"):
        Endpoint(url="http://host/v1", model="tiny", api_key_env="sk-1234")


@pytest.mark.parametrize(("value", "words"), [(None, "is not set"), ("  ", "is not set"), ("a\nb", "no API key has"), ("k\u00e9y", "no API key has")])
def test_a_key_that_is_absent_or_impossible_is_one_clear_line(value: str | None, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHOOSER_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("CHOOSER_KEY", value)
    with pytest.raises(ConfigError, match=f"CHOOSER_KEY .*{words}") as caught:
        Endpoint(url="http://host/v1", model="tiny", api_key_env="CHOOSER_KEY").open("cpu", Path())
    assert "\n" not in str(caught.value)


def test_an_endpoint_is_asked_all_letter_orders_at_once_and_its_words_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("CHOOSER_KEY", " hush\n")
    with FakeEndpoint(lambda prompt: f"It is [[{prompt}]].") as server:
        fields: dict[str, Any] = {"url": server.url + "/", "model": "big", "api_key_env": "CHOOSER_KEY", "temperature": None}
        chooser = Endpoint(**fields, max_tokens=9, limit_field="max_completion_tokens").open("cpu", Path())
        replies = chooser.answer(["B", "C", "Z"], 3)
    assert [reply.raw for reply in replies] == ["It is [[B]].", "It is [[C]].", "It is [[Z]]."]
    assert [None if reply.weights is None else reply.weights.tolist() for reply in replies] == [[0, 1, 0], [0, 0, 1], None]
    headers, body = server.requests[0]
    assert headers["Authorization"] == "Bearer hush"
    assert body["max_completion_tokens"] == 9 and "temperature" not in body and "max_tokens" not in body
    assert chooser.identity() == {"kind": "endpoint", "model": "big", "temperature": None, "max_tokens": 9}

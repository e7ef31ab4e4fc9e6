"""Who answers the question of choice: a local model, by the likelihood of each letter, or an endpoint, by what it writes."""

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from curate.choosing.endpoint import ChatEndpoint
from curate.choosing.prompt import read_letter
from curate.core import Config
from curate.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from curate.data.template import Encoder
    from curate.model import ModelHandle

_OPENING = "[["


@dataclass(frozen=True)
class Reply:
    """What was answered, word for word or as log-likelihoods, and a weight for each letter (C,); None if it names no letter."""

    raw: str
    weights: NDArray[np.float64] | None


class Chooser(Protocol):
    """Answers questions whose candidates carry the letters from A on."""

    def identity(self) -> Mapping[str, Any]:
        """What of it decides the answers, as JSON."""

    def answer(self, prompts: Sequence[str], candidates: int) -> list[Reply]:
        """A reply to each prompt, all of them with this many candidates."""


class LocalModel(Config):
    """A causal language model on this machine, scored by the log-likelihood of each letter: it always names one, and nothing is sampled."""

    kind: Literal["local"] = Field(default="local", description="A local model.")
    model: str = Field(min_length=1, description="Folder (relative to the recipe's data folder) or Hub id, in safetensors.")
    revision: str | None = Field(default=None, description="Of a Hub model.")
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="Numbers that it computes in.")

    def open(self, device: str, folder: Path) -> Chooser:
        return _Local(self.resolved(folder), device)

    def resolved(self, folder: Path) -> "ModelHandle":
        """The model's files, from a folder that relative paths start from."""
        from curate.model import resolve
        from curate.settings import ModelSpec

        return resolve(ModelSpec(path=self.model, revision=self.revision, dtype=self.dtype), folder)


class _Local:
    """Loads on the first question: a run whose answers are all in the journal needs no model."""

    def __init__(self, handle: "ModelHandle", device: str) -> None:
        from curate.model_folder import positions, read_config

        self._handle, self._device = handle, device
        self._positions = positions(read_config(self._handle.path), self._handle.path)

    def identity(self) -> Mapping[str, Any]:
        return {"kind": "local", "fingerprint": self._handle.fingerprint, "dtype": self._handle.dtype}

    def answer(self, prompts: Sequence[str], candidates: int) -> list[Reply]:
        from curate.inference.engine import Engine
        from curate.model import cached

        model = cached(self._handle, self._device)
        shared, letters = _letters(model.tokenizer, candidates)
        contexts = [[*self._encoder.render_prompt([{"role": "user", "content": prompt}]), *shared] for prompt in prompts]
        longest = max(map(len, contexts)) + max(map(len, letters))
        if longest > self._positions:
            raise ModelError(f"a question has {longest} tokens, and {self._handle.path} reads {self._positions}; lower row_characters, shown or candidates")
        return [self._reply(np.asarray(nats)) for nats in Engine(model).loglikelihoods(contexts, [letters] * len(contexts))]

    def _reply(self, nats: NDArray[np.float64]) -> Reply:
        if not np.isfinite(nats).all():
            raise ModelError(f"the model in {self._handle.path} gives likelihoods that are not finite; use float32, or another model")
        weights = nats - np.logaddexp.reduce(nats)
        return Reply(" ".join(f"{letter} {value:.4f}" for letter, value in zip(ascii_uppercase, nats, strict=False)), weights)

    @cached_property
    def _encoder(self) -> "Encoder":
        from curate.data.preflight import check_template
        from curate.data.template import Encoder
        from curate.model import cached

        tokenizer = cached(self._handle, self._device).tokenizer
        check_template(tokenizer)
        return Encoder.of(tokenizer, self._positions)


def _letters(tokenizer: Any, candidates: int) -> tuple[list[int], list[list[int]]]:
    """The tokens with which all answers begin, and those that follow for each of two letters or more."""
    tokens = [list(tokenizer(f"{_OPENING}{letter}", add_special_tokens=False)["input_ids"]) for letter in ascii_uppercase[:candidates]]
    same = len(os.path.commonprefix(tokens))
    return tokens[0][:same], [answer[same:] for answer in tokens]


class Endpoint(Config):
    """Any OpenAI-compatible chat endpoint, asked at temperature 0; its key is read from an environment variable, never from the recipe."""

    kind: Literal["endpoint"] = Field(default="endpoint", description="A chat endpoint.")
    url: str = Field(description="Address up to and including /v1; questions go to URL/chat/completions.")
    model: str = Field(min_length=1, description="The endpoint's name of the model.")
    api_key_env: str | None = Field(default=None, description="NAME of the environment variable that holds the API key.")
    temperature: float | None = Field(default=0.0, ge=0, le=2, description="Of sampling; null leaves it out, for models that take none.")
    max_tokens: int = Field(default=256, ge=1, le=100_000, description="Longest reply; models that think aloud need more.")
    limit_field: Literal["max_tokens", "max_completion_tokens"] = Field(default="max_tokens", description="What the endpoint calls that limit.")
    timeout: float = Field(default=60.0, gt=0, le=3600, description="Seconds without a byte after which a try has failed.")
    retries: int = Field(default=5, ge=0, le=20, description="How often a question is sent again after a failure that may pass.")
    backoff: float = Field(default=1.0, ge=0, le=60, description="Seconds before the first retry; doubles with each, up to a minute.")

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("it must begin with http:// or https:// and name a host, such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("it must hold no password, query or fragment; name the key's environment variable in api_key_env")
        if parts.path.rstrip("/").endswith("/completions"):
            raise ValueError("it ends before /chat/completions, such as http://localhost:8000/v1")
        return url.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError("it must be the NAME of an environment variable, such as OPENAI_API_KEY, and never the key itself")
        return name

    def open(self, device: str, folder: Path) -> Chooser:
        return _Remote(self)


class _Remote:
    def __init__(self, fields: Endpoint) -> None:
        self._fields = fields
        body: dict[str, Any] = {fields.limit_field: fields.max_tokens}
        if fields.temperature is not None:
            body["temperature"] = fields.temperature
        key = _key(fields.api_key_env)
        self._endpoint = ChatEndpoint(fields.url, fields.model, key, body, timeout=fields.timeout, retries=fields.retries, backoff=fields.backoff)

    def identity(self) -> Mapping[str, Any]:
        """Not where it is: the same model may move to another host."""
        return self._fields.model_dump(mode="json", include={"kind", "model", "temperature", "max_tokens"})

    def answer(self, prompts: Sequence[str], candidates: int) -> list[Reply]:
        with ThreadPoolExecutor(max_workers=len(prompts)) as pool:
            return [_judged(raw, candidates) for raw in pool.map(self._endpoint.ask, prompts)]


def _judged(raw: str, candidates: int) -> Reply:
    letter = read_letter(raw, candidates)
    return Reply(raw, None if letter is None else np.eye(candidates)[letter])


def _key(name: str | None) -> str:
    if name is None:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        raise ConfigError(f"the environment variable {name} (api_key_env) is not set; set it to the endpoint's API key, or leave api_key_env out")
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the environment variable {name} (api_key_env) holds characters that no API key has; set it again")
    return key

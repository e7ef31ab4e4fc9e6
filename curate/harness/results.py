"""What an evaluation of models found, as plain records: what the command line prints, and its JSON."""

from typing import Any

from curate.core import Config


class MetricFound(Config):
    """A metric of a variant on a task; the standard error is that of the mean over items, absent for a single item."""

    name: str
    value: float | None  # absent where it is too large for a number
    standard_error: float | None
    higher_is_better: bool


class Examined(Config):
    """One variant on one task."""

    variant: str
    task: str
    version: str
    exact: bool  # whether no press was used
    items: int
    metrics: list[MetricFound]
    empty: int  # generated answers without a character, which count as wrong
    forward_tokens: int  # computed now: nothing for answers that the ledger had
    tokens_without_sharing: int
    cache_bytes: int | None  # absent for activated adapters, which have the base's
    compressed_tokens: int  # of the prompts, whose keys and values go through the press; each once
    compressed_share: float = 0.0  # of all tokens of the prompts, those that a request's answer reads through the press
    seconds: float
    unshared: str  # why requests ran one by one, if they did now


class Trust(Config):
    """A lossy run against the exact one on the first items of a task."""

    task: str
    items: int
    agreement: float
    loglikelihood_error: float | None
    divergence: float | None
    kendall_tau: float | None
    sign_agreement: float | None
    passed: bool
    doubts: list[str]  # why it did not pass
    forward_tokens: int  # of the exact run, beside those of the lossy one


class Evaluated(Config):
    """All variants on all tasks."""

    model: str
    device: str
    dtype: str
    version: str
    press: dict[str, Any] | None
    seed: int
    notes: list[str]
    examined: list[Examined]
    trust: list[Trust]
    plans: dict[str, str]  # by task, the digest of what was computed

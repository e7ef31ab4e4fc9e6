"""What an evaluation of models found, as plain records: what the command line prints, and its JSON."""

from typing import Any

from curate.core import Config


class MetricFound(Config):
    """A metric of a variant on a task; the standard error is that of the mean over items, absent for a single item."""

    name: str
    value: float
    standard_error: float | None
    higher_is_better: bool


class Examined(Config):
    """One variant on one task."""

    variant: str
    task: str
    version: str
    items: int
    metrics: list[MetricFound]
    empty: int  # items without an answer, which count as wrong
    forward_tokens: int  # computed now: nothing for answers that the ledger had
    tokens_without_sharing: int
    cache_bytes: int
    compressed_tokens: int
    seconds: float
    unshared: str  # why requests ran one by one, if they did


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

"""DSIR: how much likelier a row is under the target's n-grams than under the pool's."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.core import Content, Integers
from curate.data.text import text_of
from curate.errors import ConfigError, DataError
from curate.interfaces import Batch, Output, Reads, Scorer, ScoringContext, State
from curate.lexical import Hash, hashed_ngrams

if TYPE_CHECKING:
    from torch import Tensor


class Dsir(Scorer):
    """Log importance weight of a row, from unigrams and bigrams hashed into buckets, in nats: (B,), high is like the target.

        log w(x) = sum over buckets of c(x) (log p_target - log p_pool)

        p_pool = c / sum c,   p_target = (c + s B p_pool) / (sum c + s B)

    c counts the n-grams of lower-cased wordpunct tokens (`curate.lexical.hashed_ngrams`) in a row, the target or the
    pool, B is `buckets` and s `smoothing`: of what the target does not speak, it is taken to be like the pool. With
    `prior: uniform` both p are (c + s) / (sum c + s B), and a target of fewer than s B n-grams ranks rows by their
    length, shortest first. A sum grows with length: its mean over the pool's n-grams is minus a divergence, so most long rows lie far
    below and a few far above, and a short unrelated row outranks a long one; `per_token` divides by the row's tokens.
    The paper draws rows in proportion to w without replacement, which is a selector's part (the highest
    scores after Gumbel noise); to take the highest scores is another method.

    Unlike the published code: `smoothing` is 1, where that adds 1e-8 to p, so that an n-gram in a bucket without any
    of the target's costs -18.4 - log p_pool nats (`smoothing: 0` is that formula); p_pool is counted over the whole
    pool, there over about the first 100,000 `buckets` n-grams; rows of fewer than 100 tokens are kept; `buckets` other than
    10,000 hold for the rows as well, there only for the fit; and the hash is not sha256 unless asked for.

    A row without a token, or that came as token ids, gives NaN. DataError if pool or target has no token.

    Xie et al., "Data Selection for Language Models via Importance Resampling", NeurIPS 2023.
    """

    name: Literal["dsir"] = "dsir"
    output: ClassVar[Output] = "scores"
    reads: ClassVar[Reads] = "text"
    targeted: ClassVar[bool] = True
    sample_rows: ClassVar[int | None] = None

    buckets: int = Field(10_000, ge=1, le=2**24, description="Buckets that n-grams are hashed into.")
    smoothing: float = Field(1.0, ge=0, le=1e6, description="Count added to every bucket of target and pool; 0: none, but 1e-8 added to p, as published.")
    prior: Literal["pool", "uniform"] = Field("pool", description="What smoothing draws the target towards: the pool's n-grams, or all buckets alike.")
    per_token: bool = Field(False, description="Divide by the row's tokens: nats per token, so that length no longer decides.")
    hash: Hash = Field("fast", description="fast, or the sha256 of the published code, three to four times slower.")

    def prepare(self, sample: Iterable[Batch], context: ScoringContext) -> State:
        """log p_target - log p_pool (buckets,), in one pass over the pool."""
        target = self._counts("target", ([row.content] for row in context.target))
        pool = self._counts("pool", (batch.content for batch in sample))
        even = np.full(self.buckets, 1 / self.buckets)
        if self.prior == "uniform" or not self.smoothing:
            return {"log_ratio": np.log(self._p(target, even)) - np.log(self._p(pool, even))}
        seen = pool > 0  # every n-gram of the pool's rows
        of_pool = pool / pool.sum()
        ratio = np.divide(self._p(target, of_pool), of_pool, out=np.ones(self.buckets), where=seen)
        return {"log_ratio": np.log(ratio)}

    def score(self, batch: Batch, context: ScoringContext) -> "Tensor":
        import torch

        if context.state is None:
            raise ConfigError("dsir reads the n-grams of pool and target, and none were prepared")
        ratio = torch.as_tensor(context.state["log_ratio"]).cpu().numpy()
        bucket, row, tokens = self._ngrams(batch.content)
        score = np.bincount(row, weights=ratio[bucket], minlength=len(tokens)).astype(np.float64)  # of nothing it is integers
        score[tokens == 0] = np.nan
        return torch.from_numpy((score / tokens.clip(min=1) if self.per_token else score).astype(np.float32))

    def _ngrams(self, contents: Sequence[Content]) -> tuple[Integers, Integers, Integers]:
        return hashed_ngrams([text_of(content) or "" for content in contents], self.buckets, self.hash)

    def _counts(self, whose: str, batches: Iterable[Sequence[Content]]) -> Integers:
        counts = np.zeros(self.buckets, np.int64)
        for contents in batches:
            np.add.at(counts, self._ngrams(contents)[0], 1)
        if not counts.any():
            raise DataError(f"dsir: no row of the {whose} has text to count; give a {whose} of text or of conversations")
        return counts

    def _p(self, counts: Integers, prior: NDArray[np.float64]) -> NDArray[np.float64]:
        weight = self.smoothing * self.buckets
        share: NDArray[np.float64] = (counts + weight * prior) / (counts.sum() + weight)
        return share if self.smoothing else share + 1e-8

"""What scorers that count words have in common: the batch does not matter, nor where the state was kept, and texts without words are refused."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from curate.errors import ConfigError, DataError
from curate.interfaces import Scorer, ScoringContext
from curate.scorers.bm25 import Bm25
from curate.scorers.dsir import Dsir
from curate.testing import check_scorer
from tests.scorers.words import batch_of, plain, row, scored

SCORERS = [Bm25(), Bm25(k1=0, b=0, part="answer"), Dsir(), Dsir(hash="sha256", per_token=True), Dsir(smoothing=0, prior="uniform", buckets=50)]


def drawn(count: int, seed: int) -> list[str]:
    """Texts of one to twelve words out of thirty, the first ones far more often."""
    generator = np.random.default_rng(seed)
    return [" ".join(f"W{int(30 * u**3)}" for u in generator.random(int(generator.integers(1, 13)))) for _ in range(count)]


@pytest.fixture(params=SCORERS, ids=lambda scorer: f"{scorer.name}-{SCORERS.index(scorer)}")
def scorer(request: pytest.FixtureRequest) -> Iterator[Scorer]:
    yield request.param


def test_any_batch_and_order_gives_the_same_bits(scorer: Scorer) -> None:
    pool, target = plain(drawn(30, seed=10)), plain(drawn(6, seed=11))
    together = scored(scorer, pool, target, size=30)
    assert torch.equal(scored(scorer, pool, target, size=1), together)
    assert torch.equal(scored(scorer, pool[::-1], target, size=7).flip(0), together)


def test_a_stored_state_gives_the_same_bits(scorer: Scorer) -> None:
    batch = batch_of(plain(drawn(9, seed=12)))
    context = ScoringContext(target=plain(drawn(3, seed=13)))
    state = scorer.prepare([batch], context) or {}
    stored = {name: torch.from_numpy(value) for name, value in state.items()}
    assert torch.equal(scorer.score(batch, replace(context, state=stored)), scorer.score(batch, replace(context, state=state)))


@pytest.mark.parametrize("plain_scorer", [Bm25(), Dsir()], ids=lambda scorer: scorer.name)
def test_the_scorer_keeps_its_contract(base: ScoringContext, plain_scorer: Scorer) -> None:
    rows = [row(*[("user", text)] * repeats) for repeats, text in enumerate(["an apple a day", "a pear", "day and night"], start=1)]
    check_scorer(plain_scorer, replace(base, target=plain(["an apple", "the day and a night"])), rows)


def test_scoring_unprepared_is_refused(scorer: Scorer) -> None:
    with pytest.raises(ConfigError, match="none were prepared"):
        scorer.score(batch_of(plain(["a"])), ScoringContext(target=plain(["a"])))


@pytest.mark.parametrize(
    ("plain_scorer", "blank", "said"), [(Bm25(), "?!", "has a word[^\n]*part: all"), (Dsir(), " ", "has text to count")], ids=["bm25", "dsir"]
)
@pytest.mark.parametrize(("blanks", "blamed"), [("target", "target"), ("no target", "target"), ("pool", "pool"), ("no pool", "pool")])
def test_texts_without_a_word_are_refused(plain_scorer: Scorer, blank: str, said: str, blanks: str, blamed: str) -> None:
    texts: dict[str, Sequence[str]] = {"pool": ["a"], "target": ["a"], blamed: [] if blanks.startswith("no ") else [blank]}
    with pytest.raises(DataError, match=rf"no row of the {blamed} {said}[^\n]*$"):
        scored(plain_scorer, plain(texts["pool"]), plain(texts["target"]))


@pytest.mark.parametrize(("kind", "field", "largest"), [(Bm25, "k1", 1000), (Dsir, "smoothing", 1e6)])
def test_the_largest_number_allowed_is_computed_without_a_warning_and_a_larger_one_refused(kind: type[Scorer], field: str, largest: float) -> None:
    pool, target = plain(drawn(20, seed=14)), plain(drawn(5, seed=15))
    with np.errstate(all="raise"):
        found = scored(kind(**{field: largest}), pool, target)
    nearly = scored(kind(**{field: largest / 2}), pool, target)
    assert found.isfinite().all() and len(found.unique()) > 10
    assert torch.allclose(found, nearly, rtol=0.02) or torch.allclose(found, nearly / 2, rtol=1e-3)  # it has levelled out, or falls in proportion
    for larger in (largest * 1.01, 1e308):
        with pytest.raises(ValidationError, match="less than or equal"):
            kind(**{field: larger})

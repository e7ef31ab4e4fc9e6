"""A row without usable numbers is set aside with its id and a reason, and its neighbours keep the numbers they had."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from curate.cluster import InProcess
from curate.core import Artifact, Examples, Row
from curate.errors import ModelError, NumericError
from curate.features import map_tensors, open_features, quarantined
from curate.interfaces import Batch, Scorer, ScoringContext
from curate.model import LanguageModel, ModelHandle
from curate.pipelines import score as pipeline
from curate.pipelines.score import SHARD_ROWS, Part, ShardTask, jobs_of, score, score_shard
from curate.pipelines.session import Session
from curate.pipelines.state import Inputs, prepare_states
from curate.rowwise import fault, score_rows
from curate.store import Store, Workspace

POISON, NOTHING = 13, 14  # first tokens of the rows that have no loss, and no gradient
CONTEXT = ScoringContext(model=LanguageModel(None, SimpleNamespace(pad_token_id=0), "cpu", {}))


class Difficulty(Scorer):
    """The sum of a row's tokens; one poisoned row spoils its whole batch, as an overflow in a shared reduction does."""

    name: Literal["difficulty"] = "difficulty"
    output: ClassVar[Literal["vectors", "scores"]] = "scores"
    reads: ClassVar[Literal["text", "tokens", "logits", "hidden", "gradients"]] = "tokens"

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        sums = (batch.input_ids * batch.mask).sum(1).float()
        return sums * torch.nan if (batch.input_ids[:, 0] == POISON).any() else sums


class Direction(Difficulty):
    """Three numbers that depend on a row's tokens; all zero for a row without a gradient."""

    name: Literal["direction"] = "direction"  # type: ignore[assignment]
    output: ClassVar[Literal["vectors", "scores"]] = "vectors"

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        sums = super().score(batch, context)
        vectors = torch.stack([sums, sums + 1, -sums], 1)
        return vectors * (batch.input_ids[:, :1] != NOTHING)


def rows(count: int, first: dict[int, int] | None = None) -> list[Row]:
    """Rows of 1 to 9 tokens; `first` replaces the first token of some."""
    generator = np.random.default_rng(0)
    made = []
    for i in range(count):
        ids = generator.integers(20, 90, int(generator.integers(1, 10))).astype(np.int32)
        ids[0] = (first or {}).get(i, ids[0])
        made.append(Row(ids, np.ones(len(ids), bool)))
    return made


def numbers(row: Row) -> list[float]:
    total = float(row.input_ids.sum())
    return [total, total + 1, -total]


def examples(made: list[Row]) -> Examples:
    lengths = np.array([len(row.input_ids) for row in made])
    return Examples(np.array([f"id-{i:04d}" for i in range(len(made))]), lengths, lengths, np.full(len(made), "all"), made)


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make these rows the examples that every shard opens; they stay in memory, as does the model that reads them."""

    def put(made: list[Row]) -> Examples:
        for stage in ("score", "state"):
            monkeypatch.setattr(f"curate.pipelines.{stage}.opened", lambda path: examples(made))
        monkeypatch.setattr("curate.model.cached", lambda handle, device: CONTEXT.model)
        return examples(made)

    return put


def session_in(folder: Path) -> Session:
    return Session(Store(folder), InProcess(), folder, "cpu", lambda stage, label: None)


def inputs(folder: Path, rows: int, dtype: str = "bfloat16") -> Inputs:
    pool = Artifact("examples-0", folder, {"summary": {"used": rows}})
    return Inputs(ModelHandle(folder, "in memory", dtype, 16), pool, pool, (), (), folder, "cpu")


def scored(scorer: Scorer, made: Examples, folder: Path, limit: float) -> Artifact:
    session, given = session_in(folder), inputs(folder, len(made))
    return score(session, jobs_of(session, {"margin": scorer}, given), given, "pool", limit)["margin"]


def shard(scorer: Scorer, made: Examples, folder: Path) -> ShardTask:
    return ShardTask((Part("margin", scorer, (None, None), folder),), inputs(folder, len(made)), folder, "pool", 0, len(made))


def test_a_poisoned_row_keeps_its_nan_to_itself() -> None:
    made = rows(7, {2: POISON, 5: POISON})
    found = score_rows([(Difficulty(), CONTEXT)], made)[0]
    assert np.flatnonzero(np.isnan(found)).tolist() == [2, 5]
    assert [found[i] for i in (0, 1, 3, 4, 6)] == [numbers(made[i])[0] for i in (0, 1, 3, 4, 6)]


def test_a_batch_without_poison_is_scored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def counted(self: Difficulty, batch: Batch, context: ScoringContext) -> Tensor:
        sizes.append(len(batch.mask))
        return batch.mask.sum(1).float()

    monkeypatch.setattr(Difficulty, "score", counted)
    score_rows([(Difficulty(), CONTEXT)], rows(7))
    assert sizes == [7]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.float32("nan"), "not_finite"),
        (np.float32("-inf"), "not_finite"),
        (np.array([0, np.nan], np.float32), "not_finite"),
        (np.array([1, np.inf], np.float32), "not_finite"),
        (np.zeros(3, np.float32), "zero_norm"),
        (np.array([0, 1e-30], np.float32), ""),
        (np.float32(0), ""),  # a score of zero is a score
    ],
)
def test_only_numbers_that_cannot_be_used_are_faults(value: Any, reason: str) -> None:
    assert fault(value, "vectors") == reason
    assert fault(np.zeros(3, np.float32), "similarity") == ""  # like nothing of the target, and well so


def test_a_shard_holds_the_other_rows_and_its_sidecar_names_those_set_aside(hold: Any, tmp_path: Path) -> None:
    made = rows(9, {0: NOTHING, 4: POISON, 8: POISON})
    info = score_shard(shard(Direction(), hold(made), tmp_path))[0]
    assert (info["rows"], info["width"]) == (6, 3)
    assert info["quarantined"] == [["id-0000", "zero_norm"], ["id-0004", "not_finite"], ["id-0008", "not_finite"]]
    assert Workspace(tmp_path).committed("shard-000000.safetensors") == info
    on_disk = map_tensors(tmp_path / "shard-000000.safetensors")
    assert on_disk["rows"].tolist() == [1, 2, 3, 5, 6, 7]
    assert on_disk["values"].tolist() == [numbers(made[i]) for i in (1, 2, 3, 5, 6, 7)]


@pytest.mark.parametrize("scorer", [Difficulty(), Direction()], ids=lambda scorer: scorer.output)
def test_the_quarantine_of_every_shard_is_found_by_id_and_an_arm_sees_the_rest(scorer: Scorer, hold: Any, tmp_path: Path) -> None:
    bad = {3: POISON, SHARD_ROWS - 1: POISON, SHARD_ROWS + 2: POISON}
    pool = hold(rows(SHARD_ROWS + 20, bad))
    artifact = scored(scorer, pool, tmp_path, 0.05)
    assert quarantined(artifact) == [(f"id-{i:04d}", "not_finite") for i in sorted(bad)]
    features, kept = open_features(pool, **{scorer.output: artifact})
    assert kept.tolist() == [i for i in range(len(pool)) if i not in bad]
    found = features.vectors[:] if scorer.output == "vectors" else features.scores
    wanted = [numbers(pool.rows[i]) if scorer.output == "vectors" else numbers(pool.rows[i])[0] for i in kept]
    assert np.array_equal(found, np.array(wanted))


def test_a_shard_of_which_nothing_is_left_does_no_harm_to_the_others(hold: Any, tmp_path: Path) -> None:
    pool = hold(rows(SHARD_ROWS + 5, dict.fromkeys(range(SHARD_ROWS), POISON)))
    artifact = scored(Direction(), pool, tmp_path, 1.0)
    assert (artifact.manifest["summary"]["rows"], artifact.manifest["summary"]["width"]) == (5, 3)
    features, kept = open_features(pool, artifact)
    assert kept.tolist() == list(range(SHARD_ROWS, SHARD_ROWS + 5))
    assert features.vectors[:].tolist() == [numbers(pool.rows[i]) for i in kept]


def test_as_many_bad_rows_as_the_limit_allows_pass_and_one_more_is_refused(hold: Any, tmp_path: Path) -> None:
    assert len(quarantined(scored(Difficulty(), hold(rows(20, {4: POISON})), tmp_path / "one", 0.05))) == 1
    with pytest.raises(NumericError, match=r"2 of 20 rows of the pool .*first: row id-0004, not_finite.*the limit is 5\.0%"):
        scored(Difficulty(), hold(rows(20, {4: POISON, 9: POISON})), tmp_path / "two", 0.05)


@pytest.mark.parametrize(("scorer", "poison", "reason"), [(Difficulty(), POISON, "not_finite"), (Direction(), NOTHING, "zero_norm")])
def test_when_every_row_is_bad_the_error_says_what_is_allowed_and_what_to_do(scorer: Scorer, poison: int, reason: str, hold: Any, tmp_path: Path) -> None:
    with pytest.raises(NumericError) as caught:
        scored(scorer, hold(rows(12, dict.fromkeys(range(12), poison))), tmp_path, 0.01)
    said = str(caught.value)
    assert "feature margin: 12 of 12 rows" in said and f"row id-0000, {reason}" in said
    assert "the limit is 1.0%" in said and "hygiene.quarantine_limit" in said and "model.dtype: float32" in said
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.glob("features-*"))  # nothing that a later run could take for a result


@pytest.mark.parametrize(("dtype", "advice"), [("bfloat16", "try model.dtype: float32, or"), ("float32", "look at the answers of such rows of the pool, or")])
def test_the_advice_is_what_can_still_be_changed(dtype: str, advice: str, hold: Any, tmp_path: Path) -> None:
    hold(rows(4, {0: POISON}))
    session, given = session_in(tmp_path), inputs(tmp_path, 4, dtype)
    with pytest.raises(NumericError, match=f"1 of 4 rows of the pool .*: {advice} raise hygiene.quarantine_limit$"):
        score(session, jobs_of(session, {"margin": Difficulty()}, given), given, "pool", 0.0)
    with pytest.raises(NumericError, match="1 of 4 rows of the target .*: look at what such rows of the target say"):
        score(session, jobs_of(session, {"margin": Difficulty()}, given), replace(given, handle=None), "target", 0.0)


class Ahead(InProcess):
    """Has finished all tasks before the first result is looked at, as many workers might."""

    def map(self, function: Any, items: Any, *, label: str = "", remedy: Any = None) -> Any:
        yield from list(super().map(function, items, label=label, remedy=remedy))


@pytest.mark.parametrize(("cluster", "ahead"), [(InProcess(), []), (Ahead(), [2, 3])], ids=["one", "many"])
def test_a_run_stops_at_the_shard_that_makes_it_hopeless_and_loses_nothing(
    cluster: InProcess, ahead: list[int], hold: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 4 * SHARD_ROWS
    hold(rows(count, dict.fromkeys(range(SHARD_ROWS, SHARD_ROWS + 12), POISON)))
    given = inputs(tmp_path, count)
    numbers_of, computed, session = pipeline._computed, list[int](), replace(session_in(tmp_path), cluster=cluster)
    monkeypatch.setattr(pipeline, "_computed", lambda task, parts: computed.append(task.start // SHARD_ROWS) or numbers_of(task, parts))
    first = f"12 of the first {2 * SHARD_ROWS} of {count} rows of the pool .*first: row id-0{SHARD_ROWS}, not_finite"
    for _ in range(2):  # the message is the same where the shards are found
        with pytest.raises(NumericError, match=first):
            score(session, jobs_of(session, {"margin": Difficulty()}, given), given, "pool", 0.01)
    assert computed == [0, 1, *ahead]
    score(session, jobs_of(session, {"margin": Difficulty()}, given), given, "pool", 0.02)
    assert computed == [0, 1, 2, 3]


class Relative(Difficulty):
    """A row's sum less the mean over the sample that `prepare` saw."""

    def prepare(self, sample: Iterable[Batch], context: ScoringContext) -> dict[str, Any]:
        sums = [value for batch in sample for value in super(Relative, self).score(batch, context).tolist()]
        return {"mean": np.array(sum(sums) / len(sums))}

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        return super().score(batch, context) - float((context.state or {})["mean"])


def test_a_scorer_that_prepares_gets_what_it_made_of_the_pool_from_the_store(hold: Any, tmp_path: Path) -> None:
    made = rows(9, {})
    pool = scored(Relative(), hold(made), tmp_path, 0.0)
    plain = np.array([numbers(row)[0] for row in made])
    assert map_tensors(pool.path / "shard-000000.safetensors")["values"].tolist() == pytest.approx((plain - plain.mean()).tolist())
    session, given = session_in(tmp_path), inputs(tmp_path, len(made))
    state = prepare_states(session, {"margin": Relative()}, given, 2048)["margin"].state
    assert state is not None and session.stages[0]["cached"]
    assert state.key in pool.manifest["inputs"]


class Crowded(Difficulty):
    """Runs out of memory when more than two rows come at once."""

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        if len(batch.mask) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return super().score(batch, context)


class Hopeless(Difficulty):
    """Runs out of memory on a long row, however few come at once."""

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        if batch.mask.sum(1).max() > 8:
            raise torch.OutOfMemoryError("out of memory")
        return super().score(batch, context)


def test_when_memory_runs_out_the_batch_is_halved_until_it_fits() -> None:
    made = rows(7)
    assert score_rows([(Crowded(), CONTEXT)], made)[0].tolist() == [numbers(row)[0] for row in made]


def test_a_single_row_that_does_not_fit_is_an_error_that_says_how_long_it_is() -> None:
    long = Row(np.arange(20, 29, dtype=np.int32), np.ones(9, bool))
    with pytest.raises(ModelError, match="row d of 9 tokens does not fit"):
        score_rows([(Hopeless(), CONTEXT)], [*rows(3), long], ["a", "b", "c", "d"])


def test_features_of_one_model_are_scored_in_one_go_and_found_one_by_one(hold: Any, tmp_path: Path) -> None:
    pool = hold(rows(SHARD_ROWS + 3))
    session, given = session_in(tmp_path), inputs(tmp_path, len(pool))
    alone = score(session, jobs_of(session, {"a": Difficulty()}, given), given, "pool", 0.0)["a"]
    both = score(session, jobs_of(session, {"a": Difficulty(), "b": Direction()}, given), given, "pool", 0.0)
    assert both["a"].key == alone.key and session.stages[-2]["cached"] and not session.stages[-1]["cached"]
    assert both["b"].manifest["summary"]["width"] == 3

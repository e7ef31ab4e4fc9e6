"""How much to keep for a compute: the whole pipeline on a small pool, what it finds again after an interrupt, and what it refuses."""

import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from curate.core import Examples, Features
from curate.data.examples import open_examples
from curate.errors import ConfigError, CurateError, DataError, Interrupted
from curate.features import map_tensors
from curate.model import apply_weights, fresh, read_weights, resolve
from curate.pipelines import advise as pipeline
from curate.pipelines import finetune
from curate.pipelines.advise import advise
from curate.pipelines.advise_runs import Planned, cut, plan, rows_of
from curate.recipe import Recipe, Runtime, read_recipe
from curate.report.advice import Advice, print_advice, tokens
from curate.scaling_law import Law
from curate.store import read_json

RECIPE = """
name: small
pool: {{synthetic: pool, rows: 160, group: kind}}
target: {{rare: {{synthetic: target, rows: 6, group: kind}}}}
model: {{path: {model}, max_length: 96, lora: {{r: 2, alpha: 4, targets: attention}}}}
features: {{surprise: loss, gradient: {{name: less, width: 64}}}}
budgets: [20]
train: {{epochs: 1, learning_rate: 5.0e-3, batch_size: 2}}
evaluate: {{task: likelihood, data: {{synthetic: test, rows: 10}}}}
"""

Ask = Callable[..., Advice]


@pytest.fixture
def recipe(tiny: Path, tmp_path: Path) -> Recipe:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE.format(model=tiny))
    return read_recipe(path)


@pytest.fixture
def ask(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """`advise` on the small recipe with short runs and few bootstrap draws, in folders of the test's own."""
    monkeypatch.setattr(pipeline, "FEWEST_STEPS", 1)
    monkeypatch.setattr(pipeline, "fit", partial(pipeline.fit, draws=20))

    torch.set_num_threads(1)

    def call(feature: str = "surprise", compute: str = "1.6k tokens", buckets: int = 2, **more: Any) -> Advice:
        runtime = Runtime(store=tmp_path / "store", runs=tmp_path / "runs", workers=1)
        return advise(recipe, runtime, tmp_path, feature, compute=compute, buckets=buckets, quiet=True, **more)

    return call


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The tokens asked of every training, as they begin; Ctrl-C comes with the third."""
    seen: list[int | None] = []
    train = finetune.run_training

    def counted(task: finetune.TrainTask, *rest: Any) -> dict[str, Any]:
        seen.append(task.tokens)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return train(task, *rest)

    monkeypatch.setattr(finetune, "run_training", counted)
    return seen


def target_loss(recipe: Recipe, store: Path, evidence: str, target: Examples) -> float:
    """The mean over target rows of their nats per supervised token, row by row, written out."""
    checkpoint = store / read_json(store / evidence / "manifest.json")["inputs"][1]
    model = fresh(resolve(recipe.model, Path()))
    apply_weights(model.names, read_weights(checkpoint))
    losses = []
    for row in target.rows:
        ids = torch.from_numpy(row.input_ids.astype(np.int64))
        with torch.no_grad():
            said = model.model(input_ids=ids[None]).logits[0, :-1].double().log_softmax(-1)
        losses.append(float(-said[torch.arange(len(ids) - 1), ids[1:]][torch.from_numpy(row.supervised[1:].copy())].mean()))
    return float(np.mean(losses))


def test_an_interrupted_advice_goes_on_trains_nothing_twice_and_says_what_the_artifacts_say(
    ask: Ask, trainings: list[int | None], recipe: Recipe, tmp_path: Path
) -> None:
    store, written = tmp_path / "store", tmp_path / "runs" / "small" / "advice-surprise.json"
    with pytest.raises(Interrupted):
        ask()
    assert not written.exists() and len(list(store.glob("losses-*"))) == 3  # of the model as it is, and of two runs
    advice = ask()
    assert len(trainings) == len(advice.runs) + 1 == 8  # the third twice
    assert ask() == advice == Advice.model_validate_json(written.read_bytes()) and len(trainings) == 8

    target, pool = sorted((open_examples(path) for path in store.glob("examples-*")), key=len)
    values = np.asarray(map_tensors(next(store.glob("features-*")) / "shard-000000.safetensors")["values"])
    assert (advice.pool_rows, advice.pool_tokens, advice.target_rows) == (160, pool.lengths.sum(), 6)
    first, second = advice.buckets
    assert first.rows + second.rows == 160 and abs(first.tokens - second.tokens) <= 2 * pool.lengths.max()
    assert (first.highest, second.lowest) == (values.max(), values.min()) and first.lowest >= second.highest
    run = advice.runs[5]
    assert (run.buckets, run.loss) == ([1, 2], pytest.approx(target_loss(recipe, store, run.evidence, target), rel=1e-5))
    assert [one.buckets for one in advice.runs] == [[1], [1], [1], [2], [1], [1, 2], [1, 2]]
    trained = [read_json(store / read_json(store / one.evidence / "manifest.json")["inputs"][1] / "manifest.json") for one in advice.runs]
    assert [one["summary"]["tokens"] for one in trained] == [one.seen for one in advice.runs] and sum(one.seen for one in advice.runs) == advice.spent

    law = Law(advice.a, tuple(one.b for one in advice.buckets), advice.tau.value or np.inf, advice.d.value or 0.0, advice.pool_tokens / 2, advice.start)
    assert law.a + law.d == pytest.approx(advice.base_loss)
    answer = min((one for one in advice.forecasts if one.compute == 1600), key=lambda one: one.loss.value or 0.0)
    assert advice.answer == answer and answer.passes == pytest.approx(1600 / (answer.buckets * law.bucket))
    assert answer.loss.value == pytest.approx(float(law.loss(range(answer.buckets), law.bucket, 1600)[0]), rel=1e-4)
    printed = io.StringIO()
    print_advice(advice, Console(file=printed, width=100))
    events = [json.loads(line) for line in (tmp_path / "runs" / "small" / "log.jsonl").read_text().splitlines()]
    said = [event["text"] for event in events if event["event"] == "message"]
    assert (
        said[0].startswith("7 small runs on ")
        and said[6].strip() == f"run 6: {tokens(trainings[-2] or 0)} tokens of bucket 1 + 2, of which 20% of the rows are used"
    )
    assert f"{advice.verdict}." in " ".join(printed.getvalue().split()) and "high scores of surprise are taken as good" in printed.getvalue()


def features(scores: list[float], lengths: list[int]) -> Features:
    return Features.from_arrays(scores=scores, lengths=lengths)


@pytest.mark.parametrize("best", ["high", "low"])
def test_buckets_hold_equal_tokens_in_the_order_of_the_score(best: str) -> None:
    rng = np.random.default_rng(0)
    scores, lengths = rng.integers(0, 40, 300).astype(float), rng.integers(5, 90, 300)
    positions = np.arange(300) * 3 + 1
    buckets = cut(features(list(scores), list(lengths)), positions, 5, best)
    assert sorted(np.concatenate(buckets)) == list(positions)
    sign = -1 if best == "high" else 1
    order = sorted(range(300), key=lambda i: (sign * scores[i], f"{i:03d}"))
    assert list(np.concatenate(buckets)) == [positions[i] for i in order]
    for bucket in buckets:
        assert abs(lengths[(bucket - 1) // 3].sum() - lengths.sum() / 5) <= lengths.max()


def test_a_row_belongs_to_the_bucket_of_the_middle_of_its_tokens() -> None:
    one, two = cut(features([3, 2, 1], [10, 30, 10]), np.arange(3), 2, "high")
    assert (list(one), list(two)) == ([0], [1, 2])
    one, two = cut(features([3, 2, 1], [10, 20, 30]), np.arange(3), 2, "high")
    assert (list(one), list(two)) == ([0, 1], [2])


def sizes(planned: list[Planned], bucket: float) -> list[tuple[tuple[int, ...], float]]:
    """Passes over one bucket, whatever share of it is used."""
    return [(one.kept, round(one.tokens / one.share / bucket, 3)) for one in planned]


def test_runs_stay_within_what_is_to_be_spent_and_repeat_as_often_as_the_advice_may() -> None:
    whole = plan(4, 1e6, 4e7, 1.0, 1.0)
    alone = [((0,), 0.125), ((0,), 0.333), *(((number,), 1.0) for number in range(4)), ((0,), 2.0), ((0,), 4.0)]
    assert sizes(whole, 1e6) == [*alone, ((0, 1, 2, 3), 1.0), ((0, 1, 2, 3), 4.0), ((0, 1), 2.0)]
    assert {one.share for one in whole} == {1.0} and sum(one.tokens for one in whole) < 4e7
    part = plan(4, 1e6, 4e6, 1.0, 0.5)
    assert sizes(part, 1e6) == sizes(whole, 1e6) and sum(one.tokens for one in part) == pytest.approx(2e6)
    once = plan(4, 1e6, 5e5, 1.0, 1.0)
    assert max(size for _, size in sizes(once, 1e6)) == 0.5 and sum(one.tokens for one in once) == pytest.approx(5e5)
    assert [size for kept, size in sizes(once, 1e6) if len(kept) == 4] == [0.5, 0.167]
    assert [size for kept, size in sizes(plan(2, 1e6, 1.5e6, 1.0, 9.0), 1e6) if kept == (0,)] == [0.125, 0.333, 1.0, 2.0]
    needy = plan(4, 1e6, 4e6, 5e4, 0.1)
    assert min(one.tokens for one in needy) == pytest.approx(5e4) and sum(one.tokens for one in needy) > 4e5


@pytest.mark.parametrize("buckets", [2, 3, 4, 8])
@pytest.mark.parametrize("compute", [3e5, 1.2e6, 2.5e6, 3e7])
def test_the_planned_runs_determine_the_law_with_one_to_spare(buckets: int, compute: float) -> None:
    planned = plan(buckets, 1e6, compute, 1.0, 1.0)
    repeats = any(one.tokens > 1.1 * len(one.kept) * one.share * 1e6 for one in planned)
    assert repeats == (compute > 1e6)
    assert len(planned) > buckets + 2 + repeats and np.linalg.matrix_rank([[n in one.kept for n in range(buckets)] for one in planned]) == buckets


def test_a_run_takes_its_share_of_every_bucket_whatever_the_order_of_the_pool() -> None:
    ids, lengths = np.array([f"{i:03d}" for i in range(200)]), np.random.default_rng(1).integers(5, 60, 200)
    pool = Examples(ids, lengths, lengths, ids, ())
    buckets = [np.arange(0, 100), np.arange(100, 200)]
    rows = rows_of(Planned((0, 1), 0.4, 0.0), buckets, pool, 0)
    for bucket in buckets:
        assert abs(lengths[np.intersect1d(rows, bucket)].sum() - 0.4 * lengths[bucket].sum()) <= 60
    assert set(rows_of(Planned((1,), 0.2, 0.0), buckets, pool, 0)) < set(rows) != set(rows_of(Planned((0, 1), 0.4, 0.0), buckets, pool, 1))
    assert list(rows_of(Planned((1, 0), 1.0, 0.0), buckets, pool, 0)) == list(range(200))


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"feature": "suprise"}, ConfigError, "--feature: there is no feature 'suprise'; did you mean surprise?"),
        (
            {"feature": "gradient"},
            ConfigError,
            "--feature: scorer less of 'gradient' yields vectors, which have no best end; name one that yields scores: surprise",
        ),
        *(
            ({"compute": text}, ConfigError, f"--compute {text!r} is no number of training tokens")
            for text in ("30%", "500", "0 tokens", "much", "9 supervised_tokens")
        ),
        ({"buckets": 1}, ConfigError, "--buckets 1 gives no choice of how much to keep"),
        ({"spend": 0.0}, ConfigError, "--spend 0 leaves nothing for the small runs"),
        (
            {"buckets": 20, "compute": "1M tokens"},
            DataError,
            "20 buckets of .* tokens cannot be told apart by small runs: .* give fewer --buckets, more rows, or a smaller train",
        ),
        (
            {"compute": "300 tokens"},
            DataError,
            "a compute of 300 tokens cannot be told apart by small runs: .* give more --compute, or a smaller train.batch_size",
        ),
    ],
)
def test_what_cannot_be_advised_is_refused_in_one_line_before_anything_is_scored(
    ask: Ask, wrong: dict[str, Any], error: type[CurateError], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said) as refused:
        ask(**wrong)
    assert "\n" not in str(refused.value) and not list((tmp_path / "store").glob("features-*"))

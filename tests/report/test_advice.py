"""What `curate advise` says of a fit: the answer, its rivals, what the runs leave open, and the tables."""

import io
from typing import Any, Literal

import numpy as np
import pytest
from rich.console import Console

from curate.pipelines.advise import _forecasts
from curate.report.advice import Advice, Bucket, Crossing, Forecast, Value, notes_of, print_advice, tokens, verdict_of
from curate.scaling_fit import Fitted, Run
from curate.scaling_law import Law


def fitted(*utilities: tuple[float, ...], tau: float = 2.0, noise: float = 0.02) -> Fitted:
    """A fit whose draws are these utilities, the first its best."""
    laws = [Law(9.0, b, tau, 0.5, 1e6, 5e5) for b in utilities]
    return Fitted(laws[0], tuple(laws), noise, 3, np.zeros(9))


def said(found: Fitted, best: Literal["high", "low"] = "high", *, seen: float = 4e6, compute: float = 4e6) -> str:
    return ". ".join(notes_of(found, [Run((0, 1, 2), 3e6, seen, 2.0)], compute, best))


def test_a_score_that_points_the_wrong_way_is_named() -> None:
    good = said(fitted((0.9, 0.5, 0.1)))
    assert good == "The law misses the measured losses by 2.0% (standard deviation, 3 runs beyond the fitted numbers)"
    assert "(in 50% of the fits): high scores do not mark the good rows, " in said(fitted((0.1, 0.5, 0.9), (0.9, 0.5, 0.1)))
    assert "try --best low" in said(fitted((0.1, 0.5, 0.9))) and "try --best high" in said(fitted((0.1, 0.5, 0.9)), "low")
    assert "bucket 2 is worth more than bucket 1 (in 100% of the fits)" in said(fitted((0.5, 0.9, 0.1)))
    assert "is worth more" not in said(fitted((0.9, 0.1, 0.2), (0.9, 0.2, 0.1)))  # in half of the fits: nothing that stands out


def test_what_the_runs_leave_open_is_said() -> None:
    assert "take its numbers as rough" in said(fitted((0.9, 0.5, 0.1), noise=0.2))
    assert "half-life of repetition cannot be determined" in said(fitted((0.9, 0.5, 0.1), tau=np.inf))
    assert "The largest run saw 500k tokens, and the compute is 8 times that" in said(fitted((0.9, 0.5, 0.1)), seen=5e5)
    assert "Training on bucket 3 alone raises the loss" in said(fitted((0.9, 0.5, -0.1)))


def test_the_answer_names_its_rivals_where_the_fits_disagree() -> None:
    found = fitted(*[(0.9, 0.6, 0.1)] * 3, *[(0.9, 0.1, 0.0)] * 2)
    now = _forecasts(found, 4e6)
    answer = now[found.law.best(4e6).buckets - 1]
    assert (answer.buckets, answer.best_in) == (2, 0.6)
    line = verdict_of(answer, now)
    assert line.startswith(f"At 4M tokens keep the best 67% (2.0 passes): predicted {answer.loss.value:.2f} [")
    assert "keeping 33% (4.0 passes) would give" in line and "100% (1.3 passes) would give" in line
    assert line.endswith("it is best in 60% of the fits, so the runs do not settle it: keeping 33% in 40%")
    sure = _forecasts(fitted((0.9, 0.6, 0.1)), 4e6)
    assert verdict_of(sure[1], sure).endswith("it is best in 100% of the fits")


def test_tokens_are_short() -> None:
    assert [tokens(count) for count in (0, 430, 999.4, 999.9, 4210, 20e6, 999_900, 1.5e9)] == ["0", "430", "999", "1k", "4.21k", "20M", "1M", "1.5B"]


@pytest.mark.parametrize(
    ("tau", "said"),
    [
        (None, "repeated rows not known."),
        (Value(value=None, low=None, high=None), "repeated rows too long to show."),
        (Value(value=2.04, low=1.0, high=None), "repeated rows 2.0 passes over one bucket (at least 1.0)."),
        (Value(value=2.0, low=1.0, high=4.0), "2.0 passes over one bucket (at least 1.0, at most 4.0)."),
    ],
)
def test_a_half_life_is_printed_as_far_as_it_is_known(tau: Value | None, said: str) -> None:
    forecast = Forecast(compute=1e6, buckets=1, kept=0.5, passes=1.0, loss=Value(value=2.0, low=1.0, high=3.0), best_in=0.9)
    bucket = Bucket(name="1", rows=2, tokens=20, lowest=0.0, highest=1.0, b=0.5, pass_takes=Value(value=0.5, low=0.1, high=0.9))
    floor, lists = Value(value=0.5, low=0.1, high=0.9), {"runs": [], "crossings": [Crossing(fewer=1, more=2, tokens=2e6)], "notes": ["a note"]}
    numbers: dict[str, Any] = {"compute": 1e6, "seed": 0, "pool_rows": 4, "pool_tokens": 40, "target_rows": 3, "spent": 10, "base_loss": 9.0}
    names: dict[str, Any] = {"recipe": "r", "version": "0", "feature": "f", "scorer": "loss", "best": "low", "verdict": "keep it"}
    law: dict[str, Any] = {"a": 8.5, "start": 4e3, "d": floor, "tau": tau, "noise": 0.02, "spare": 3}
    answers: dict[str, Any] = {
        "buckets": [bucket, bucket],
        "forecasts": [forecast, forecast.model_copy(update={"buckets": 2, "kept": 1.0})],
        "answer": forecast,
    }
    printed = io.StringIO()
    print_advice(Advice.model_validate({**names, **numbers, **law, **answers, **lists}), Console(file=printed, width=200))
    text = printed.getvalue()
    assert said in text and "low scores of f are taken as good" in text and "2.00 [1.00, 3.00] ?" in text and "keep it." in text and "a note." in text
    assert "keeping 100% overtakes 50% at 2M tokens" in text

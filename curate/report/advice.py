"""How much to keep for a compute: what `curate advise` found, and how it is printed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from curate.core import Config
from curate.report.wording import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from curate.scaling_fit import Estimate, Fitted, Run


SURE = 0.95  # share of fits from which an answer is settled
ROUGH = 0.1  # misfit from which the law is only a rough guide


class Value(Config):
    """A fitted number with the ends of its 95% interval; an end, or all of it, is None where the runs leave it open."""

    value: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, estimate: "Estimate", most: float = float("inf")) -> "Value":
        """Of an estimate; from `most` on a number is open."""
        value, low, high = (None if number >= most else float(number) for number in estimate)
        return cls(value=value, low=low, high=high)


class Bucket(Config):
    """A part of the pool by quality, and its utility: `pass_takes` is the share of the loss above the floor that one pass over it alone takes off."""

    name: str
    rows: int
    tokens: int
    lowest: float  # of the score
    highest: float
    b: float
    pass_takes: Value


class SmallRun(Config):
    """A training run that the law was fitted to."""

    buckets: list[int]  # numbers from 1, the best
    tokens: int  # in the rows it trained on
    seen: int
    loss: float
    law: float  # the loss that the fitted law has in its place
    evidence: str


class Forecast(Config):
    """The loss that keeping the best buckets is predicted to leave, and the share of bootstrap fits in which nothing is better."""

    compute: float
    buckets: int
    kept: float  # share of the pool's tokens
    passes: float
    loss: Value
    best_in: float


class Crossing(Config):
    """The compute from which keeping more buckets beats keeping fewer; None if never, within 256 passes over the fewer."""

    fewer: int
    more: int
    tokens: float | None


class Advice(Config):
    """How much of the pool to keep for a compute, by the scaling law for data filtering; losses in nats per token, compute in tokens."""

    recipe: str
    version: str
    feature: str
    scorer: str
    best: Literal["high", "low"]
    compute: float
    seed: int
    pool_rows: int
    pool_tokens: int
    target_rows: int
    spent: int  # tokens of all small runs
    base_loss: float
    a: float
    start: float
    d: Value
    tau: Value | None  # None where no run repeats
    noise: float  # standard deviation of log loss about the law
    spare: int
    buckets: list[Bucket]
    runs: list[SmallRun]
    forecasts: list[Forecast]
    crossings: list[Crossing]
    answer: Forecast
    verdict: str
    notes: list[str]


def tokens(count: float) -> str:
    """`430`, `4.21k`, `20M`, `1.5B`."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            return f"{count / size:.3g}{suffix}"
    return f"{count:.0f}"


def shown(value: Value, digits: int = 2) -> str:
    """`1.92 [1.88, 1.97]`; an open end is `...`."""
    middle, low, high = ("..." if number is None else f"{number:.{digits}f}" for number in (value.value, value.low, value.high))
    return f"{middle} [{low}, {high}]"


def percent(value: Value) -> str:
    """`91% [85%, 95%]`."""
    middle, low, high = ("..." if number is None else f"{number:.0%}" for number in (value.value, value.low, value.high))
    return f"{middle} [{low}, {high}]"


def verdict_of(answer: Forecast, all_answers: Sequence[Forecast]) -> str:
    """The answer in a sentence, with what its neighbours and the whole pool would give, and how sure it is."""
    near = [one for one in all_answers if one != answer and (abs(one.buckets - answer.buckets) == 1 or one.kept == 1)]
    others = ", ".join(f"{one.kept:.0%} ({_passes(one)}) would give {shown(one.loss)}" for one in near)
    said = f"At {tokens(answer.compute)} tokens keep the best {answer.kept:.0%} ({_passes(answer)}): predicted {shown(answer.loss)} nats per token"
    rivals = ", ".join(f"{one.kept:.0%} in {one.best_in:.0%}" for one in all_answers if one != answer and one.best_in >= 0.05)
    sure = f"it is best in {answer.best_in:.0%} of the fits"
    doubt = f", so the runs do not settle it: keeping {rivals}" if answer.best_in < SURE and rivals else ""
    return f"{said}; keeping {others}; {sure}{doubt}"


def _passes(forecast: Forecast) -> str:
    return f"{forecast.passes:.{1 if forecast.passes >= 1 else 2}f} passes"


def notes_of(fitted: "Fitted", runs: Sequence["Run"], compute: float, best: str) -> list[str]:
    """What to know before acting on the answer."""
    law, most = fitted.law, max(run.seen for run in runs)
    rough = "; that is a lot, so take its numbers as rough" if fitted.noise > ROUGH else ""
    notes = [f"The law misses the measured losses by {fitted.noise:.1%} (standard deviation, {fitted.spare} runs beyond the fitted numbers){rough}"]
    if not fitted.fades:
        notes.append("No run repeats its rows, so the half-life of repetition cannot be determined: predictions hold up to one pass")
    else:
        low, high = fitted.estimate(lambda one: one.tau)[1:]
        if high > 100 * low:
            notes.append(f"The runs hardly tell what repetition costs: the half-life may be {low:.1f} passes, or too long to show")
    if compute > 1.5 * most:
        notes.append(f"The largest run saw {tokens(most)} tokens, and the compute is {compute / most:.2g} times that: the answer is extrapolated")
    if max(run.pool for run in runs) < 0.9 * law.bucket * max(len(run.kept) for run in runs):
        notes.append("Runs used a part of every bucket; that the half-life grows with the pool is the law's assumption")
    harmful = [str(number + 1) for number in range(len(law.b)) if _share(fitted, number, None) >= SURE]
    if harmful:
        notes.append(f"Training on bucket {' or '.join(harmful)} alone raises the loss")
    return [*notes, *_direction(fitted, best)]


def _share(fitted: "Fitted", worse: int, better: int | None) -> float:
    """In how many of the fits one bucket is worth less than another, or than nothing."""
    return float(np.mean([law.b[worse] < (0.0 if better is None else law.b[better]) for law in fitted.draws]))


def _direction(fitted: "Fitted", best: str) -> list[str]:
    """A sentence where utility does not fall from the best bucket on."""
    b = fitted.law.b
    if b[-1] > b[0]:
        share = _share(fitted, 0, len(b) - 1)
        other = "low" if best == "high" else "high"
        said = f"The last bucket is worth more than the first (in {share:.0%} of the fits): {best} scores do not mark the good rows"
        return [f"{said}, and most runs were spent on the others, so do not rely on these numbers; try --best {other}"]
    rising = [(_share(fitted, first, second), first, second) for second in range(len(b)) for first in range(second)]
    share, first, second = max(rising, key=lambda pair: pair[0])
    if share < SURE:
        return []
    return [f"Utility does not fall from the best bucket on: bucket {second + 1} is worth more than bucket {first + 1} (in {share:.0%} of the fits)"]


def print_advice(advice: Advice, console: "Console") -> None:
    """What was measured, the law, what it predicts, and the answer in a sentence."""
    good = f"{advice.best} scores of {advice.feature} are taken as good"
    console.print(_plain(f"{advice.recipe}: {tokens(advice.pool_tokens)} tokens in {advice.pool_rows:,} rows; {good}."))
    _print_buckets(advice, console)
    _print_runs(advice, console)
    console.print(_plain(_law(advice)))
    _print_forecasts(advice, console)
    for line in (advice.verdict, *advice.notes):
        console.print(_plain(f"{line}."))


def _print_buckets(advice: Advice, console: "Console") -> None:
    table = _table("bucket", "score", "rows", "tokens", "b", "one pass alone takes off")
    for number, bucket in enumerate(advice.buckets):
        scores = f"{bucket.lowest:.3g} to {bucket.highest:.3g}"
        table.add_row(
            bucket.name + ("" if number else " (best)"), scores, f"{bucket.rows:,}", tokens(bucket.tokens), f"{bucket.b:.3g}", percent(bucket.pass_takes)
        )
    console.print(table)


def _print_runs(advice: Advice, console: "Console") -> None:
    console.print(_plain(f"{len(advice.runs)} runs on {tokens(advice.spent)} tokens, and the mean loss of {advice.target_rows} target rows after each:"))
    table = _table("trained on", "rows' tokens", "seen", "passes", "loss", "law")
    table.add_row("nothing", "", "0", "", f"{advice.base_loss:.2f}", f"{advice.base_loss:.2f}")
    for run in advice.runs:
        names = " + ".join(str(number) for number in run.buckets)
        table.add_row(f"bucket {names}", tokens(run.tokens), tokens(run.seen), f"{run.seen / run.tokens:.2f}", f"{run.loss:.2f}", f"{run.law:.2f}")
    console.print(table)


def _print_forecasts(advice: Advice, console: "Console") -> None:
    computes = list(dict.fromkeys(forecast.compute for forecast in advice.forecasts))
    table = _table("keep", *(f"{tokens(compute)} tokens" for compute in computes))
    for count in range(1, len(advice.buckets) + 1):
        row = [forecast for forecast in advice.forecasts if forecast.buckets == count]
        table.add_row(f"best {row[0].kept:.0%}", *(f"{shown(forecast.loss)} {_mark(advice, forecast)}" for forecast in row))
    console.print(table)
    console.print(
        _plain("Predicted loss on the target, nats per token, with 95% intervals of the law's mean. * best, ? lowest, but best in too few of the fits.")
    )
    crossings = [
        f"{one.more / len(advice.buckets):.0%} overtakes {one.fewer / len(advice.buckets):.0%} at {tokens(one.tokens)}"
        for one in advice.crossings
        if one.tokens
    ]
    if crossings:
        console.print(_plain(f"By the law, keeping {', '.join(crossings)} tokens."))


def _mark(advice: Advice, forecast: Forecast) -> str:
    column = [one for one in advice.forecasts if one.compute == forecast.compute]
    if forecast != min(column, key=lambda one: one.loss.value or 0.0):
        return " "
    return "*" if forecast.best_in >= SURE else "?"


def _law(advice: Advice) -> str:
    start = f"the model starts as if it had seen {tokens(advice.start)} tokens"
    return f"Law: floor d {shown(advice.d)}, {advice.a:.2f} above it before training; {start}; {_half_life(advice.tau)}."


def _half_life(tau: Value | None) -> str:
    if tau is None:
        return "half-life of repeated rows not known"
    known = "too long to show" if tau.value is None else f"{tau.value:.1f} passes over one bucket"
    ends = [f"at {word} {end:.1f}" for word, end in (("least", tau.low), ("most", tau.high)) if end is not None]
    return f"half-life of repeated rows {known}" + (f" ({', '.join(ends)})" if ends else "")


def _table(*titles: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, safe_box=True)
    for number, title in enumerate(titles):
        table.add_column(title, justify="right" if number else "left", no_wrap=True)
    return table


def _plain(text: str) -> "Text":
    from rich.text import Text

    return Text(visible(text))

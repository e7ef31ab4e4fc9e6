"""Summarise hygiene: what was found in the pool, for the results of a run."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from curate.core import Artifact
from curate.data.examples import opened, quarantined
from curate.pipelines.cells import Chosen
from curate.pipelines.hygiene import Cleaned
from curate.pipelines.leaks import leaking_rows, read_leaks
from curate.pipelines.select import read_selection
from curate.report.cleaned import BenchmarkLeaks, CleanedPool, LeakingRow, LeakShown, TakenLeaks

_REASONS = ("leak", "duplicate", "near_duplicate", "semantic_duplicate")
_TOO_MANY = 0.01  # pairs of rows drawn at random that are alike, from which the encoder is to be doubted


def hygiene_of(cleaned: Cleaned, chosen: Sequence[Chosen]) -> CleanedPool:
    """Leaks by set and by row, duplicates, what was left out, and what arms took of what leaks."""
    summary = cleaned.leaks.manifest["summary"]
    found = [one.manifest["summary"] for one in (cleaned.duplicates, cleaned.semantic) if one]
    repeats = {name: one[name] for one in found for name in ("exact", "near", "semantic") if name in one}
    aside = Counter(line["reason"] for line in quarantined(cleaned.pool.path)) if cleaned.pool is not cleaned.whole else Counter()
    return CleanedPool(
        benchmarks=[_benchmark(one) for one in summary["benchmarks"]],
        leaking=_leaking(cleaned.leaks),
        taken=_taken(cleaned, chosen),
        duplicates=repeats,
        notes=list(_notes(cleaned.semantic)),
        dropped={reason: aside[reason] for reason in _REASONS if aside[reason]},
        rows=summary["rows"],
        unread=summary["unread"],
    )


def _notes(semantic: Artifact | None) -> Iterator[str]:
    """How rows were compared by vectors, and whether the encoder is to be doubted."""
    if semantic is None:
        return
    one, at = semantic.manifest["summary"], semantic.manifest["fields"]["at"]
    how = "each with all before it" if one["exhaustive"] else "each with those around its two nearest centroids"
    unread = f"; {one['unread']:,} rows gave no vector and were not compared" if one["unread"] else ""
    yield f"{one['compared']:,} rows were compared by vectors, {how}, and {one['semantic']:,} have a cosine of {at:g} or more to one that stays{unread}."
    if one["alike_by_chance"] > _TOO_MANY:
        share = f"{one['alike_by_chance']:.1%} of pairs of rows drawn at random have a cosine of {at:g} or more"
        yield f"{share}: this encoder hardly tells rows of this pool apart; read what was left out, raise hygiene.semantic.at, or use another encoder."


def _benchmark(one: Mapping[str, Any]) -> BenchmarkLeaks:
    return BenchmarkLeaks(
        **{name: one[name] for name in ("name", "role", "verdict", "kinds")},
        items=one["items"]["all"],
        dirty=one["items"]["dirty"],
        suspicious=one["items"]["suspicious"],
        rows_dirty=one["rows"]["dirty"],
        rows_suspicious=one["rows"]["suspicious"],
        shown=[LeakShown(**line) for line in one["shown"]],
    )


def _leaking(leaks: Artifact) -> list[LeakingRow]:
    """The worst of each row and set: the line that has its texts."""
    named = [one["name"] for one in leaks.manifest["fields"]["sets"]]
    return [
        LeakingRow(benchmark=named[line["benchmark"]], **{name: line[name] for name in ("id", "item", "verdict", "cover")})
        for line in read_leaks(leaks)
        if line["matched"]
    ]


def _taken(cleaned: Cleaned, chosen: Sequence[Chosen]) -> list[TakenLeaks]:
    """By arm, target and budget."""
    names = opened(cleaned.pool.path).ids
    leaks = np.isin(names, list(leaking_rows(cleaned.leaks, "dirty")))
    counted: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for one in chosen:
        rows = np.asarray(read_selection(one.artifact)["row"], np.int64)
        counted.setdefault((one.arm, one.target, str(one.budget)), []).append((int(leaks[rows].sum()), len(rows)))
    return [
        TakenLeaks(arm=arm, target=target or None, budget=budget, leaking=float(np.mean([n for n, _ in seeds])), rows=float(np.mean([k for _, k in seeds])))
        for (arm, target, budget), seeds in counted.items()
    ]

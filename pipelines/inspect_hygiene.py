"""Inspect hygiene: duplicates, leaks, poor rows, licences and sources among the first rows, before anything is computed on them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from curate.core import Turns
from curate.data.load import Parsed
from curate.hygiene.benchmark import Benchmark, LeakRules
from curate.hygiene.exact import firsts, keys_of
from curate.hygiene.leaks import Gate
from curate.hygiene.near import BANDS, THRESHOLD, bands_of, candidates, components, similarity, text_of
from curate.hygiene.provenance import rolled_up
from curate.hygiene.quality import FLAGS, flags_of
from curate.pipelines.guarded import item_of

_EXAMPLES = 3


@dataclass
class Looked:
    """The usable rows of one part that were read: where each is, what it says, and its columns with its group."""

    origins: list[str] = field(default_factory=list)
    turns: list[Turns] = field(default_factory=list)
    fields: list[tuple[dict[str, Any], str]] = field(default_factory=list)

    def add(self, parsed: Parsed, turns: Turns) -> None:
        """Take one row."""
        self.origins.append(parsed.row.origin)
        self.turns.append(turns)
        self.fields.append((dict(parsed.row.fields), parsed.row.group))


def hygiene_lines(parts: dict[str, Looked], rules: LeakRules, near_at: float = THRESHOLD) -> Iterator[str]:
    """What is to be said, a line each; the part called `pool` is compared with all others."""
    pool = parts["pool"]
    yield from _quality(pool)
    yield from _repeats(pool, near_at)
    yield from _leaks(pool, {name: part for name, part in parts.items() if name != "pool"}, rules)
    yield from _provenance(pool)


def _quality(pool: Looked) -> Iterator[str]:
    found: dict[str, list[str]] = {}
    for origin, turns in zip(pool.origins, pool.turns, strict=True):
        for flag in flags_of(turns) if turns else ():
            found.setdefault(flag, []).append(origin)
    for flag in (name for name in FLAGS if name in found):
        yield f"{flag} ({FLAGS[flag]}): {_some(found[flag])}"


def _repeats(pool: Looked, near_at: float) -> Iterator[str]:
    same = firsts(keys_of(pool.turns))
    rows = np.flatnonzero(same == np.arange(len(same)))
    exact = [(int(row), int(same[row])) for row in np.flatnonzero(same != np.arange(len(same)))]
    bands = bands_of([text_of(turns) for turns in pool.turns])
    pairs = rows[candidates((bands[:, band] for band in range(BANDS)), rows)].tolist()
    alike = [(one, other) for one, other in pairs if similarity(pool.turns[one], pool.turns[other]) >= near_at]
    head = components(alike, len(same))
    near = [(row, int(head[row])) for row in range(len(head)) if head[row] != row]
    for name, found in (("duplicates", exact), ("near-duplicates", near)):
        if found:
            yield f"{name}: {_some([f'{pool.origins[row]} of {pool.origins[first]}' for row, first in found])}; hygiene.deduplicate leaves them out"


def _leaks(pool: Looked, others: dict[str, Looked], rules: LeakRules) -> Iterator[str]:
    sets = [Benchmark(name, [item_of(*row) for row in zip(part.origins, part.turns, strict=True)]) for name, part in others.items()]
    gate = Gate.of(sets, rules)
    counted: Counter[tuple[int, str]] = Counter()
    first: dict[tuple[int, str], str] = {}
    seen: set[tuple[int, int, str]] = set()
    for hit in gate.scan([[content for _, content in turns] for turns in pool.turns]):
        verdict, item = gate.verdict(hit), sets[hit.benchmark].items[hit.item]
        if verdict != "clean" and (hit.benchmark, hit.item, verdict) not in seen:
            seen.add((hit.benchmark, hit.item, verdict))
            counted[hit.benchmark, verdict] += 1
            first.setdefault(
                (hit.benchmark, verdict), f"{pool.origins[hit.row]} covers {hit.cover:.0%} of {item.id}: {' '.join(item.question.split())[:100]!r}"
            )
    for (number, level), count in sorted(counted.items()):
        yield f"leaks of {sets[number].name}: {count} of its {len(sets[number].items)} items are {level}, such as {first[number, level]}"


def _provenance(pool: Looked) -> Iterator[str]:
    for licence, sources in rolled_up(pool.fields).items():
        named = ", ".join(f"{source} {count}" for source, count in list(sources.items())[:6])
        yield f"licence {licence}: {named}" + (f" and {len(sources) - 6} more sources" if len(sources) > 6 else "")


def _some(found: Sequence[str]) -> str:
    return f"{len(found)}, such as {', '.join(found[:_EXAMPLES])}"

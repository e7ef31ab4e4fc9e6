"""Inspect hygiene: duplicates, leaks, poor rows, licences and sources among the first rows, before anything is computed on them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.core import Turns
from curate.data.load import Parsed
from curate.hygiene.benchmark import Benchmark, LeakRules
from curate.hygiene.exact import firsts, keys_of
from curate.hygiene.leaders import leaders
from curate.hygiene.leaks import Gate
from curate.hygiene.near import BANDS, bands_of, candidates, components, similarity, text_of
from curate.hygiene.provenance import rolled_up
from curate.hygiene.quality import FLAGS, flags_of
from curate.hygiene.settings import NearItems, Semantic
from curate.hygiene.vectors import near_by_vectors
from curate.interfaces import Scorer, ScoringContext
from curate.pipelines.embedded import vectors_of_texts
from curate.pipelines.guarded import item_of
from curate.randomness import row_keys
from curate.recipe import Hygiene

_EXAMPLES = 3
_EMBEDDED = 500  # rows of each part that are embedded
_BATCH = 256  # texts at a time


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


def hygiene_lines(parts: dict[str, Looked], hygiene: Hygiene, folder: Path) -> Iterator[str]:
    """What is to be said, a line each; the part called `pool` is compared with all others. An encoder is loaded where the recipe names one of texts."""
    pool, others = parts["pool"], {name: part for name, part in parts.items() if name != "pool"}
    yield from _quality(pool)
    yield from _repeats(pool, hygiene.near_at)
    if hygiene.deduplicate == "semantic":
        yield from _alike(pool, hygiene.semantic or Semantic(), folder)
    yield from _leaks(pool, others, hygiene.leaks.words)
    if hygiene.leaks.near is not None:
        yield from _near_leaks(pool, others, hygiene.leaks.near, folder)
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


def _alike(pool: Looked, rules: Semantic, folder: Path) -> Iterator[str]:
    """Semantic duplicates among the first of those that say the same."""
    if rules.encoder.reads != "text":
        yield f"semantic duplicates: {rules.encoder.name} reads {rules.encoder.reads} of the model, so a run looks for them, and this does not"
        return
    same = firsts(keys_of(pool.turns))
    heads = [int(row) for row in np.flatnonzero(same == np.arange(len(same)))[:_EMBEDDED]]
    said = ["\n".join(text for _, text in pool.turns[row]) for row in heads]
    places, vectors = _vectors(said, rules.encoder, folder)
    found = leaders(vectors, rules.at, row_keys(0, "semantic duplicates", map(str, places)))
    went = [(heads[places[i]], heads[places[row]], found.likeness[i]) for i, row in enumerate(found.row) if row != i]
    if went:
        named = [f"{pool.origins[row]} of {pool.origins[stays]} (cosine {cosine:.2f})" for row, stays, cosine in went]
        yield f"semantic duplicates among {len(said)} rows: {_some(named)}; hygiene.deduplicate leaves them out"


def _near_leaks(pool: Looked, others: dict[str, Looked], near: NearItems, folder: Path) -> Iterator[str]:
    """Items that rows are alike to by what both ask."""
    asked, rows = _vectors([item_of("", turns).question for turns in pool.turns[:_EMBEDDED]], near.encoder, folder)
    for name, part in others.items():
        places, items = _vectors([item_of("", turns).question for turns in part.turns[:_EMBEDDED]], near.encoder, folder)
        pairs = [(cosine, asked[row], places[item]) for row, item, cosine in near_by_vectors(rows, items, near.at)]
        if pairs:
            cosine, row, item = max(pairs, key=lambda pair: (pair[0], -pair[1], -pair[2]))
            such = f"{pool.origins[row]} of {part.origins[item]} (cosine {cosine:.2f}): {item_of('', part.turns[item]).question[:100]!r}"
            count, looked_at = len({pair[2] for pair in pairs}), min(len(part.turns), _EMBEDDED)
            yield f"near-copies of {name} by vectors: {count} of its first {looked_at} items are suspicious, such as {such}"


def _vectors(texts: Sequence[str], encoder: Scorer, folder: Path) -> tuple[list[int], NDArray[np.float32]]:
    """The places of the texts that give a vector, and the vectors."""
    context = ScoringContext(folder=folder)
    parts = [(at, *vectors_of_texts(texts[at : at + _BATCH], encoder, context)) for at in range(0, len(texts), _BATCH)]
    if not parts:
        return [], np.zeros((0, 1), np.float32)
    return [at + int(place) for at, kept, _ in parts for place in kept], np.concatenate([vectors for _, _, vectors in parts])


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

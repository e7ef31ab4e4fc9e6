"""Shown: a few rows of every arm to read, the best that it took and those that it almost took."""

from collections.abc import Sequence

from curate.pipelines.describe_reasons import Sight, words
from curate.pipelines.describe_taken import Numbers, Panel
from curate.report.results import Shown

_EACH = 3
_TEXT, _NEAR = 600, 200  # characters


def shown(panels: Sequence[Panel], numbers: Numbers) -> list[Shown]:
    """Of the panels of one target that with the fewest rows, every arm's first seed, controls left out."""
    smallest = min(panels, key=lambda panel: sum(len(one.rows) for one in panel.first.values()))
    found = []
    for one in smallest.first.values():
        sight = Sight.of(one, numbers, smallest.aim)
        found += [_shown(smallest, sight, int(row), taken=True) for row in one.rows[:_EACH]]
        found += [_shown(smallest, sight, int(row), taken=False) for row in sight.almost(_EACH)]
    return found


def _shown(panel: Panel, sight: Sight, row: int, *, taken: bool) -> Shown:
    examples = sight.examples
    word = sight.likeness.word if sight.likeness else ""
    return Shown(
        **panel.where,
        arm=sight.taken.arm,
        id=str(examples.ids[row]),
        taken=taken,
        rank=sight.taken.rows.tolist().index(row) + 1 if taken else None,
        group=str(examples.groups[row]),
        tokens=int(examples.lengths[row]),
        text=words(examples.rows[row].content, _TEXT),
        reason=sight.why_taken(row) if taken else sight.why_left(row),
        nearest=[f"{word} {near.value:.3f}: {words(near.content, _NEAR)}" for near in sight.nearest(row)],
    )

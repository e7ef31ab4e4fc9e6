"""Why every exported row was taken: its place, what it added, the target row that it is most like, and its score beside the pool's."""

import numpy as np

from curate.core import Floats
from curate.errors import DataError
from curate.pipelines.describe_reasons import Sight
from curate.pipelines.describe_taken import Numbers, Taken
from curate.report.wording import number


def reasons(taken: Taken, numbers: Numbers) -> list[str]:
    """A line for every row, best first. Where the features are no longer in the store it says only what the selection itself knows."""
    try:
        sight = Sight.of(taken, numbers)
    except DataError:
        sight = Sight(taken, numbers.examples, None, None)
    near, shares = _nearest(sight), _shares(sight.scores, taken)
    drawn = ", drawn at random" if taken.random else ""
    found = []
    for rank, gain in enumerate(taken.gains):
        added = f", which added {number(gain)} to its objective" if np.isfinite(gain) else ""
        found.append("; ".join([f"choice {rank + 1} of {len(taken.rows)} by {taken.arm}{drawn}{added}", *near.get(rank, []), *shares.get(rank, [])]))
    return found


def _nearest(sight: Sight) -> dict[int, list[str]]:
    """By rank, which target row is nearest and how near; for arms that go by the target."""
    likeness = sight.likeness
    if likeness is None or not sight.heeds_target:
        return {}
    rank = {int(row): place for place, row in enumerate(sight.taken.rows)}
    found = {}
    for part in likeness.blocks(likeness.having(sight.taken.rows)):
        alike = likeness.to_target(part)
        for row, place, value in zip(part, alike.argmax(axis=1), alike.max(axis=1), strict=True):
            found[rank[int(row)]] = [f"nearest target row {likeness.target.ids[place]} ({likeness.word} {value:.3g})"]
    return found


def _shares(scores: Floats | None, taken: Taken) -> dict[int, list[str]]:
    """By rank, the score and the share of the pool below it."""
    if scores is None:
        return {}
    held = np.sort(scores[np.isfinite(scores)])
    found = {}
    for rank, value in enumerate(scores[taken.rows]):
        if np.isfinite(value):
            found[rank] = [f"score {value:.3g}, above {np.searchsorted(held, value) / len(held):.0%} of the pool"]
    return found

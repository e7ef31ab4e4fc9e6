"""Spreads: histograms of lengths and of a score, of the pool and of what every arm took."""

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats
from curate.pipelines.describe_taken import Numbers, Panel
from curate.report.results import Spread

LENGTH = "length in tokens"
_BINS = 20
_TAILS = (0.01, 0.99)  # quantiles between which bins are equally wide: one outlier must not flatten the rest

Wide = NDArray[np.float64]


def spreads(panel: Panel, numbers: Numbers) -> list[Spread]:
    """Of the panel's lengths, and of the first feature of one number where there is one."""
    lengths = numbers.examples.lengths.astype(np.float64)
    found = [_spread(panel, LENGTH, lengths, length_edges(lengths))]
    name, scores = numbers.difficulty(panel.aim)
    return found if scores is None else [*found, _spread(panel, name, scores, score_edges(scores[np.isfinite(scores)]))]


def length_edges(lengths: Floats) -> Wide:
    """Whole numbers in about equal ratios, from the shortest row to beyond the longest; fewer than 20 bins where lengths are small."""
    edges: Wide = np.unique(np.round(np.geomspace(np.min(lengths), np.max(lengths) + 1, _BINS + 1)))
    return edges


def score_edges(scores: Floats) -> Wide:
    """Equal steps between the first and the last of a hundred rows; the outermost bins reach to the least and the largest score."""
    low, high = np.quantile(scores, _TAILS)
    edges = np.linspace(low, high, _BINS + 1)
    edges[0], edges[-1] = np.min(scores), np.max(scores)
    distinct: Wide = np.unique(edges)
    return distinct if len(distinct) > 1 else np.array([distinct[0] - 0.5, distinct[0] + 0.5])


def _spread(panel: Panel, what: str, values: Floats, edges: Wide) -> Spread:
    """Shares and medians, means over different seeds; rows without the number are left out."""
    arms: dict[str, list[float]] = {}
    medians = {"pool": float(np.median(values[np.isfinite(values)]))}
    for arm in panel.arms:
        seen = [values[one.rows][np.isfinite(values[one.rows])] for one in panel.different(arm)]
        if held := [own for own in seen if len(own)]:
            arms[arm] = np.mean([_shares(own, edges) for own in held], axis=0).tolist()
            medians[arm] = float(np.mean([np.median(own) for own in held]))
    pool = _shares(values[np.isfinite(values)], edges).tolist()
    return Spread(**panel.where, what=what, edges=edges.tolist(), pool=pool, arms=arms, medians=dict(medians))


def _shares(values: Floats, edges: Wide) -> Wide:
    return np.histogram(values, edges)[0] / len(values)

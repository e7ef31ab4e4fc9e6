"""Describe: what the selections of a run look like, read off their artifacts, for people to look at; nothing here is trained or scored."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby

import numpy as np

from curate.core import Examples
from curate.length_bias import longer
from curate.overlap import jaccard, jaccard_by_chance, stability
from curate.pipelines.describe_flows import flows
from curate.pipelines.describe_shown import shown
from curate.pipelines.describe_space import maps, trades
from curate.pipelines.describe_spreads import spreads
from curate.pipelines.describe_taken import Numbers, Panel, panels_of
from curate.pipelines.experiment import Experiment
from curate.pipelines.session import Session
from curate.report.results import Curve, Flow, Map, Overlap, Shown, Spread, Stability, Trade


@dataclass(frozen=True)
class Described:
    """The parts of `curate.report.results.Results` that say what was taken; empty where a run stopped before it selected."""

    overlaps: list[Overlap] = field(default_factory=list)
    stabilities: list[Stability] = field(default_factory=list)
    spreads: list[Spread] = field(default_factory=list)
    trades: list[Trade] = field(default_factory=list)
    maps: list[Map] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    flows: list[Flow] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    longer: dict[str, float] = field(default_factory=dict)  # by the key of the selection


def describe_experiment(session: Session, experiment: Experiment) -> Described:
    """Everything that can be said of the selections; one pass over the pool for each comparison that an arm reads, in bounded memory."""
    if not experiment.chosen:
        return Described()
    panels, numbers = panels_of(experiment), Numbers(experiment.pool, session.store)
    made = Described(longer=_longer(panels, numbers.examples))
    for panel in panels:
        made.overlaps.extend(_overlap(panel, len(numbers.examples)))
        made.stabilities.extend(_stabilities(panel, len(numbers.examples)))
        made.spreads.extend(spreads(panel, numbers))
        made.curves.extend(_curves(panel))
        made.flows.extend(flows(panel, numbers))
    for _, group in groupby(panels, key=lambda panel: panel.aim.name):
        same = list(group)
        made.trades.extend(trades(same, numbers))
        made.maps.extend(maps(same, numbers))
        made.shown.extend(shown(same, numbers))
    return made


def _overlap(panel: Panel, pool: int) -> list[Overlap]:
    """Means over seeds of the overlap of every two arms' selections of the same seed; none for a single arm."""
    arms = list(panel.arms)
    if len(arms) < 2:
        return []
    shared, chance = np.ones((len(arms), len(arms))), np.ones((len(arms), len(arms)))
    for one, first in enumerate(arms):
        for other, second in enumerate(arms):
            pairs = list(zip(panel.arms[first], panel.arms[second], strict=True))
            chance[one, other] = np.mean([jaccard_by_chance(len(a.rows), len(b.rows), pool) for a, b in pairs])
            if other > one:
                shared[one, other] = shared[other, one] = np.mean([jaccard(a.rows, b.rows) for a, b in pairs])
    return [Overlap(**panel.where, arms=arms, jaccard=shared.tolist(), by_chance=chance.tolist())]


def _stabilities(panel: Panel, pool: int) -> list[Stability]:
    """Of every arm whose seeds have selections of their own: where a method draws nothing, seeds agree by construction."""
    found = []
    for arm in panel.arms:
        different = panel.different(arm)
        if len(different) > 1:
            stable = stability([one.rows for one in different], pool)
            found.append(Stability(**panel.where, arm=arm, seeds=len(different), **asdict(stable)))
    return found


def _curves(panel: Panel) -> list[Curve]:
    """What methods wrote down of their own steps, of the first seed; a number of or by something else, such as `rows_of_stratum`, is none of these."""
    return [
        Curve(**panel.where, arm=arm, seed=one.seed, name=name, values=values)
        for arm, one in panel.first.items()
        for name, values in one.manifest["summary"]["curves"].items()
        if "_of_" not in name and "_by_" not in name
    ]


def _longer(panels: Sequence[Panel], pool: Examples) -> dict[str, float]:
    taken = {one.key: one.rows for panel in panels for selections in panel.arms.values() for one in selections}
    return {key: longer(pool.lengths, rows) for key, rows in taken.items()}

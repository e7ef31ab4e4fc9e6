"""Length: where the lengths of the rows alone could explain what an arm is worth."""

from collections.abc import Mapping, Sequence

import numpy as np

from curate.core import Artifact
from curate.length_bias import alarm
from curate.pipelines.cells import Chosen
from curate.pipelines.experiment import Experiment
from curate.recipe import Recipe


def length_alarms(recipe: Recipe, experiment: Experiment, longer: Mapping[str, float]) -> list[str]:
    """One sentence for every arm and target whose rows are much longer or shorter than those it left, of the budget where length tells most.

    Args:
        recipe: says which arms have a control of the same lengths already.
        experiment: whose selections are meant; random and controls are not.
        longer: `curate.length_bias.longer` of every selection, by its key.
    """
    by_place: dict[tuple[str, str, str], list[Chosen]] = {}
    for one in experiment.chosen:
        if one.arm in recipe.arms:
            by_place.setdefault((one.arm, one.target, str(one.budget)), []).append(one)
    worst: dict[tuple[str, str], tuple[float, str]] = {}
    for (arm, target, budget), seeds in by_place.items():
        share = float(np.mean([longer[one.artifact.key] for one in seeds]))
        said = alarm(share, *_means(experiment.pool, seeds), controlled=arm in recipe.controlled("length_matched_random"))
        if said and abs(share - 0.5) > worst.get((arm, target), (0.0, ""))[0]:
            worst[arm, target] = abs(share - 0.5), f"arm {arm}{f' for {target}' if target else ''}, budget {budget}: {said}"
    return [sentence for _, sentence in worst.values()]


def _means(pool: Artifact, seeds: Sequence[Chosen]) -> tuple[float, float]:
    """Mean length of the rows taken and of the rows left, averaged over seeds."""
    every, found = pool.manifest["summary"], [one.artifact.manifest["summary"] for one in seeds]
    taken = [own["tokens"] / max(1, own["rows"]) for own in found]
    left = [(every["tokens"] - own["tokens"]) / max(1, every["used"] - own["rows"]) for own in found]
    return float(np.mean(taken)), float(np.mean(left))

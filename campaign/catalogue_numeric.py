"""Numbers that must be finite, equal or ordered (N01 to N17): quarantine, exit 5, or a rule for ties."""

import json
from pathlib import Path

from campaign.catalogue import SELECT, TINY, TRAIN, Case, Shown, Skipped
from campaign.catalogue_data import files, lines
from campaign.catalogue_model import recipe_of

ROWS = [{"prompt": f"What is {number} plus {number}?", "completion": f"It is {2 * number}.", "solved": 0.5} for number in range(20)]
CONSTANT = """name: bad
pool: {{path: '{pool}'}}
target: {{rare: {{synthetic: target, rows: 4}}}}
model: {{path: {model}, max_length: 128}}
features: {{same: {{name: fail_rate, column: solved}}, hidden: rds}}
arms:
  top: {{scores: same, selector: top_k}}
  far: {{vectors: hidden, selector: k_center}}
budgets: [4]
seeds: [0]
evaluate: {{task: likelihood, data: {{synthetic: test, rows: 4}}}}
"""
_BAD_ROWS = "tests/test_bad_feature_rows.py::"

SHOWN = [
    Shown("N01", f"{_BAD_ROWS}test_rows_without_a_usable_number_are_set_aside_by_id_and_reason_and_their_neighbours_keep_their_bits"),
    Shown("N01-every-scorer", f"{_BAD_ROWS}test_every_scorer_of_the_registry_is_among_those_that_meet_bad_rows"),
    Shown("N02-scores", "tests/pipelines/test_score.py::test_when_every_row_is_bad_the_error_says_what_is_allowed_and_what_to_do"),
    Shown("N03", f"{_BAD_ROWS}test_above_the_limit_the_run_stops_with_the_remedy_and_a_higher_limit_goes_on_without_scoring_again"),
    Shown("N04", "tests/selectors/test_contract.py::test_every_selector_in_the_folder_keeps_the_contract"),
    Shown("N06", "tests/pipelines/test_invariance.py::test_batches_of_another_size_give_the_same_rows_and_the_same_selections"),
    Shown("N08", "tests/pipelines/test_invariance.py::test_two_workers_write_the_same_bytes_as_one"),
    Shown("N10", "tests/test_optimal_transport.py::test_at_a_blur_where_every_kernel_entry_underflows_the_cost_is_the_exact_one"),
    Shown("N10-marginals", "tests/test_optimal_transport.py::test_a_plan_is_rounded_to_the_marginals_however_far_it_is_from_them"),
    Shown("N10-zero", "tests/test_optimal_transport.py::test_costs_of_zero_are_no_exception"),
    Shown("N12", "tests/test_spherical_kmeans.py::test_fewer_clusters_than_asked_where_fewer_rows_differ"),
    Shown("N13", "tests/test_greedy.py::test_lazy_takes_the_rows_of_naive_greedy_pick_for_pick"),
    Shown("N14", "tests/inference/test_shared_prefixes.py::test_shared_log_likelihoods_equal_unshared_ones"),
    Shown("N14-order", "tests/inference/test_engine.py::test_the_order_of_requests_does_not_matter"),
    Shown("N15", "tests/harness/test_exam.py::test_empty_answers_are_counted_one_by_one"),
    Shown("N15-cut", "tests/harness/test_exam.py::test_what_was_cut_and_what_reaches_across_is_counted"),
    Shown("N16", "tests/pipelines/test_invariance.py::test_a_feature_alone_has_the_key_and_the_bytes_that_it_has_beside_others"),
]
SKIPPED = [
    Skipped("N07", "every task runs on one thread (curate.one_task), so a number of threads cannot be part of a plan"),
    Skipped("N09", "half precision on a GPU is not to be had here; float16 stores are refused where they overflow (tests/test_bad_features.py)"),
    Skipped("N11", "inverted lists of faiss are built by one thread; HNSW is not used"),
]


def cases() -> list[Case | Shown | Skipped]:
    """Training that diverges, ties, and the seeds of a recipe that names none; the rest is shown by tests."""
    return [*_diverging(), *_tied(), _seeded(), *SHOWN, *SKIPPED]


def _diverging() -> list[Case]:
    found = []
    for name, rate, scorer in (("N02-train", "train", "loss"), ("N02-warmup", "warmup", "less")):
        more = ("warmup.fraction=1.0", "train.epochs=4")
        command = (*TRAIN[:2], f"{rate}.learning_rate=1.0e+30", *more, *TRAIN[2:])
        said = ("training diverged at step ", "lower the learning rate (now 1e+30)")
        found.append(Case(name, recipe_of(TINY, scorer), command, 5, said))
    return found


def _tied() -> list[Case]:
    """Constant scores and repeated rows: the same rows are selected in any order of the pool."""
    turned = files(one_jsonl=lines(*ROWS), two_jsonl=lines(*ROWS[::-1]))
    copies = files(one_jsonl=lines(*ROWS[:5], *ROWS[:5], *ROWS[:5]), two_jsonl=lines(*ROWS[4::-1], *ROWS[4::-1], *ROWS[4::-1]))
    first = ("run", "bad.yaml", "pool={path: one.jsonl}", *SELECT[2:])
    recipe = CONSTANT.format(pool="two.jsonl", model=json.dumps(str(TINY)))
    return [
        Case("N05", recipe, SELECT, 0, (), turned, look=_one_selection, again=(first,)),
        Case("N12-copies", recipe, SELECT, 0, (), copies, look=_one_selection, again=(first,)),
    ]


def _seeded() -> Case:
    """A recipe without seeds gets those that the resolved recipe of the run names."""
    recipe = recipe_of(TINY).replace("seeds: [0]\n", "")
    return Case("N17", recipe, ("run", "bad.yaml", "--until", "prepare", "--quiet", "--workers", "1"), 0, look=_seeds_written)


def _seeds_written(place: Path) -> list[str]:
    from curate.recipe import read_recipe

    text = (place / "runs" / "bad" / "recipe.yaml").read_text()
    return [] if "seeds" in text and read_recipe(place / "runs" / "bad" / "recipe.yaml").seeds == [0, 1, 2] else ["the seeds are not in the run's recipe"]


def _one_selection(place: Path) -> list[str]:
    """Every arm took the same rows from both pools."""
    from curate.core import Artifact
    from curate.data.examples import open_examples
    from curate.pipelines.select import read_selection
    from curate.store import read_json

    taken: dict[str, list[list[str]]] = {}
    for path in sorted((place / "store").glob("selection-*")):
        manifest = read_json(path / "manifest.json")
        examples = next(key for key in _above(place, manifest["inputs"]) if key.startswith("examples-"))
        rows = read_selection(Artifact(path.name, path, manifest))["row"]
        taken.setdefault(str(manifest["fields"]["selector"]), []).append(sorted(open_examples(place / "store" / examples).ids[rows].tolist()))
    wrong = [f"{selector}: the order of the pool changes what is taken" for selector, found in taken.items() if len(found) != 2 or found[0] != found[1]]
    return wrong if taken else ["nothing was selected"]


def _above(place: Path, inputs: list[str]) -> list[str]:
    """The keys that these were made of, the nearest first, and of the examples the largest first, which are the pool."""
    from curate.data.examples import open_examples
    from curate.store import read_json

    found, left = set(inputs), list(inputs)
    while left:
        more = read_json(place / "store" / left.pop() / "manifest.json")["inputs"]
        left += [key for key in more if key not in found]
        found |= set(more)
    return sorted(found, key=lambda key: -len(open_examples(place / "store" / key).ids) if key.startswith("examples-") else 0)

"""The document survives its file, and the tables that renderers share are read off it rightly."""

import math

import pytest
from pydantic import ValidationError

from curate.report.findings import headlines, notes
from curate.report.results import CertificateRow, Comparison, DataSummary, Results, SelectionRow
from curate.report.tables import higher_is_better, kinds, outcome, proofs, sections


def comparison(arm, mean=0.5, difference=None, low=None, high=None, **rest):
    given = {"task": "t", "metric": "acc", "budget": "5%", "n": 10, "difference": difference, "low": low, "high": high}
    return Comparison(arm=arm, mean=mean, **(given | rest))


def run(*comparisons, **rest):
    return Results(name="r", version="0", created="2026-01-01", seconds=1.0, pool=DataSummary(rows_in=10, used=10), comparisons=list(comparisons), **rest)


def test_results_survive_their_file(results):
    assert Results.model_validate_json(results.model_dump_json()) == results


def test_numbers_that_are_not_defined_are_absent_and_unknown_fields_are_refused():
    assert comparison("a", standard_error=math.nan).standard_error is None
    assert CertificateRow(kind="k", sense="max", bound=math.inf).bound is None
    with pytest.raises(ValidationError):
        comparison("a", mean=math.nan)
    with pytest.raises(ValidationError):
        comparison("a", accuracy=1.0)


def test_references_come_first_and_arms_follow_from_best_to_worst(results):
    by_budget = {section.budget: section for section in sections(results)}
    assert list(by_budget) == ["5%", "20%"]
    arms = by_budget["5%"].arms
    assert arms[:3] == ["zero_shot", "random", "full"]
    means = [by_budget["5%"].entries[arm, ("banking10", "acc")].mean for arm in arms[3:]]
    assert len(means) == 4 and means == sorted(means, reverse=True)


def test_lower_is_better_for_likelihoods():
    made = run(comparison("a", 1.0, metric="nll"), comparison("b", 2.0, metric="nll"))
    assert sections(made)[0].arms == ["a", "b"] and higher_is_better(made) == {("t", "nll"): False}
    assert outcome(comparison("a", 1.0, -0.2, -0.3, -0.1, metric="nll"), False) == "better"


def test_zero_shot_without_a_budget_stands_under_every_budget_but_never_in_place_of_its_own():
    made = run(
        comparison("zero_shot", 0.1, budget=""),
        comparison("zero_shot", 0.2),
        comparison("a"),
        comparison("a", budget="20%"),
        comparison("full", 0.9, budget="100%"),
    )
    first, second = sections(made)
    assert (first.budget, second.budget) == ("5%", "20%")
    assert first.entries["zero_shot", ("t", "acc")].mean == 0.2 and second.entries["zero_shot", ("t", "acc")].mean == 0.1
    assert "full" in first.arms and "full" in second.arms


def test_an_arm_of_one_target_is_not_shown_under_another():
    made = run(comparison("a", target="maths"), comparison("b", target="code"), comparison("random"))
    assert {section.target: section.arms for section in sections(made)} == {"maths": ["random", "a"], "code": ["random", "b"]}


def test_a_target_s_table_has_no_column_of_what_only_another_target_s_arms_are_tested_on():
    """`shared` heeds no target and is tested on everything, as references are; `a` and `b` only on what their own targets are evaluated on."""
    tasks = {"maths": "sums", "code": "tests"}
    everyone = [comparison(arm, task=task) for arm in ("random", "shared") for task in ("sums", "tests", "both")]
    compared = [
        comparison(arm, task=task, target=target, difference=0.1, low=0.0, high=0.2)
        for target, own in tasks.items()
        for arm in ("a" if target == "maths" else "b", "shared")
        for task in (own, "both")
    ]
    made = {section.target: section for section in sections(run(*everyone, *compared))}
    assert {target: {task for task, _ in section.tasks} for target, section in made.items()} == {"maths": {"sums", "both"}, "code": {"tests", "both"}}
    assert all((arm, task) in section.entries for section in made.values() for arm in section.arms for task in section.tasks)
    alone = sections(run(*everyone))  # nothing is of a target: everything stays
    assert [{task for task, _ in section.tasks} for section in alone] == [{"sums", "tests", "both"}]


def test_a_run_that_was_cut_short_shows_the_cells_it_has(results):
    partial = results.model_copy(update={"comparisons": []})
    whole, cut = sections(results)[0], sections(partial)[0]
    assert cut.arms == whole.arms and cut.tasks == whole.tasks
    task = ("banking10", "acc")
    assert cut.entries["tarot", task].mean == pytest.approx(whole.entries["tarot", task].mean)
    assert cut.entries["tarot", task].standard_error >= whole.entries["tarot", task].standard_error
    assert headlines(partial, sections(partial)) == []


def test_counts_by_kind_are_means_over_seeds_and_lose_no_row(results):
    section = sections(results)[0]
    taken = kinds(results, section)
    mine = [row for row in results.selections if row.arm == "tarot" and row.budget == "5%"]
    assert len(mine) == 3 and taken.arms["tarot"].counts[taken.names.index("banking77")] == pytest.approx(sum(row.groups["banking77"] for row in mine) / 3)
    assert taken.names[-1] == "4 others" and taken.pool.counts == sorted(taken.pool.counts[:-1], reverse=True) + taken.pool.counts[-1:]
    for who in (taken.pool, *taken.arms.values()):
        assert sum(who.counts) == pytest.approx(who.rows)


def test_the_seed_furthest_from_its_bound_speaks_for_the_arm():
    rows = [SelectionRow(arm="a", rows=1, seed=s, certificate=CertificateRow(kind="k", sense="max", gap=gap)) for s, gap in enumerate([0.1, 0.3, 0.2])]
    (proof,) = proofs(run(selections=rows))
    assert proof.certificate.gap == 0.3 and proof.seeds == 3


def test_headlines_name_the_best_arm_and_count_the_others():
    made = run(
        comparison("a", 0.7, 0.2, 0.1, 0.3, verdict="better than random by 20.0 points [10.0, 30.0]"),
        comparison("b", 0.5, 0.0, -0.1, 0.1, verdict="not distinguishable from random"),
        comparison("c", 0.3, -0.2, -0.3, -0.1, verdict="worse than random by 20.0 points [10.0, 30.0]"),
        comparison("full", 0.9, 0.4, 0.3, 0.5),
        comparison("random", 0.5),
    )
    assert headlines(made, sections(made)) == [
        "t (acc) at 5%: a is better than random by 20.0 points [10.0, 30.0]; of the other arms 1 worse, 1 not distinguishable."
    ]


def test_a_task_that_full_training_does_not_move_is_called_out():
    flat = comparison("a", 0.5, 0.0, -0.1, 0.1), comparison("full", 0.5, 0.01, -0.1, 0.1), comparison("random")
    (line,) = headlines(run(*flat), sections(run(*flat)))
    assert "no arm is distinguishable from random, nor is training on the full pool" in line
    (line,) = headlines(run(*flat[::2]), sections(run(*flat[::2])))
    assert line == "t (acc) at 5%: no arm is distinguishable from random."


def test_notes_warn_of_one_seed_chance_unmatched_tokens_and_short_rows(results):
    text = " ".join(notes(results, sections(results)))
    assert "Holm's rule over all arms and budgets of its task" in text and "one seed" not in text
    assert "random trained on 96,000" in text and "less-rr 31" in text
    single = run(comparison("a", 0.5, 0.1, 0.0, 0.2))
    assert "one seed" in " ".join(notes(single, sections(single)))


@pytest.mark.parametrize(("low", "high", "verdict"), [(0.01, 0.09, "ahead of"), (-0.09, -0.01, "behind"), (-0.1, 0.2, "not distinguishable from")])
def test_a_learned_mask_is_held_against_greedy_on_its_own_objective(low, high, verdict):
    beside = {"greedy": 2.0, "mmr": 1.5, "lead": (low + high) / 2, "lead_low": low, "lead_high": high}
    proof = CertificateRow(kind="mask_objective", sense="max", objective=2.05, bound=2.2, gap=0.1, details=beside)
    row = SelectionRow(arm="mask", budget="5%", seed=0, rows=1, tokens=1, supervised_tokens=1, groups={"a": 1}, key="k", seconds=0.0, certificate=proof)
    (line,) = [line for line in notes(run(selections=[row]), []) if "learned mask" in line]
    assert f"mask at 5%: the learned mask reaches 2.05 of its own objective, greedy 2, mmr 1.5; over its restarts it is {verdict} greedy" in line

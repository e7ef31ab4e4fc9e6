"""The tables for programs hold what the report shows."""

import io

import pyarrow.parquet as pq

from curate.report.frames import frames
from curate.report.results import Overlap, Results


def read(data: bytes) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pq.read_table(io.BytesIO(data)).to_pylist()
    return rows


def test_every_comparison_is_a_row_with_its_numbers(results: Results) -> None:
    rows = read(frames(results)["comparisons"])
    assert len(rows) == len(results.comparisons)
    assert [(row["arm"], row["mean"], row["verdict"]) for row in rows] == [(c.arm, c.mean, c.verdict) for c in results.comparisons]


def test_scores_have_a_row_for_every_model_and_task(results: Results) -> None:
    rows = read(frames(results)["scores"])
    assert len(rows) == sum(len(cell.tasks) for cell in results.cells)
    assert {(row["arm"], row["seed"], row["task"]) for row in rows} == {(c.arm, c.seed, t.task) for c in results.cells for t in c.tasks}


def test_rows_taken_sum_to_the_selections(results: Results) -> None:
    taken = read(frames(results)["taken"])
    for selection in results.selections:
        mine = [row["rows"] for row in taken if (row["arm"], row["budget"], row["seed"]) == (selection.arm, selection.budget, selection.seed)]
        assert mine == list(selection.groups.values())


def test_overlaps_are_pairs_and_empty_tables_are_left_out(results: Results) -> None:
    one = Overlap(budget="5%", arms=["a", "b", "c"], jaccard=[[1, 0.2, 0.3], [0.2, 1, 0.4], [0.3, 0.4, 1]], by_chance=[[1, 0.1, 0.1]] * 3)
    found = frames(results.model_copy(update={"overlaps": [one], "shown": [], "quarantined": []}))
    assert [(row["arm"], row["other"], row["jaccard"]) for row in read(found["overlaps"])] == [("b", "a", 0.2), ("c", "a", 0.3), ("c", "b", 0.4)]
    assert "shown" not in found and "quarantined" not in found

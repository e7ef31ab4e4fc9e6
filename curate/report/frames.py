"""The report's tables for programs: one parquet file each, with plain columns."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from curate.report.results import Results

Row = Mapping[str, Any]


def frames(results: Results) -> dict[str, bytes]:
    """Every table that has rows, by name, as parquet."""
    return {name: _parquet(rows) for name, table in _TABLES.items() if (rows := list(table(results)))}


def _parquet(rows: list[Row]) -> bytes:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), buffer)
    return buffer.getvalue()


def _scores(results: Results) -> Iterator[Row]:
    """One row per model and task."""
    for cell in results.cells:
        place = cell.model_dump(exclude={"tasks"})
        yield from ({**place, **task.model_dump()} for task in cell.tasks)
        if not cell.tasks:
            yield place


def _taken(results: Results) -> Iterator[Row]:
    """One row per selection and group of rows."""
    for selection in results.selections:
        place = selection.model_dump(include={"arm", "target", "budget", "seed", "key"})
        yield from ({**place, "group": group, "rows": rows} for group, rows in selection.groups.items())


def _selections(results: Results) -> Iterator[Row]:
    for selection in results.selections:
        proof = selection.certificate
        numbers = {name: getattr(proof, name) for name in ("kind", "sense", "objective", "bound", "gap")} if proof else {}
        yield selection.model_dump(exclude={"groups", "certificate"}) | {f"certificate_{name}": value for name, value in numbers.items()}


def _overlaps(results: Results) -> Iterator[Row]:
    """One row per pair of arms."""
    for overlap in results.overlaps:
        for i, one in enumerate(overlap.arms):
            for j, other in enumerate(overlap.arms[:i]):
                numbers = {"jaccard": overlap.jaccard[i][j], "by_chance": overlap.by_chance[i][j]}
                yield {"target": overlap.target, "budget": overlap.budget, "arm": one, "other": other, **numbers}


def _plain(name: str) -> Callable[[Results], Iterator[Row]]:
    """A table whose rows are flat already."""

    def table(results: Results) -> Iterator[Row]:
        return (row.model_dump() for row in getattr(results, name))

    return table


_TABLES: dict[str, Callable[[Results], Iterator[Row]]] = {
    "scores": _scores,
    "selections": _selections,
    "taken": _taken,
    "overlaps": _overlaps,
    **{name: _plain(name) for name in ("comparisons", "controlled", "disagreements", "stabilities", "trades", "stages", "shown", "quarantined")},
}

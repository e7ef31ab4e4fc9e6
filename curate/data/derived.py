"""Examples without rows of their own: an index over rows that lie in the folders of others, such as a pool without its duplicates, or one that grew."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from curate.data.examples import INDEX, QUARANTINE, WHOLE
from curate.data.table import table_bytes

_ASIDE = ("id", "reason", "detail", "origin")


def write_derived(
    write: Callable[[str, bytes], Any], index: Any, folders: Sequence[str], aside: Sequence[Mapping[str, str]], before: Mapping[str, Any]
) -> dict[str, Any]:
    """Write both tables and return the summary, as JSON: that of the examples `before`, with everything counted anew.

    Args:
        index: a pyarrow table with the columns of an index, sorted by id.
        folders: of the rows, in the order in which the index numbers their files.
        aside: id, reason, detail and origin of every other row that is known.
    """
    import pyarrow as pa

    lines = sorted(aside, key=lambda line: line["id"])
    write(INDEX, table_bytes(index.replace_schema_metadata({WHOLE: ",".join(folders).encode()})))
    write(QUARANTINE, table_bytes(pa.table({name: pa.array([line[name] for line in lines], pa.string()) for name in _ASIDE})))
    return {
        **before,
        "rows_in": len(index) + len(lines),
        "used": len(index),
        "quarantined": dict(sorted(Counter(line["reason"] for line in lines).items())),
        "tokens": int(index["length"].to_numpy().sum()),
        "supervised_tokens": int(index["supervised"].to_numpy().sum()),
        "groups": dict(sorted(Counter(index["group"].to_pylist()).items())),
    }

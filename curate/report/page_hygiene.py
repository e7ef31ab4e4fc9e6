"""The section on what leaks and what repeats: a table of sets, what arms took of it, and texts side by side."""

from curate.report.cleaned import BenchmarkLeaks
from curate.report.leak_tables import cleaning_sentences, leak_tables
from curate.report.page_parts import fold, note, sentences, table, text
from curate.report.results import Results

_NOTE = (
    "Every row of the pool was compared with every item, word for word: a set is dirty if one item in a hundred stands in the pool, suspicious if fewer do "
    "or parts of some. Selectors that look for rows like the target find such rows first."
)


def hygiene(results: Results) -> str:
    """Empty where nothing was compared."""
    found = results.hygiene
    if found is None or not (found.benchmarks or found.dropped):
        return ""
    tables = "".join(f"<h3>{text(one.title[0].upper() + one.title[1:])}</h3>" + table(one.header, one.rows, left=3) for one in leak_tables(found))
    return note(_NOTE) + sentences(cleaning_sentences(found)) + tables + "".join(map(_shown, found.benchmarks))


def _shown(one: BenchmarkLeaks) -> str:
    """A few pairs of texts to judge by."""
    rows = [[line.verdict, f"{line.cover:.0%}", line.kind, line.matched, line.row_text, line.item_text, line.id, line.item] for line in one.shown]
    header = ["verdict", "covered", "how", "words shared", "in the pool", "in the item", "row", "item"]
    return fold(f"{one.name}: rows beside the items that they hold", table(header, rows, left=8)) if rows else ""

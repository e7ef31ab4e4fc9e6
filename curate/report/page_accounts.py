"""The books of a run: certificates, notes, data, failures, what it cost, and how to run it again."""

from collections.abc import Iterator, Sequence
from statistics import fmean

from curate.report.charts import stacked
from curate.report.fidelity import fidelity_cell
from curate.report.findings import notes
from curate.report.page_parts import fold, lines_of, note, percent, sentences, table, text
from curate.report.page_top import failures
from curate.report.planned import predicted_against_actual
from curate.report.results import Cell, DataSummary, FeatureRow, Results
from curate.report.tables import Section, proofs
from curate.report.wording import PROOF_HEADER, PROOF_NOTE, count, duration, number, proof_cells, reasons, size

_NOTES = 8  # sentences before the rest folds
_ROWS = 200  # of rows set aside that are listed; all are in results.json


def certificates(results: Results) -> str:
    """How far from optimal a selection can be."""
    rows = [proof_cells(proof) for proof in proofs(results)]
    return note(PROOF_NOTE) + table(PROOF_HEADER, rows, left=3) if rows else ""


def caveats(results: Results, parts: Sequence[Section]) -> str:
    """Warnings, then how to read the numbers."""
    warned = "".join(f'<li class="warning">{text(line)}</li>' for line in results.warnings)
    said = list(dict.fromkeys(notes(results, list(parts))))
    more = fold(f"{count(len(said) - _NOTES)} more", sentences(said[_NOTES:]))
    return (f"<ul>{warned}</ul>" if warned else "") + sentences(said[:_NOTES]) + more


def failed(results: Results) -> str:
    """Models that there are not, each with its reason."""
    rows = [[cell.arm, cell.target or "", cell.budget, _seed(cell), cell.failed] for cell in failures(results)]
    return note("These models are in no score above.") + table(["arm", "target", "budget", "seed", "why"], rows, left=5) if rows else ""


def data(results: Results) -> str:
    """Every row read is used or set aside for a reason."""

    def row(name: str, found: DataSummary) -> list[str]:
        aside = sum(found.quarantined.values())
        return [name, reasons(found) or "none", *map(count, (found.rows_in, found.used, aside, found.tokens, found.supervised_tokens))]

    rows = [row("pool", results.pool), *(row(f"target {name}", found) for name, found in results.targets.items())]
    header = ["rows", "set aside for", "read", "used", "set aside", "tokens", "with loss"]
    aside = [[row.part, row.id, row.reason, row.detail, row.origin] for row in results.quarantined[:_ROWS]]
    more = f", the first {_ROWS} of {count(len(results.quarantined))}" if len(results.quarantined) > _ROWS else ""
    listed = fold(f"Rows set aside{more}", table(["part", "id", "why", "", "from"], aside, left=5)) if aside else ""
    return table(header, rows, left=2) + listed


def costs(results: Results) -> str:
    """Time by kind of stage, features, training by arm, and the whole ledger folded."""
    return "".join(_costs(results))


def reproduce(results: Results) -> str:
    """The command, the machine and the resolved recipe."""
    command = f"<pre>{text(results.command)}</pre>" if results.command else ""
    machine = table(["", ""], list(map(list, results.hardware.items())), left=2) if results.hardware else ""
    recipe = fold("The recipe, every default written out", f"<pre>{lines_of(results.recipe)}</pre>") if results.recipe else ""
    return command + machine + recipe


def _costs(results: Results) -> Iterator[str]:
    spent = sum(stage.seconds for stage in results.stages if not stage.cached)
    yield f"<p>{duration(results.seconds)} in all, {duration(spent)} of it in stages that the store did not hold.</p>"
    yield _by_kind(results, spent)
    yield _foretold(results)
    if results.paying:
        yield "<h3>When a selection pays</h3>" + sentences(results.paying)
    if results.features:
        rows = [[*_feature(f), "from the store" if f.cached else duration(f.seconds)] for f in results.features]
        yield "<h3>Features</h3>" + table(["feature", "scorer", "output", "width", "rows", "on disk", "against exact", "time"], rows, left=3)
    yield _training(results)
    rows = [[s.stage, s.label, s.key, "from the store" if s.cached else duration(s.seconds)] for s in results.stages]
    yield fold(f"Every stage ({count(len(rows))})", table(["stage", "what", "key", "time"], rows, left=3)) if rows else ""
    models = [_model(cell) for cell in results.cells]
    header = ["arm", "target", "budget", "seed", "steps", "kept step", "tokens", "time"]
    yield fold(f"Every model ({count(len(models))})", table(header, models, left=4)) if models else ""


def _foretold(results: Results) -> str:
    """What `curate plan` said beside what happened."""
    found = predicted_against_actual(results.planned, results.stages)
    if not found:
        return ""
    rows = [
        [one.stage, one.what, duration(one.predicted), f"{duration(one.low)} to {duration(one.high)}", duration(one.actual), _times(one.ratio)] for one in found
    ]
    return "<h3>Planned and actual</h3>" + table(["stage", "what", "planned", "between", "actual", "actual / planned"], rows, left=2)


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _by_kind(results: Results, spent: float) -> str:
    """A bar of the time, and a row for each kind of stage."""
    names = list(dict.fromkeys(stage.stage for stage in results.stages))
    if not names:
        return ""
    groups = {name: [stage for stage in results.stages if stage.stage == name] for name in names}
    seconds = [sum(stage.seconds for stage in group if not stage.cached) for group in groups.values()]
    looks = [f"k{min(position, 8)}" for position in range(len(names))]
    bar = stacked(names, seconds, "time by kind of stage", looks) if spent else ""
    legend = "".join(f'<span><i class="{look}"></i>{text(name)}</span>' for name, look in zip(names, looks, strict=True))
    rows = [
        [name, count(len(group)), count(sum(stage.cached for stage in group)), duration(used), percent(used / spent) if spent else "-"]
        for (name, group), used in zip(groups.items(), seconds, strict=True)
    ]
    return f'<div class="total">{bar}<p class="legend">{legend}</p></div>' + table(["stage", "how many", "from the store", "time", "share"], rows)


def _training(results: Results) -> str:
    """Tokens and time of training and evaluation by arm, and what pruning and early stopping left unread."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in results.cells:
        if cell.train_tokens:
            groups.setdefault((cell.arm, cell.budget), []).append(cell)
    spared = any(cell.planned_tokens for cells in groups.values() for cell in cells)
    rows = []
    for (arm, budget), cells in groups.items():
        tokens, whole = fmean(cell.train_tokens for cell in cells), fmean(cell.planned_tokens for cell in cells)
        saved = [percent(1 - tokens / whole) if whole else ""] if spared else []
        rows.append([arm, budget, count(len(cells)), count(tokens), *saved, duration(fmean(cell.seconds for cell in cells))])
    header = ["arm", "budget", "models", "tokens trained on", *(["left unread"] if spared else []), "time"]
    return fold("Training by arm and budget, means over models", table(header, rows, left=2)) if rows else ""


def _feature(f: FeatureRow) -> list[str]:
    return [f.name, f.scorer, f.output, number(f.width), count(f.rows), f"{size(f.bytes)}, {f.stored}", fidelity_cell(f)]


def _model(cell: Cell) -> list[str]:
    kept = "" if cell.stopped_at is None else count(cell.stopped_at)
    return [cell.arm, cell.target or "", cell.budget, _seed(cell), count(cell.steps), kept, count(cell.train_tokens), duration(cell.seconds)]


def _seed(cell: Cell) -> str:
    return "" if cell.seed is None else str(cell.seed)

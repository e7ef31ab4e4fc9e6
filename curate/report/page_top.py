"""The top of the page: what was compared, the verdicts in a sentence each, what to beware of, and the contents."""

from collections.abc import Iterator, Sequence

from curate.report.findings import headlines
from curate.report.page_parts import Part, fold, text
from curate.report.results import Cell, Results
from curate.report.tables import REFERENCES, Outcome, Section, Task, controls, higher_is_better, ordered_tasks, outcome
from curate.report.wording import count, duration

FAR = 0.15  # from a half: how often a row taken may be longer than one left before it is worth a word

_SAID = 4  # budgets of a target whose sentences show at once


def head(results: Results) -> str:
    """The name, and the run in numbers."""
    facts = "".join(f"<li><b>{text(number)}</b> {text(word)}</li>" for number, word in _facts(results))
    meta = f"curate {results.version}, {results.created}"
    return f'<header><h1>{text(results.name)}</h1><p class="meta">{text(meta)}</p><ul class="facts">{facts}</ul></header>'


def verdicts(results: Results, parts: Sequence[Section]) -> str:
    """One sentence per target, budget and task metric; those about likelihoods and further tasks fold."""
    blocks = []
    for target in dict.fromkeys(part.target for part in parts):
        mine = [part for part in parts if part.target == target]
        first = [_sentence(results, part, ordered_tasks([part])[0]) for part in mine]
        rest = [_sentence(results, part, task) for part in mine for task in part.tasks if task != ordered_tasks([part])[0]]
        title = f"<h3>{text(target)}</h3>" if target else ""
        more = fold("At the other budgets", _listed(first[_SAID:])) + fold("By the other tasks", _listed(rest))
        blocks.append(f"{title}{_listed(first[:_SAID])}{more}" if any(first) else "")
    return "".join(blocks)


def cautions(results: Results) -> str:
    """What stands between the sentences above and belief, each with a link to where it is said in full."""
    lines = "".join(f'<li>{text(line)} <a href="#{anchor}">{word}</a></li>' for line, anchor, word in _cautions(results))
    return f'<ul class="cautions">{lines}</ul>' if lines else ""


def contents(parts: Sequence[Part]) -> str:
    """Links to every section that there is."""
    links = "".join(f'<a href="#{part.anchor}">{text(part.title)}</a>' for part in parts if part.body)
    return f'<nav aria-label="Contents">{links}</nav>'


def failures(results: Results) -> list[Cell]:
    """Models that there are not."""
    return [cell for cell in results.cells if cell.failed]


def _facts(results: Results) -> Iterator[tuple[str, str]]:
    places = {(c.arm, c.budget) for c in results.cells} | {(c.arm, c.budget) for c in results.selections} | {(c.arm, c.budget) for c in results.comparisons}
    arms = {arm for arm, _ in places} - set(REFERENCES) - controls(results)
    budgets = {budget for arm, budget in places if budget and arm in arms}
    seeds = {cell.seed for cell in results.cells if cell.seed is not None}
    trained = [cell for cell in results.cells if cell.arm != "zero_shot"]
    numbers = (len(results.targets), "target"), (len(arms), "arm"), (len(budgets), "budget"), (len(seeds), "seed"), (len(trained), "model")
    yield from ((count(number), word if number == 1 else f"{word}s") for number, word in numbers if number)
    yield count(results.pool.used), "rows in the pool"
    yield duration(results.seconds), "in all"


def _listed(lines: Sequence[str]) -> str:
    return f'<div class="findings">{"".join(lines)}</div>' if any(lines) else ""


def _sentence(results: Results, part: Section, task: Task) -> str:
    found = headlines(results, [part._replace(tasks=[task])])
    if not found:
        return ""
    place = f"{task[0]} ({task[1]})" + (f" at {part.budget}" if part.budget else "")
    said = found[0].removeprefix(f"{place}: ")
    kind = _best(results, part, task)
    return f'<p class="finding {kind}"><span class="where">{text(place)}</span><span>{text(said)}</span></p>'


def _best(results: Results, part: Section, task: Task) -> Outcome:
    up = higher_is_better(results)[task]
    seen = {outcome(part.entries[arm, task], up) for arm in part.arms if arm not in REFERENCES and (arm, task) in part.entries}
    return "better" if "better" in seen else "worse" if "worse" in seen else "unclear"


def _cautions(results: Results) -> Iterator[tuple[str, str, str]]:
    lost = failures(results)
    if lost:
        yield f"{len(lost)} of {len(results.cells)} models failed.", "failures", "Why"
    if results.disagreements:
        times = "Once" if len(results.disagreements) == 1 else f"{len(results.disagreements)} times"
        yield f"{times} the task's metric and the likelihood of the target say different things.", "verdicts", "Where"
    odd = [row for row in results.selections if row.longer is not None and not row.matched_to and abs(row.longer - 0.5) > FAR]
    if odd:
        yield f"Length may explain what was taken by {', '.join(dict.fromkeys(row.arm for row in odd))}.", "taken", "See lengths"
    if results.warnings:
        warnings = "1 warning" if len(results.warnings) == 1 else f"{len(results.warnings)} warnings"
        yield f"{warnings} of the run.", "notes", "Read"

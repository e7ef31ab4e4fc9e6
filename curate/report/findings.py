"""What the numbers say in sentences, and what they do not say."""

from statistics import fmean

from curate.report.fidelity import fidelity_lines
from curate.report.results import Comparison, Results
from curate.report.tables import REFERENCES, Kinds, Proof, Section, Task, alone, controls, higher_is_better, kinds, outcome, proofs
from curate.report.wording import count, heading, number

_APART = 1.25  # trained tokens that differ by more than this factor are worth a word


def headlines(results: Results, found: list[Section]) -> list[str]:
    """One sentence per target, budget and task: the best arm's verdict and how the others did."""
    directions = higher_is_better(results)
    copies = controls(results)
    return [_headline(section, task, directions[task], arms) for section in found for task in section.tasks if (arms := _compared(section, task, copies))]


def notes(results: Results, found: list[Section]) -> list[str]:
    """How the intervals are to be read, and what else could explain a difference."""
    differences = [c for c in results.comparisons if c.difference is not None]
    lines = []
    if differences:
        lines.append(
            f"Differences are against {differences[0].baseline}, with 95% intervals over items and seeds. Each interval holds on its own; a verdict also "
            "has to hold by Holm's rule over all arms and budgets of its task, so that among all of them one is wrong with a chance of at most 5%. "
            "The order of the arms among themselves is not tested, and the best of several looks better than it is."
        )
    if any(c.seeds == 1 for c in differences if c.arm not in ("zero_shot", "full")):
        lines.append("Some arms ran with one seed: their intervals cover the choice of items, not the luck of training.")
    lines += [line for section in found for line in _accounts(section, kinds(results, section), controls(results))]
    return lines + [line for proof in proofs(results) if (line := _race(proof))] + fidelity_lines(results.features)


def _race(proof: Proof) -> str:
    """Who won where a learned selection and greedy climbed the same objective."""
    about = proof.certificate.details
    lead, low, high = (about.get(name) for name in ("lead", "lead_low", "lead_high"))
    if lead is None or low is None or high is None:
        return ""
    verdict = "ahead of" if low > 0 else "behind" if high < 0 else "not distinguishable from"
    others = ", ".join(f"{name} {number(about[name])}" for name in ("greedy", "mmr") if about.get(name) is not None)
    where = f" at {proof.budget}" if proof.budget else ""
    return (
        f"{proof.arm}{where}: the learned mask reaches {number(proof.certificate.objective)} of its own objective, {others}; over its restarts it is "
        f"{verdict} greedy ({lead:+.3g} [{low:+.3g}, {high:+.3g}]). That says nothing of what the objective is worth to the model."
    )


def _compared(section: Section, task: Task, copies: set[str]) -> dict[str, Comparison]:
    mine = {arm: section.entries.get((arm, task)) for arm in section.arms if arm not in REFERENCES and arm not in copies}
    return {arm: entry for arm, entry in mine.items() if entry is not None and entry.difference is not None}


def _headline(section: Section, task: Task, better_up: bool, arms: dict[str, Comparison]) -> str:
    kind = {arm: outcome(entry, better_up) for arm, entry in arms.items()}
    target = f", target {section.target}" if section.target else ""
    place = f"{task[0]} ({task[1]})" + (f" at {section.budget}" if section.budget else "") + target
    ordered = sorted(arms, key=lambda arm: (-arms[arm].mean if better_up else arms[arm].mean, arm))
    winners = [arm for arm in ordered if kind[arm] == "better"]
    losers = [arm for arm in ordered if kind[arm] == "worse"]
    unclear = len(arms) - len(winners) - len(losers)
    baseline = next(iter(arms.values())).baseline
    if not winners and not losers:
        full = section.entries.get(("full", task))
        flat = full is not None and outcome(full, better_up) == "unclear"
        more = ", nor is training on the full pool: this task does not tell selections apart" if flat else _by_themselves(arms, better_up)
        return f"{place}: no arm is distinguishable from {baseline}{more}."
    first = winners[0] if winners else losers[-1]
    others = (len(winners) - (first in winners), "also better"), (len(losers) - (first in losers), "worse"), (unclear, "not distinguishable")
    rest = [f"{number} {word}" for number, word in others if number]
    return f"{place}: {first} is {arms[first].verdict or kind[first]}" + (f"; of the other arms {', '.join(rest)}." if rest else ".")


def _by_themselves(arms: dict[str, Comparison], better_up: bool) -> str:
    """How many arms would be told from the baseline if there were no other comparisons."""
    kinds_alone = [alone(entry, better_up) for entry in arms.values()]
    found = [f"{kinds_alone.count(kind)} {kind}" for kind in ("better", "worse") if kind in kinds_alone]
    family = max(entry.comparisons for entry in arms.values())
    return f" once corrected for {family} comparisons; alone, {' and '.join(found)}" if found else ""


def _accounts(section: Section, taken: Kinds | None, copies: set[str]) -> list[str]:
    if taken is None:
        return []
    place = f" at {heading(section)}" if heading(section) else ""
    mine = {arm: t for arm, t in taken.arms.items() if arm not in REFERENCES and arm not in copies}
    lines = []
    random = taken.arms.get("random")
    times = {arm: t.train_tokens / random.train_tokens for arm, t in mine.items() if random and random.train_tokens and t.train_tokens}
    apart = [arm for arm, ratio in times.items() if not 1 / _APART < ratio < _APART]
    if random and apart:
        mean = fmean(mine[arm].train_tokens for arm in apart)
        lines.append(f"Not matched in tokens{place}: random trained on {count(random.train_tokens)}, {', '.join(apart)} on {count(mean)} on average.")
    usual = taken.pool.tokens / max(taken.pool.rows, 1)
    length = {arm: t.tokens / max(t.rows, 1) for arm, t in mine.items()}
    odd = [f"{arm} {value:.0f}" for arm, value in length.items() if usual and value and not 0.5 < value / usual < 2]
    if odd:
        lines.append(f"Lengths{place} differ from the pool's {usual:.0f} tokens per row: {', '.join(odd)}.")
    return lines

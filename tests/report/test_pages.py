"""The page as a document: sections that follow the data, links that resolve, texts that stay texts, and the words of verdict and doubt."""

import re
from typing import Any

import pytest

from curate.report import html
from curate.report.page_parts import p_value, percent, placed, short, tabs
from curate.report.results import (
    Cell,
    Comparison,
    Curve,
    DataSummary,
    Flow,
    Map,
    Overlap,
    Results,
    SelectionRow,
    Shown,
    Spread,
    Stability,
    Trade,
)
from tests.report.test_renderers import Page
from tests.report.wide_run import ARMS, BUDGETS, CONTROLS, EVIL, TARGETS, hostile, wide_run

ALWAYS = ["data", "costs"]
FROM = {  # a section, and what must be there for it
    "controls": ("controlled",),
    "coverage": ("maps", "trades"),
    "overlap": ("overlaps", "stabilities"),
    "learning": ("curves",),
    "transport": ("flows",),
    "examples": ("shown",),
}
TAGS = {"meta", "title", "style", "head", "html", "body", "nav", "main", "header", "section", "article", "div", "span", "p", "a", "b", "i", "small"}
TAGS |= {"h1", "h2", "h3", "h4", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "details", "summary", "blockquote", "pre"}
TAGS |= {"input", "label", "svg", "defs", "g", "path", "use", "line", "rect", "circle", "text"}


@pytest.fixture(scope="module")
def wide() -> Results:
    return wide_run()


@pytest.fixture(scope="module")
def page(wide: Results) -> str:
    return html.render(wide)


@pytest.fixture(scope="module")
def lean(wide: Results) -> Results:
    """One of every picture, and nothing compared."""
    pictures = {name: getattr(wide, name)[:1] for names in FROM.values() for name in names}
    return wide.model_copy(update=pictures | {"comparisons": [], "selections": [], "cells": [], "stages": []})


def anchors(page: str) -> list[str]:
    return re.findall(r'<section id="([a-z]+)">', page)


def section(page: str, anchor: str) -> str:
    return page[page.index(f'<section id="{anchor}">') :].split("</section>")[0]


def run(*comparisons: Comparison, **rest: Any) -> Results:
    return Results(name="r", version="0", created="2026-01-01", seconds=1.0, pool=DataSummary(rows_in=10, used=10), comparisons=list(comparisons), **rest)


def entry(arm: str, difference: float | None = None, half: float = 0.02, **rest: Any) -> Comparison:
    given: dict[str, Any] = {"task": "t", "metric": "acc", "budget": "5%", "n": 300, "arm": arm, "mean": 0.5, **rest}
    ends = {} if difference is None else {"difference": difference, "low": difference - half, "high": difference + half}
    return Comparison(**given, **ends)


def test_the_document_is_sound_and_every_reference_inside_it_resolves(page: str) -> None:
    parsed = Page(page)
    assert parsed.open == [] and set(parsed.tags) == TAGS
    ids = [value for _, name, value in parsed.attributes if name == "id"]
    wanted = {value.removeprefix("#") for _, name, value in parsed.attributes if name in ("href", "for")}
    assert len(ids) == len(set(ids)) and wanted <= set(ids)
    groups = [value for tag, name, value in parsed.attributes if tag == "input" and name == "name"]
    checked = [name for tag, name, _ in parsed.attributes if tag == "input" and name == "checked"]
    assert len(checked) == len(set(groups)) > 30


def test_the_contents_name_every_section_in_order(page: str) -> None:
    linked = re.findall(r'<a href="#([a-z]+)">', page[: page.index("</nav>")])
    assert linked == anchors(page) and len(linked) == 15
    assert linked[:4] == ["verdicts", "budgets", "controls", "taken"]


@pytest.mark.parametrize("anchor", FROM)
def test_a_section_without_its_data_is_absent_and_the_others_stay(lean: Results, anchor: str) -> None:
    without = html.render(lean.model_copy(update={name: [] for name in FROM[anchor]}))
    assert anchors(without) == [name for name in anchors(html.render(lean)) if name != anchor] and set(FROM) < {anchor, *anchors(without)}
    assert f"#{anchor}" not in without


def test_half_of_a_section_stands_alone(lean: Results) -> None:
    for name in ("maps", "trades", "overlaps", "stabilities"):
        others = {other: [] for other in FROM["coverage"] + FROM["overlap"] if other != name}
        assert {"coverage", "overlap"} & set(anchors(html.render(lean.model_copy(update=others)))) == {"coverage" if name in FROM["coverage"] else "overlap"}


def test_an_empty_run_has_its_accounts_and_nothing_else() -> None:
    assert anchors(html.render(run())) == ALWAYS


def test_nothing_in_any_field_can_act(wide: Results) -> None:
    page = html.render(hostile(wide))
    parsed = Page(page)
    assert parsed.open == [] and set(parsed.tags) == TAGS
    assert not {name for _, name, _ in parsed.attributes if name.startswith("on")} and "<script" not in page
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e\u2028]", page)
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 5000 and EVIL not in page
    for tag, name, value in parsed.attributes:
        if name in ("class", "id", "for", "name", "style", "href", "type"):
            assert re.fullmatch(r"[-\w #:;.%]*", value), (tag, name, value)


def test_the_page_of_a_large_run_stays_small(page: str) -> None:
    assert len(page.encode()) < 1_500_000


def test_what_is_wrong_is_said_before_the_first_section(wide: Results, page: str) -> None:
    top = page[: page.index('<section id="verdicts">')]
    failed = sum(bool(cell.failed) for cell in wide.cells)
    assert failed == 2 and f"{failed} of {len(wide.cells)} models failed." in top and 'href="#failures"' in top
    assert "Length may explain what was taken by less-mean, policy-mask." in top and "2 warnings of the run." in top
    assert section(page, "failures").count("the loss is not finite at step 41 of 480") == failed
    calm = html.render(wide.model_copy(update={"cells": [], "warnings": [], "selections": [], "disagreements": []}))
    assert '<ul class="cautions">' not in calm and "failures" not in anchors(calm)


def test_the_top_says_the_task_metric_of_every_target_and_folds_the_rest(wide: Results, page: str) -> None:
    top = page[: page.index('<section id="verdicts">')]
    said = re.sub(r"<details>.*?</details>", "", top, flags=re.DOTALL)
    assert said.count('<p class="finding') == len(TARGETS) * len(BUDGETS) and top.count('<p class="finding') == 2 * len(TARGETS) * len(BUDGETS)
    assert "nll" not in said and "svamp-operator (acc) at 1%" in said
    many = [entry(arm, None if arm == "random" else 0.1, budget=str(size)) for size in range(10, 20) for arm in ("random", "a")]
    shown = re.sub(r"<details>.*?</details>", "", html.render(run(*many)), flags=re.DOTALL)
    assert shown.count('<p class="finding') == 4


def test_references_of_another_target_are_not_repeated(page: str) -> None:
    first = section(page, "verdicts").split('<div class="panel">')[1]
    assert "clinc15, acc" in first and "banking10" not in first


def test_the_grid_marks_better_and_worse_and_takes_back_what_the_correction_does(wide: Results) -> None:
    arms = [entry("random"), entry("up", 0.1), entry("down", -0.1), entry("flat", 0.01), entry("lucky", 0.03, adjusted=0.4, comparisons=27)]
    both = [one.model_copy(update={"budget": budget}) for budget in ("1%", "5%") for one in arms]
    page = section(html.render(run(*both)), "verdicts")
    cells = re.findall(r'<td class="n (\w+)" title="(\w+) at 5%: [^"]*">([-+.\d]+)<i>(.)</i>', page)
    assert {(arm, look, value, sign) for look, arm, value, sign in cells} == {
        ("up", "better", "+10.0", "\u25b2"),
        ("down", "worse", "-10.0", "\u25bc"),
        ("flat", "unclear", "+1.0", "\u00b7"),
        ("lucky", "unclear", "+3.0", "\u00b7"),
    }
    assert "rule over 27 comparisons does not uphold it" in page
    assert page.count('<td class="word better hollow">') == page.count('<circle class="better hollow"') == 2
    firm = html.render(run(*(one.model_copy(update={"adjusted": 0.04}) for one in both)))
    assert 'better hollow"' not in firm and "does not uphold" not in firm


def test_one_budget_needs_no_grid_and_no_chart_against_budgets() -> None:
    page = html.render(run(entry("random"), entry("a", 0.1)))
    assert "verdicts" in anchors(page) and "budgets" not in anchors(page)
    assert '<table class="grid"' not in page and '<table class="forest"' in page and 'type="radio"' not in page


def test_power_is_told_for_what_is_unclear_and_nothing_else() -> None:
    unclear = entry("a", 0.01, seeds=3, needed_items=2400, needed_seeds=11, detectable=0.031)
    page = html.render(run(entry("random"), unclear, entry("b", 0.1, needed_items=7, detectable=0.01), entry("full", 0.0, detectable=0.02)))
    told = re.findall(r"<li>([^<]*80% power[^<]*)</li>", page)
    least = "with 300 items and 3 seeds the least that shows is 3.1"
    assert told == [f"a, t (acc): +1.0 points; to tell it from zero with 80% power takes 2,400 items or 11 seeds; {least}."]


def test_mcnemars_counts_are_listed_where_there_are_any(wide: Results, page: str) -> None:
    assert "<td>tfidf</td><td>clinc15</td>" in section(page, "verdicts")
    assert "McNemar" not in html.render(run(entry("random"), entry("a", 0.1)))
    page = html.render(run(entry("random"), entry("a", 0.1, only_ours=41, only_theirs=0, mcnemar=0.0004)))
    assert '<td class="n">41</td><td class="n">0</td><td class="n">&lt;0.001</td>' in page


def test_controls_stand_against_the_arm_they_copy(wide: Results, page: str) -> None:
    mine = section(page, "controls")
    for control, arm in CONTROLS.items():
        assert re.search(rf"{re.escape(arm)}<small>against {re.escape(control)}</small>", mine)
    assert mine.count('<table class="forest"') == 2 * len(TARGETS) * len(BUDGETS)
    assert "The 3 controls are left out here." in section(page, "budgets") and "source_matched" not in section(page, "budgets")


def test_disagreements_are_said_under_their_target(wide: Results, page: str) -> None:
    panels = re.split(r'<p class="printed">target ', section(page, "verdicts"))[1:]
    assert [panel.count("<li>less-mean at 5%, 20%: likelihood improves") for panel in panels] == [target.startswith("svamp") for target in TARGETS]


def test_a_number_has_its_own_way_of_being_short() -> None:
    assert [p_value(p) for p in (None, 0.0, 0.00099, 0.001, 0.0996, 0.1, 1.0)] == ["", "<0.001", "<0.001", "0.001", "0.100", "0.10", "1.00"]
    assert [percent(share) for share in (None, 0.0, 0.004, 0.0994, 0.0996, 1.0)] == ["-", "0%", "0.4%", "9.9%", "10%", "100%"]
    assert [short(value) for value in (0.0, -0.2, 12.345, 1234.5, 3e-14)] == ["0", "-0.2", "12.3", "1,234", "0"]


def test_a_single_panel_needs_no_tabs_and_too_many_fold() -> None:
    assert tabs("k", "budget", [("1%", "body"), ("5%", "")]) == "body" and tabs("k", "budget", []) == ""
    few, many = tabs("k", "budget", [(str(n), f"b{n}") for n in range(12)]), tabs("k", "budget", [(str(n), f"b{n}") for n in range(13)])
    assert few.count("<input") == 12 == few.count('<div class="panel">') and few.count(" checked") == 1
    assert many.count("<details") == 13 and many.count("<details open>") == 1 and "<input" not in many


def test_items_are_grouped_by_target_then_budget() -> None:
    items = [Stability(target=t, budget=b, arm="a", seeds=3, always=1, sometimes=0) for t in ("x", "y") for b in ("1%", "5%")]
    calls: list[list[tuple[str | None, str]]] = []
    placed("k", items, lambda key, found: calls.append([(item.target, item.budget) for item in found]) or key)
    assert calls == [[("x", "1%")], [("x", "5%")], [("y", "1%")], [("y", "5%")]]


def test_rows_are_quoted_whole_and_long_ones_fold(wide: Results, page: str) -> None:
    mine = section(page, "examples")
    assert mine.count("<article") == len(wide.shown) == mine.count('class="reason"') and mine.count('<article class="card kept">') * 2 == len(wide.shown)
    long = next(row for row in wide.shown if len(row.text) > 300)
    assert mine.count(f"<blockquote>{long.text}</blockquote>") == sum(row.text == long.text for row in wide.shown)
    assert [mine.count(f">{arm}</label>") for arm in ARMS] == [len(TARGETS) * len(BUDGETS)] * len(ARMS)


def test_the_ledger_adds_up_and_says_what_was_left_unread(wide: Results, page: str) -> None:
    mine = section(page, "costs")
    assert "<td>train</td>" in mine and '<td class="n">60</td><td class="n">0</td><td class="n">21 min 30 s</td>' in mine
    assert "left unread" in mine and '<td class="n">25%</td>' in mine
    plain = wide.model_copy(update={"cells": [cell.model_copy(update={"planned_tokens": 0}) for cell in wide.cells]})
    assert "left unread" not in html.render(plain)


def test_an_arm_without_length_bias_is_not_accused() -> None:
    def taken(arm: str, longer: float) -> SelectionRow:
        return SelectionRow(arm=arm, budget="5%", seed=0, rows=3, longer=longer, groups={"a": 3})

    fair = html.render(run(entry("a", 0.1), selections=[taken("a", 0.52)]))
    assert "Length may explain" not in fair and "No arm prefers long or short rows" in fair
    odd = html.render(run(entry("a", 0.1), selections=[taken("a", 0.2), taken("b", 0.9), taken("a", 0.3).model_copy(update={"budget": "20%"})]))
    assert "Length may explain what was taken by a, b." in odd and "0.20 to 0.30 <span" in odd and "shorter rows" in odd and "longer rows" in odd
    dots = re.findall(r'<circle class="alarm" cx="([\d.]+)%"[^>]*><title>(\w), ([^:]+)', odd)
    assert dots == [("90.0", "b", "5%"), ("20.0", "a", "5%"), ("30.0", "a", "20%")]


def test_failed_cells_alone_still_make_a_page() -> None:
    page = html.render(run(cells=[Cell(arm="a", budget="5%", seed=0, failed="no such luck")]))
    assert anchors(page) == ["failures", *ALWAYS] and "1 of 1 models failed." in page


def test_the_task_comes_before_likelihoods_whatever_the_order_of_the_run() -> None:
    both = [entry(arm, None if arm == "random" else 0.1, metric=metric, budget=b) for metric in ("nll", "acc") for b in ("1%", "5%") for arm in ("random", "a")]
    page = html.render(run(*both))
    said = re.sub(r"<details>.*?</details>", "", page[: page.index('<section id="verdicts">')], flags=re.DOTALL)
    assert said.count("t (acc) at") == 2 and "nll" not in said
    assert re.findall(r'class="task">t, (\w+)<', page) == ["acc", "nll"] == re.findall(r'<figcaption>t <span class="quiet">(acc|nll)', page)


def test_parts_with_next_to_nothing_in_them_still_render() -> None:
    place = {"target": None, "budget": "5%"}
    bare = run(
        entry("only"),
        maps=[
            Map(**place, feature="f", explained=0.0, pool=[], targets=[], arms={}),
            Map(**place, feature="f", explained=1.0, pool=[(1.0, 1.0)] * 3, targets=[], arms={"a": []}),
        ],
        spreads=[Spread(**place, what="w", edges=[], pool=[], arms={}), Spread(**place, what="w", edges=[0.0, 1.0], pool=[0.0], arms={"a": [0.0]})],
        trades=[Trade(**place, arm="a", feature="f"), Trade(**place, arm="b", feature="f", to_target=0.5, to_pool=0.5)],
        curves=[
            Curve(**place, arm="a", name="n", values=[]),
            Curve(**place, arm="a", name="n", values=[1.0]),
            Curve(**place, arm="b", name="n", values=[2.0, 2.0]),
        ],
        flows=[Flow(**place, arm="a", taken=[], wanted=[], mass=[]), Flow(**place, arm="b", taken=["g"], wanted=["h"], mass=[[1.0]])],
        overlaps=[Overlap(**place, arms=["a"], jaccard=[[1.0]], by_chance=[[1.0]])],
        stabilities=[Stability(**place, arm="a", seeds=1, always=0, sometimes=0)],
        shown=[Shown(**place, arm="a", id="i", taken=False, text="", reason="")],
        cells=[Cell(arm="random", seed=0, train_tokens=5)],
    )
    page = html.render(bare)
    assert Page(page).open == [] and not re.search(r"\bnan\b", page)
    assert anchors(page) == ["verdicts", "taken", "coverage", "overlap", "learning", "transport", "examples", *ALWAYS]
    assert section(page, "learning").count("<figure") == 1
    assert page.count('<path class="line ') == 1 and page.count('<svg class="flow"') == 1 and page.count('<svg class="plane"') == 2

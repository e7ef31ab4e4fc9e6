"""The same findings in the terminal, in Markdown and in HTML; nothing from data acts on any of them."""

import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from curate.report import html, markdown
from curate.report.charts import axis, stacked
from curate.report.results import DataSummary, Results
from curate.report.terminal import print_tables

ARMS = ("zero_shot", "random", "full", "less-rr", "tarot", "ccs", "bm25")
HOSTILE = "<script>alert(1)</script>\x1b[31m[bold]|`x`\u202e\nhttp://evil.example"


def terminal(results, width=110, encoding="utf-8", **options):
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding, write_through=True) as stream:
        print_tables(results, Console(file=stream, width=width, **options))
        return raw.getvalue().decode(encoding)


def everything(results):
    return {"terminal": terminal(results), "markdown": markdown.render(results), "html": html.render(results)}


class Page(HTMLParser):
    """Which tags and attributes a page has, and whether every tag is closed."""

    void = {"meta", "br", "input"}

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]


def hostile(results):
    """The run with a name from an attacker wherever data can name something."""
    text = results.model_dump_json()
    for name in ("less-rr", "banking77", "facility location", "banking10", "duplicate of another row", "AMD EPYC 9654 (2 cores)"):
        text = text.replace(name, name[:2] + HOSTILE.replace("\\", "\\\\").replace("\x1b", "\\u001b").replace("\n", "\\n"))
    return Results.model_validate_json(text).model_copy(update={"name": HOSTILE, "warnings": [HOSTILE], "recipe": f"a: 1\n```\n{HOSTILE}", "command": HOSTILE})


@pytest.mark.parametrize("kind", ["terminal", "markdown", "html"])
def test_every_arm_score_interval_kind_certificate_and_warning_is_shown(results, kind):
    page = everything(results)[kind].replace("\\", "")
    for words in (*ARMS, "banking77", "codealpaca", "transport", "0.22%", "0 (proven optimal)", "better", "worse", "unclear", "duplicate of another row 61"):
        assert words in page
    entry = next(c for c in results.comparisons if c.arm == "tarot" and c.metric == "acc")
    assert f"{entry.mean * 100:.1f} \u00b1 {entry.standard_error * 100:.1f}" in page
    assert f"{entry.difference * 100:+.1f} [{entry.low * 100:+.1f}, {entry.high * 100:+.1f}]" in page
    assert "no near neighbour" in re.sub(r"\s+", " ", page) and "is better than random by" in page


@pytest.mark.parametrize("width", [80, 100, 110, 120])
def test_tables_fit_the_terminal_and_stand_side_by_side_where_there_is_room(results, width):
    lines = terminal(results, width).splitlines()
    assert max(map(len, lines)) <= width
    assert any("acc, points" in line and "nll, nats/token" in line for line in lines) == (width >= 110)
    assert "\u2026" not in "".join(lines)


def test_names_too_long_for_the_terminal_are_folded_not_cut(results):
    long = "selector-" + "x" * 70
    page = terminal(Results.model_validate_json(results.model_dump_json().replace("less-rr", long)), 80)
    assert max(map(len, page.splitlines())) <= 80 and "\u2026" not in page


def test_colour_goes_to_terminals_only(results, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" not in terminal(results)
    assert "\x1b[1;32m" in terminal(results, force_terminal=True, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", terminal(results, force_terminal=True, color_system="standard"))


def test_a_terminal_without_unicode_is_served_in_ascii(results):
    page = terminal(results.model_copy(update={"warnings": ["caf\u00e9"]}), encoding="ascii")
    assert "+-" in page and r"caf\xe9" in page


def test_nothing_from_data_reaches_the_terminal_as_a_control_or_as_markup(results):
    page = terminal(hostile(results), force_terminal=True, no_color=True)
    assert "\x1b[31m" not in page and "\u202e" not in page and "\\x1b[31m[bold]" in page


def test_the_page_needs_no_network_no_script_and_no_other_file(results):
    page = Page(html.render(results))
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(page.tags) and page.open == []
    assert not [name for _, name, _ in page.attributes if name in ("src", "xlink:href", "srcset", "action") or name.startswith("on")]
    assert {value[0] for _, name, value in page.attributes if name == "href"} == {"#"}
    assert "http://" not in html.render(results) and "https://" not in html.render(results)
    assert "url(" not in html.render(results) and "@import" not in html.render(results)
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'") in page.attributes


def test_hostile_text_is_inert_in_the_page(results):
    page = html.render(hostile(results))
    assert "<script" not in page and "&lt;script&gt;" in page and "\x1b" not in page and "\u202e" not in page
    parsed = Page(page)
    assert "script" not in parsed.tags and parsed.open == [] and not [name for _, name, _ in parsed.attributes if name.startswith("on")]


def test_hostile_text_is_inert_in_markdown(results):
    page = markdown.render(hostile(results))
    prose = re.sub(r"(?ms)^(`{3,}).*?^\1$", "", page)
    assert "<script" not in prose and "\x1b" not in page and "\u202e" not in page
    tables = re.findall(r"(?m)(?:^\|.*\n)+", prose)
    assert len(tables) == 6
    for block in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_an_empty_run_still_renders():
    empty = Results(name="empty", version="0", created="2026-01-01", seconds=0.0, pool=DataSummary(rows_in=3, used=3))
    for page in everything(empty).values():
        assert "3" in page


def test_intervals_are_drawn_where_the_axis_says(results):
    scale = axis([-0.02, 0.05])
    assert scale.at(scale.low) == 0 and scale.at(scale.high) == 100 and scale.at(1.0) == 100
    assert 0.0 in scale.ticks and 3 <= len(scale.ticks) <= 8 and all(scale.low <= tick <= scale.high for tick in scale.ticks)
    page = html.render(results)
    entries = [c for c in results.comparisons if c.budget == "5%" and c.metric == "acc" and c.difference is not None]
    drawn = axis([end for c in entries for end in (c.difference, c.low, c.high)])
    for entry in entries:
        assert f'x1="{drawn.at(entry.low)}%" x2="{drawn.at(entry.high)}%"' in page


def test_a_stacked_bar_is_full_and_its_parts_are_proportional():
    bar = stacked(["a", "b", "c"], [1, 3, 0], "kinds")
    assert [float(width) for width in re.findall(r'width="([\d.]+)%"', bar)] == [25, 75]
    assert 'x="25.000%"' in bar

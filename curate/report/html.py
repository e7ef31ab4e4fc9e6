"""The report as one HTML page that needs nothing else: no network, no script, no file beside it."""

from curate.report.chart_marks import definitions, marks, tones
from curate.report.page_accounts import caveats, certificates, costs, data, failed, reproduce
from curate.report.page_budget import budgets
from curate.report.page_churn import churn
from curate.report.page_coverage import coverage
from curate.report.page_hygiene import hygiene
from curate.report.page_methods import learning, transport
from curate.report.page_overlap import overlap
from curate.report.page_parts import Part, section, text
from curate.report.page_rows import examples
from curate.report.page_taken import taken
from curate.report.page_top import cautions, contents, head, verdicts
from curate.report.page_verdict import comparisons, controlled
from curate.report.results import Results
from curate.report.style import css
from curate.report.tables import controls, without_controls

# Even if something slipped through the escaping, the page may load and run nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render(results: Results) -> str:
    """The page: verdicts first, then each question in a section of its own; a section without data is absent."""
    parts = page_parts(results)
    top = head(results) + verdicts(results, without_controls(results)) + cautions(results)
    body = "\n".join(filter(None, map(section, parts)))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{text(results.name)}</title>\n<style>{css()}</style></head>\n'
        f'<body>{definitions()}{contents(parts)}<main>\n<div id="top">{top}</div>\n{body}\n</main></body></html>\n'
    )


def page_parts(results: Results) -> list[Part]:
    """Every section in the order of the page."""
    found, who, copies = without_controls(results), marks(results), controls(results)
    colours = tones(results, found)
    return [
        Part("verdicts", "Verdicts", comparisons(results, found, copies)),
        Part("budgets", "Against the budget", budgets(results, found, who, copies)),
        Part("controls", "Matched controls", controlled(results)),
        Part("taken", "Rows taken", taken(results, found, who, colours, copies)),
        Part("churn", "What changed", churn(results)),
        Part("coverage", "Coverage", coverage(results, who, colours)),
        Part("overlap", "Overlap", overlap(results)),
        Part("learning", "Learning curves", learning(results, who)),
        Part("transport", "Transport", transport(results, colours)),
        Part("examples", "Rows to read", examples(results)),
        Part("certificates", "Certificates", certificates(results)),
        Part("notes", "What to keep in mind", caveats(results, found)),
        Part("failures", "Failed models", failed(results)),
        Part("hygiene", "Leaks and duplicates", hygiene(results)),
        Part("data", "Data", data(results)),
        Part("costs", "Costs", costs(results)),
        Part("reproduce", "Reproduce", reproduce(results)),
    ]

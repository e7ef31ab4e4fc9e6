"""The style sheet of the HTML report: system fonts, light and dark, wide and narrow, paper."""

from curate.report.chart_style import CHARTS
from curate.report.page_parts import TABS

# Chosen so that no two look alike to normal, red-blind or green-blind eyes; the last is for all that has no colour of its own.
_TONES_LIGHT = ("#1d4fb8", "#e88a1a", "#12833f", "#ea7fa0", "#8f6ae6", "#27b3e6", "#6b5a00", "#820a5e", "#9aa1ad")
_TONES_DARK = ("#4c79e4", "#f99700", "#4db36e", "#f79ab8", "#a890f5", "#4fe0ff", "#9b7b33", "#c44d94", "#6d7482")

_LIGHT = {
    **{"page": "#ffffff", "card": "#f6f7f9", "ink": "#1b1f27", "quiet": "#5d6573", "line": "#e3e6eb", "edge": "#c9ced6", "link": "#1d4fb8"},
    **{"better": "#14784a", "worse": "#b5322a", "unclear": "#8d95a3", "better-soft": "#e4f3ea", "worse-soft": "#fae7e5", "warn": "#9a5b00", "heat": "#1d4fb8"},
    **{"on-heat": "#ffffff"},
}
_DARK = {
    **{"page": "#14171c", "card": "#1d2128", "ink": "#e7e9ee", "quiet": "#a2a9b6", "line": "#2b313b", "edge": "#454d5a", "link": "#8fb0ff"},
    **{"better": "#5ccb92", "worse": "#f2837a", "unclear": "#858d9c", "better-soft": "#17382a", "worse-soft": "#41211f", "warn": "#e6ae55", "heat": "#6f95f5"},
    **{"on-heat": "#0d1015"},
}

_PAGE = """
* { box-sizing: border-box; }
html { scroll-padding-top: 3.4rem; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.6rem 1.1rem 4rem; min-width: 0; }
nav { position: sticky; top: 0; z-index: 2; display: flex; gap: 1.1rem; overflow-x: auto; padding: .6rem 1.1rem; background: var(--page);
  border-bottom: 1px solid var(--line); white-space: nowrap; font-size: .85rem; scrollbar-width: none; }
nav a { color: var(--quiet); text-decoration: none; } nav a:hover { color: var(--ink); text-decoration: underline; }
a { color: var(--link); }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; line-height: 1.25; margin: 0 0 .7rem; letter-spacing: -.005em; }
h3 { font-size: 1.02rem; margin: 1.8rem 0 .5rem; }
h4 { font-size: .92rem; margin: 1.3rem 0 .4rem; } h4 .quiet { font-weight: 400; }
h1, h2, h3, h4, p, li, figcaption { overflow-wrap: anywhere; }
section { margin-top: 3rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
p { margin: .4rem 0; max-width: 46rem; } ul { padding-left: 1.15rem; margin: .5rem 0; } li { margin: .25rem 0; max-width: 46rem; }
small { display: block; font-size: .78rem; font-weight: 400; color: var(--quiet); }
.quiet, .meta { color: var(--quiet); font-size: .87rem; }
.facts { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.5rem; padding: 0; margin: .9rem 0 1.4rem; font-size: .9rem;
  color: var(--quiet); }
.facts li { margin: 0; } .facts b { color: var(--ink); font-variant-numeric: tabular-nums; }
#top h3 { margin: 1.2rem 0 .35rem; }
.findings { display: grid; gap: 1px; background: var(--line); border-block: 1px solid var(--line); }
.finding { display: grid; grid-template-columns: minmax(9rem, 15rem) 1fr; gap: 0 1.1rem; margin: 0; padding: .4rem 0 .4rem .8rem; max-width: none;
  background: var(--page); box-shadow: inset 3px 0 var(--edge); }
.finding.better { box-shadow: inset 3px 0 var(--better); } .finding.worse { box-shadow: inset 3px 0 var(--worse); }
.finding .where { color: var(--quiet); }
.cautions { list-style: none; padding: .6rem .9rem; margin: 1.4rem 0 0; background: var(--card); border-radius: 6px; font-size: .92rem; }
.cautions li { max-width: none; } .warning { color: var(--warn); }
.scroll { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; color: var(--quiet); font-size: .8rem; vertical-align: bottom; }
th, td { padding: .33rem .65rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { padding-left: 0; } th:last-child, td:last-child { padding-right: 0; }
.n { text-align: right; white-space: nowrap; }
.name { font-weight: 600; min-width: 6rem; overflow-wrap: anywhere; } .reference { font-weight: 400; color: var(--quiet); }
tr.last td { border-bottom-color: var(--edge); }
td.better { color: var(--better); } td.worse { color: var(--worse); } td.unclear { color: var(--quiet); }
.word { font-size: .82rem; font-weight: 600; white-space: nowrap; } td.word.unclear, .word.hollow { font-weight: 400; }
.forest { margin: .2rem 0 .4rem; table-layout: fixed; } .forest td { height: 2.05rem; padding-block: .15rem; }
.forest th.name { width: 23%; } .forest th.score { width: 13%; } .forest th.change { width: 22%; } .forest th.p { width: 8%; }
.forest th.word { width: 8.5%; }
.forest tr.foot td { border: 0; height: 1.4rem; } .forest td.name { line-height: 1.2; } td.word { padding-left: 0; text-align: right; }
.grid th.task { text-align: center; border-bottom: 0; padding-bottom: 0; } .grid td, .grid th { padding-inline: .5rem; }
.grid .name { padding-left: 0; }
.grid .name { min-width: 10rem; position: sticky; left: 0; background: var(--page); } .grid th.name { font-weight: 500; }
.grid td i { font-style: normal; display: inline-block; width: 1em; margin-left: .25em; text-align: center; font-size: .8em; }
.grid td.better { background: var(--better-soft); } .grid td.worse { background: var(--worse-soft); }
details > summary { cursor: pointer; color: var(--quiet); font-size: .87rem; margin: .7rem 0 .3rem; } summary:hover { color: var(--ink); }
pre { background: var(--card); border-radius: 6px; padding: .8rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere; margin: .5rem 0;
  font: .82rem/1.5 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; }
.tabs { position: relative; } .tabs > input { position: absolute; opacity: 0; pointer-events: none; width: 1px; height: 1px; margin: 0; }
.tablist { display: flex; flex-wrap: wrap; gap: .3rem .25rem; align-items: baseline; margin: .9rem 0 .6rem; max-width: none; font-size: .87rem; }
.tablist span { color: var(--quiet); margin-right: .4rem; }
.tablist label { cursor: pointer; padding: .12rem .65rem; border-radius: 1rem; border: 1px solid var(--line); color: var(--quiet);
  overflow-wrap: anywhere; }
.tablist label:hover { color: var(--ink); border-color: var(--edge); }
.panel { display: none; } .printed { display: none; }
.card { border: 1px solid var(--line); border-left: 3px solid var(--edge); border-radius: 4px; padding: .55rem .8rem; margin: .6rem 0;
  font-size: .9rem; }
.card.kept { border-left-color: var(--better); } .card b { color: var(--ink); } .card p { overflow-wrap: anywhere; }
.row { margin: .4rem 0 0; } blockquote { margin: .4rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere; color: var(--ink); }
.row > summary { white-space: pre-wrap; overflow-wrap: anywhere; color: var(--ink); font-size: 1em; margin: 0; }
.row[open] > summary span { display: none; }
.row[open] > summary::after { content: "fold"; color: var(--quiet); }
.nearest { color: var(--quiet); font-size: .85rem; margin-top: .5rem; } .nearest ul { margin: .1rem 0 0; }
"""

_NARROW = """
@media (min-width: 1180px) {
  html { scroll-padding-top: 1rem; }
  body { display: grid; grid-template-columns: 13rem minmax(0, 62rem); justify-content: center; }
  nav { display: block; height: 100vh; border: 0; padding: 2.1rem 1rem; overflow-y: auto; } nav a { display: block; padding: .22rem 0; }
  main { margin: 0; padding: 1.9rem 1.5rem 4rem; width: 100%; }
}
@media screen and (max-width: 820px) {
  body { font-size: 14.5px; } main { padding-inline: .9rem; } nav { padding-inline: .9rem; }
  .finding { grid-template-columns: 1fr; }
  .forest thead, .forest .blank { display: none; } .forest, .forest tbody { display: block; }
  .forest tr { display: grid; grid-template-columns: minmax(0, 1fr) auto auto; gap: .1rem .8rem; align-items: baseline; padding: .45rem 0;
    border-bottom: 1px solid var(--line); }
  .forest td { display: block; border: 0; padding: 0; height: auto; } .forest td.n { text-align: left; }
  .forest td.name { grid-area: 1 / 1; } .forest td.word { grid-area: 1 / 3; text-align: right; }
  .forest td.score { grid-area: 2 / 1; } .forest td.change { grid-area: 2 / 2 / 3 / 4; text-align: right; }
  .forest td.p { grid-area: 1 / 2; text-align: right; }
  .forest td.p:not(:empty)::before { content: "p "; color: var(--quiet); } .forest td.plot { grid-area: 3 / 1 / 4 / 4; width: auto; }
  .forest tr.foot { border: 0; padding: 0; } .forest tr.foot td.plot { grid-area: 1 / 1 / 2 / 4; } .forest tr.base td.plot { display: none; }
  .grid .name { min-width: 7.5rem; max-width: 8.5rem; }
  th, td { padding-inline: .4rem; }
}
@media print {
  nav, .tabs > input, .tablist { display: none; } body { display: block; } main { max-width: none; padding: 0; }
  .panel { display: block; } .printed { display: block; font-weight: 600; } h2, h3, h4 { break-after: avoid; }
  figure, tr, .card, .bars { break-inside: avoid; }
}
"""


def css() -> str:
    """The whole sheet."""
    light = _variables(_LIGHT | _tones(_TONES_LIGHT))
    dark = _variables(_DARK | _tones(_TONES_DARK))
    fills = "".join(f".k{n} {{ --c: var(--t{n}); }} .a{n} {{ --c: var(--t{n}); }}\n" for n in range(len(_TONES_LIGHT)))
    shown = "".join(_tab(n) for n in range(1, TABS + 1))
    colours = f":root {{ color-scheme: light dark; {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    return f"{colours}{_PAGE}{CHARTS}{fills}{shown}{_NARROW}"


def _tab(n: int) -> str:
    chosen = f".tabs > input:nth-of-type({n})"
    name = f"~ .tablist > label:nth-of-type({n})"
    return (
        f"{chosen}:checked ~ .panel:nth-of-type({n}) {{ display: block; }}\n"
        f"{chosen}:checked {name} {{ color: var(--page); background: var(--ink); border-color: var(--ink); }}\n"
        f"{chosen}:focus-visible {name} {{ outline: 2px solid var(--link); outline-offset: 1px; }}\n"
    )


def _tones(colours: tuple[str, ...]) -> dict[str, str]:
    return {f"t{number}": colour for number, colour in enumerate(colours)}


def _variables(named: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in named.items())

"""The style sheet of the HTML report: system fonts, light and dark, wide and narrow, paper."""

_KINDS_LIGHT = ("#3b6fd4", "#e0862d", "#3f9a66", "#b9498d", "#8a6fd1", "#c9a40f", "#3a9db3", "#c4514a", "#8b8f98")
_KINDS_DARK = ("#6f9bf0", "#f0a458", "#6cc191", "#da7db5", "#ab95ea", "#dcc14a", "#66c3d6", "#e57d76", "#7b818c")

_RULES = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; overflow-wrap: anywhere; }
h3 .quiet { font-weight: 400; }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; overflow-wrap: anywhere; }
p { margin: .4rem 0; max-width: 46rem; }
.quiet, .meta, .legend { color: var(--quiet); font-size: .88rem; }
.finding { border-left: 4px solid var(--line); background: var(--card); border-radius: 0 8px 8px 0; padding: .6rem 1rem; margin: .6rem 0;
  max-width: none; overflow-wrap: anywhere; }
.finding.better { border-color: var(--better); } .finding.worse { border-color: var(--worse); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--quiet); font-size: .82rem; vertical-align: bottom; }
th, td { padding: .38rem .7rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { padding-left: 0; }
td.n, th.n { text-align: right; white-space: nowrap; }
td.name { font-weight: 600; overflow-wrap: anywhere; min-width: 5.5rem; }
tr.last td { border-bottom: 2px solid var(--line); }
td.reference { font-weight: 400; color: var(--quiet); }
.forest td { padding-top: 0; padding-bottom: 0; height: 2.3rem; }
.forest tr:last-child td { border-bottom: 0; height: 1.5rem; }
td.plot { width: 40%; min-width: 170px; }
svg { display: block; width: 100%; overflow: visible; }
svg.interval { height: 2.3rem; } svg.ticks { height: 1.2rem; } svg.stacked { height: 1.35rem; border-radius: 4px; overflow: hidden; }
svg text { fill: var(--quiet); font-size: 12px; }
.rule { stroke: var(--line); } .zero { stroke: var(--quiet); stroke-dasharray: 3 3; }
.bar { stroke-width: 4; stroke-linecap: round; }
line.better { stroke: var(--better); } line.worse { stroke: var(--worse); } line.unclear { stroke: var(--unclear); }
circle.better { fill: var(--better); } circle.worse { fill: var(--worse); } circle.unclear { fill: var(--unclear); }
.word { font-size: .8rem; font-weight: 600; } .word.better { color: var(--better); } .word.worse { color: var(--worse); }
.word.unclear { color: var(--quiet); font-weight: 400; }
.bars { display: grid; grid-template-columns: minmax(5rem, max-content) 1fr; gap: .35rem .9rem; align-items: center; font-size: .92rem; }
.bars span { overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .7rem 0; }
.legend i { display: inline-block; width: .8rem; height: .8rem; border-radius: 3px; margin-right: .4rem; vertical-align: -1px; }
pre { background: var(--card); border-radius: 8px; padding: .9rem 1.1rem; overflow-x: auto;
  font: .85rem/1.5 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
details summary { cursor: pointer; color: var(--quiet); margin: .8rem 0 .4rem; font-size: .9rem; }
ul { padding-left: 1.2rem; } li { margin: .3rem 0; max-width: 46rem; overflow-wrap: anywhere; }
.warning { color: var(--worse); }
@media (max-width: 700px) {
  main { padding: 1.2rem .9rem 3rem; } body { font-size: 15px; }
  th, td { padding-left: .35rem; padding-right: .35rem; }
  table { font-size: .8rem; } th, .word { font-size: .75rem; }
  td.plot { width: 30%; min-width: 110px; } td.name { min-width: 4.4rem; }
}
@media print { main { max-width: none; padding: 0; } h2, h3 { break-after: avoid; } table, .bars { break-inside: avoid; } }
"""


def css() -> str:
    """The whole sheet."""
    light = _variables("#ffffff", "#f4f5f8", "#1d2129", "#626a78", "#dfe2e8", "#1a7f4b", "#b93329", "#8b93a1", _KINDS_LIGHT)
    dark = _variables("#15181e", "#1f242d", "#e8eaef", "#a0a8b6", "#343b47", "#55c98c", "#f0776c", "#87909f", _KINDS_DARK)
    fills = "".join(f".k{n} {{ fill: var(--k{n}); background: var(--k{n}); }}\n" for n in range(len(_KINDS_LIGHT)))
    return f":root {{ color-scheme: light dark; {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n{_RULES}{fills}"


def _variables(page: str, card: str, ink: str, quiet: str, line: str, better: str, worse: str, unclear: str, kinds: tuple[str, ...]) -> str:
    named = {"page": page, "card": card, "ink": ink, "quiet": quiet, "line": line, "better": better, "worse": worse, "unclear": unclear}
    named |= {f"k{n}": color for n, color in enumerate(kinds)}
    return " ".join(f"--{name}: {color};" for name, color in named.items())

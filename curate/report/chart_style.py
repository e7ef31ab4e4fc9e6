"""The style of the charts; a class of an arm or a group only sets its colour, `--c`."""

CHARTS = """
svg { display: block; width: 100%; overflow: visible; } svg.definitions { position: absolute; width: 0; height: 0; }
figure { margin: 0; min-width: 0; } figcaption { font-size: .9rem; font-weight: 600; margin-bottom: .55rem; } figcaption .quiet { font-weight: 400; }
.rule { stroke: var(--line); } .zero { stroke: var(--edge); }
svg.interval { height: 1.7rem; } svg.ticks { height: 1.1rem; } svg text { fill: var(--quiet); font-size: 11px; }
.bar { stroke-width: 3; stroke-linecap: round; }
.better { --m: var(--better); } .worse { --m: var(--worse); } .unclear { --m: var(--unclear); } .alarm { --m: var(--warn); }
line.bar { stroke: var(--m); } circle { fill: var(--m); } circle.hollow { fill: var(--page); stroke: var(--m); stroke-width: 2; }
.word { color: var(--m); } .word.unclear { color: var(--quiet); }
.random { --c: var(--quiet); } .full { --c: var(--ink); } .zero_shot { --c: var(--unclear); } .control { --c: var(--unclear); }
.other { --c: var(--edge); }
.mark { fill: var(--c); stroke: var(--page); stroke-width: 1.3; }
.key { display: inline-flex; align-items: center; gap: .3rem; max-width: 100%; } .key svg { width: 14px; height: 14px; flex: none; }
line.mark { stroke: var(--c); stroke-width: 1.8; stroke-dasharray: 2 3; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.6rem 2.4rem; }
.triple { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 16rem), 1fr)); gap: 1.4rem 2rem; }
.chart { margin-top: .8rem; } .chart.half { max-width: 34rem; }
.frame { display: grid; grid-template-columns: auto minmax(0, 1fr); column-gap: 8px; font-size: 11.5px; line-height: 15px; color: var(--quiet);
  font-variant-numeric: tabular-nums; padding-top: 4px; }
.frame.named { grid-template-columns: auto minmax(0, 1fr) 12px min(var(--ends), 36%); column-gap: 0; }
.frame.named .ys { margin-right: 8px; }
.ys, .ends { position: relative; } .ys span { position: absolute; right: 0; transform: translateY(-50%); white-space: nowrap; }
.ends { color: var(--ink); }
.ends div { position: absolute; left: 4px; right: 0; transform: translateY(-50%); overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.ends .key { display: block; overflow: hidden; text-overflow: ellipsis; }
.ends .key svg { display: inline-block; vertical-align: -3px; margin-right: 2px; }
.leads line { stroke: var(--edge); }
.xs { grid-column: 2; position: relative; height: 1.5rem; margin-top: 5px; }
.xs span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.xs .first { transform: none; } .xs .last { transform: translateX(-100%); }
.under { grid-column: 2; text-align: right; }
.lines line { stroke: var(--c); stroke-width: 1.8; stroke-linecap: round; } .lines .whisker { stroke-width: 1.2; opacity: .5; }
.lines.thin line { stroke-width: 1; opacity: .7; }
.lines.random line:not(.whisker) { stroke-dasharray: 5 4; } .lines.full line:not(.whisker) { stroke-dasharray: 1 4; }
.lines.zero_shot line { stroke-dasharray: 1 5; }
.lines.control line:not(.whisker) { stroke-dasharray: 3 3; }
path.line { fill: none; stroke: var(--c); stroke-width: 1.3; stroke-linejoin: round; vector-effect: non-scaling-stroke; opacity: .85; }
.minis { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.4rem, 1fr)); gap: .9rem 1.3rem; }
.planes { display: grid; grid-template-columns: repeat(auto-fill, minmax(12.5rem, 1fr)); gap: 1rem 1.2rem; margin-top: .6rem; }
.mini figcaption { display: flex; justify-content: space-between; gap: .5rem; font-size: .8rem; margin-bottom: .25rem; white-space: nowrap; }
.mini figcaption b { overflow: hidden; text-overflow: ellipsis; min-width: 0; } .mini figcaption .quiet { font-size: .95em; }
.histogram { height: 54px; border-bottom: 1px solid var(--edge); } .bars { fill: var(--c); }
.outline { fill: none; stroke: var(--ink); stroke-width: 1; opacity: .6; vector-effect: non-scaling-stroke; }
path.bars { opacity: .8; }
.edges { display: flex; justify-content: space-between; font-size: 11px; color: var(--quiet); font-variant-numeric: tabular-nums; }
.plane { aspect-ratio: 1; border: 1px solid var(--line); border-radius: 4px; background: var(--card); }
.dots { fill: none; stroke: var(--c); stroke-width: 3.1; stroke-linecap: round; opacity: .7; } .dots.taken { stroke-width: 3.8; opacity: 1; }
.faint { --t0: var(--edge); --t1: var(--edge); --t2: var(--edge); --t3: var(--edge); --t4: var(--edge); --t5: var(--edge); --t6: var(--edge);
  --t7: var(--edge); --t8: var(--edge); }
.rings circle { fill: none; stroke: var(--ink); stroke-width: .8; opacity: .75; }
i.ring { border: 1px solid var(--ink); border-radius: 50% !important; background: none !important; }
.stacked { height: 1.15rem; border-radius: 3px; overflow: hidden; } .stacked rect { fill: var(--c); } .core { --c: var(--quiet); }
.flip { --c: var(--edge); }
div.bars { display: grid; grid-template-columns: minmax(5rem, min(14rem, 38%)) minmax(0, 1fr); gap: .3rem .9rem; align-items: center;
  font-size: .88rem; }
div.bars span { overflow-wrap: anywhere; line-height: 1.2; }
div.bars.cores { grid-template-columns: minmax(5rem, 14rem) minmax(4rem, 1fr) max-content; }
.biases { display: grid; grid-template-columns: minmax(6rem, 14rem) minmax(0, 1fr) max-content; gap: .1rem .9rem; align-items: center;
  font-size: .88rem; }
.biases span { overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: .15rem 1rem; margin: .6rem 0; max-width: none; color: var(--quiet); font-size: .82rem; }
.legend i { display: inline-block; width: .7rem; height: .7rem; border-radius: 2px; margin-right: .35rem; background: var(--c); }
.heat { width: auto; font-size: .8rem; } .heat th, .heat td { border: 0; padding: 0; } .heat th { text-align: center; vertical-align: middle; }
.heat td { min-width: 2.35rem; height: 1.9rem; text-align: center; border: 1px solid var(--page);
  background: color-mix(in srgb, var(--heat) var(--v, 0%), var(--card)); }
.heat td.dark { color: var(--on-heat); } .heat td.self { background: none; }
.heat th.name { text-align: left; padding-right: .8rem; color: var(--ink); font-weight: 400; max-width: 15rem; position: sticky; left: 0;
  background: var(--page); white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.heat th.name span { display: inline-block; min-width: 1.3rem; color: var(--quiet); }
.sankey { display: grid; grid-template-columns: min(var(--left), 34%) minmax(0, 1fr) min(var(--right), 34%); gap: .6rem; font-size: .8rem;
  line-height: 15px; }
.side { position: relative; }
.side div { position: absolute; left: 0; right: 0; transform: translateY(-50%); white-space: nowrap; display: flex; gap: .35rem; }
.side div span:first-child { overflow: hidden; text-overflow: ellipsis; min-width: 0; } .side.from div { justify-content: flex-end; }
.band { fill: var(--c); opacity: .5; } .band:hover { opacity: .8; } .node { fill: var(--quiet); }
@media screen and (max-width: 820px) {
  .minis { grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); } .planes { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .8rem; }
  .heat th.name { max-width: 9rem; } .heat td { min-width: 2.1rem; }
  div.bars.cores, .biases { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); }
  .cores > :nth-child(3n), .biases > :nth-child(3n) { grid-column: 1 / 3; margin-bottom: .4rem; }
}
"""

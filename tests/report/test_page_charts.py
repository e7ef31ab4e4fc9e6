"""What a chart shows is what the numbers say: places are read back off the drawing and held against the data."""

import html
import re
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.report.chart_flow import sankey
from curate.report.chart_frame import Frame, apart, positions, roomy
from curate.report.chart_lines import against_budget, over_steps
from curate.report.chart_marks import Mark, Marks, Tones, marks, tones
from curate.report.chart_spread import SIDE, Window, histogram, outline, thinned
from curate.report.charts import axis
from curate.report.html import page_parts
from curate.report.results import Comparison, DataSummary, Overlap, Results
from curate.report.style import css
from curate.report.tables import controls, sections
from tests.report.wide_run import ARMS, BUDGETS, CONTROLS, TARGETS, wide_run


@pytest.fixture(scope="module")
def wide() -> Results:
    return wide_run()


@pytest.fixture(scope="module")
def bodies(wide: Results) -> dict[str, str]:
    return {part.anchor: part.body for part in page_parts(wide)}


def body(results: Results, anchor: str) -> str:
    return next(part.body for part in page_parts(results) if part.anchor == anchor)


def scale_of(chart: str) -> tuple[float, float]:
    """(value at the top, value per pixel), from two numbers at the left of the chart and where they stand."""
    ticks = [(float(y), float(name.replace(",", ""))) for y, name in re.findall(r'<span style="top:([\d.]+)px">([-\d.,]+)</span>', chart)]
    (y0, v0), (y1, v1) = ticks[0], ticks[-1]
    return v0 - y0 * (v1 - v0) / (y1 - y0), (v1 - v0) / (y1 - y0)


@pytest.mark.parametrize("metric", ["acc", "nll"])
def test_points_and_whiskers_stand_where_the_numbers_at_the_left_say(wide: Results, metric: str) -> None:
    parts = [part for part in sections(wide) if part.target == "clinc15"]
    task = next(task for task in parts[0].tasks if task[1] == metric)
    chart = against_budget(parts, task, marks(wide), set(CONTROLS))
    top, step = scale_of(chart)
    factor = 100 if metric == "acc" else 1
    drawn = dict(re.findall(r'class="mark \w+" x="[\d.]+%" y="([\d.]+)"><title>([^<]+): ', chart))
    places = {name: float(y) for y, name in ((y, name) for y, name in drawn.items())}
    assert len(re.findall(r'<use [^>]*class="mark \w+" x="[^"]+%"', chart)) == (len(ARMS) + 1) * len(BUDGETS)
    for part in parts:
        for arm in (*ARMS, "random"):
            entry = part.entries[arm, task]
            y = places[f"{arm} at {part.budget}"]
            assert top + step * y == pytest.approx(entry.mean * factor, abs=2 * abs(step))
    whiskers = [abs(float(b) - float(a)) for a, b in re.findall(r'class="whisker" x1="[^"]+" x2="[^"]+" y1="([\d.]+)" y2="([\d.]+)"', chart)]
    tops = [float(y) for y in re.findall(r'<div style="top:([\d.-]+)px" title', chart)]
    assert len(tops) == len(ARMS) + 3 and min(tops) >= 6 and max(tops) <= float(re.findall(r'class="area" height="(\d+)"', chart)[0]) - 6
    error = parts[0].entries["tfidf", task].standard_error or 0.0
    assert len(whiskers) == (len(ARMS) + 1) * len(BUDGETS)
    assert np.allclose(np.array(whiskers) * abs(step), 4 * error * factor, atol=2.5 * abs(step))


def test_zero_shot_and_full_are_rules_over_the_whole_width(wide: Results) -> None:
    parts = [part for part in sections(wide) if part.target == "clinc15"]
    chart = against_budget(parts, parts[0].tasks[0], marks(wide), set(CONTROLS))
    for arm in ("zero_shot", "full"):
        (group,) = re.findall(rf'<g class="lines {arm}">(.*?)</g>', chart)
        ends = re.findall(r'x1="([\d.]+)%"[^>]*x2="([\d.]+)%"', group)
        assert float(ends[0][0]) == 0 and float(ends[-1][1]) == 100 and all(a[1] == b[0] for a, b in pairwise(ends))


def test_budgets_stand_by_their_logarithm_where_they_are_numbers_and_evenly_where_not() -> None:
    assert positions(["100", "1,000", "10000"]) == [6, 50, 94] == positions(["1%", "10%", "100%"])
    assert positions(["1%", "5%", "20%"]) == pytest.approx([6, 6 + 88 * np.log(5) / np.log(20), 94], abs=0.01)
    for even in (["1%", "100", "5%"], ["small", "middle", "large"], ["100", "50", "200"], ["0", "10", "100"], ["100", "101", "10000"], ["1", "inf", "nan"]):
        assert positions(even) == [6, 50, 94]
    assert positions(["7"]) == [6] and positions(["7", "9"]) == [6, 94]


def test_names_below_a_chart_give_way_where_they_would_touch() -> None:
    few = list(zip(positions(["1%", "5%", "20%"]), ["1%", "5%", "20%"], strict=True))
    assert roomy(few) == few and roomy([]) == []
    names = [str(10 * 2**n) for n in range(14)]
    kept = [name for _, name in roomy(list(zip(positions(names), names, strict=True)))]
    assert kept[0] == "10" and kept[-1] == "81920" and 3 <= len(kept) <= 6


@given(st.lists(st.floats(0, 250), max_size=15))
def test_names_beside_a_chart_never_touch_and_stay_in_it(wanted: list[float]) -> None:
    wanted.sort()
    placed = apart(wanted, 16, 6, 244)
    assert all(b - a >= 16 - 0.11 for a, b in pairwise(placed))
    assert all(6 - 0.06 <= value <= 244.06 for value in placed)
    free = [value for value in wanted if 6 <= value <= 244]
    if all(b - a >= 16 for a, b in pairwise(wanted)) and len(free) == len(wanted):
        assert placed == pytest.approx(wanted, abs=0.06)


def test_learning_curves_keep_their_ends_and_skip_what_is_no_number() -> None:
    runs = [list(np.linspace(0, 1, 1000)), [0.5, float("nan"), 0.25], [float("nan")]]
    chart = over_steps(runs, ["one", "two", "three"], "a0", "reward")
    paths = re.findall(r'<path class="line a0" d="M([^"]+)"><title>(\w+)', chart)
    assert [name for _, name in paths] == ["one", "two"]
    points = [tuple(map(float, point.split())) for point in paths[0][0].split("L")]
    assert len(points) <= 110 and points[0][0] == 0 and points[-1][0] == 100
    frame = Frame(axis([0.0, 1.0], zero=False), 120)
    assert points[0][1] == pytest.approx(frame.y(0.0), abs=0.6) and points[-1][1] == pytest.approx(frame.y(1.0), abs=0.6)
    assert [b[1] < a[1] for a, b in pairwise(points)] == [True] * (len(points) - 1)
    assert ">1,000</span>" in chart


def test_a_histogram_is_as_tall_as_its_shares() -> None:
    shares, pool = [0.0, 0.5, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25]
    picture = histogram(shares, 0.5, outline("k", pool, 0.5), "a1", "label")
    bars, line = re.findall(r' d="M0 100([^"]+)"', picture)
    assert [1 - float(height) / 100 for height in re.findall(r"V(\d+)h1", bars)] == [0, 1, 0.5, 0.5]
    assert [1 - float(height) / 100 for height in re.findall(r"V(\d+)h1", line)] == [0.5] * 4
    assert 'viewBox="0 0 4 100"' in picture and 'id="k"' in picture


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=2, max_size=30))
def test_a_map_keeps_its_points_inside_and_stretches_neither_way(points: list[tuple[float, float]]) -> None:
    window = Window(points)
    places = np.array([window.place(point) for point in points], float)
    assert places.min() >= 6 and places.max() <= SIDE - 6
    given_, span = np.array(points), window.span
    moved = (given_ - given_[0]) * [1, -1] * (SIDE - 12) / span
    assert np.abs(places - places[0] - moved).max() <= 1.01


def test_a_map_draws_at_most_1500_points_always_the_same_ones(wide: Results) -> None:
    crowd = [(float(x), float(y)) for x, y in np.random.default_rng(0).normal(size=(5000, 2)).round(4)]
    big = wide.maps[0].model_copy(update={"pool": crowd, "targets": crowd[:900], "arms": {arm: crowd for arm in ARMS}, "groups": {}})
    few = Results(name="r", version="0", created="2026-01-01", seconds=1.0, pool=DataSummary(rows_in=3, used=3), maps=[big])
    first, second = body(few, "coverage"), body(few, "coverage")
    assert first == second and 900 < first.count("h0") + first.count("<circle") <= 1500
    assert "600 of 5,000 pool rows are drawn." in first
    assert thinned([(0.0, 0.0)] * 10, 4) == [0, 2, 5, 7] and thinned([(0.0, 0.0)] * 3, 4) == [0, 1, 2]


def test_a_map_has_a_panel_for_the_pool_and_for_every_arm(wide: Results, bodies: dict[str, str]) -> None:
    drawn = bodies["coverage"]
    assert drawn.count('<svg class="plane"') == len(wide.maps) * (len(ARMS) + 2)
    assert drawn.count('<g class="rings">') == len(wide.maps) and 'class="dots taken a0"' in drawn
    assert drawn.count('class="chart half"') == len(TARGETS) and drawn.count(">clinc150</span>") == len(wide.maps)


def test_bands_of_a_transport_plan_are_as_wide_as_their_mass() -> None:
    mass = np.random.default_rng(3).dirichlet(np.ones(36)).reshape(12, 3)
    names = [f"g{n}" for n in range(12)]
    picture = sankey(names, ["x", "y", "z"], mass.tolist(), Tones({"g0": "k0"}), "plan")
    bands = re.findall(r'd="M1.5 ([\d.]+)C[^L]*L98.5 ([\d.]+)C[\d.\- ]* 1.5 ([\d.]+)z"><title>([^<]+) for (\w): ([\d.]+)%', picture)
    top = sorted(range(12), key=lambda g: -mass[g].sum())[:8]
    wanted = {(names[g], "xyz"[t]): mass[g, t] for g in top for t in range(3)}
    rest = [g for g in range(12) if g not in top]
    wanted |= {("4 others", "xyz"[t]): mass[rest, t].sum() for t in range(3)}
    height = int(re.findall(r'viewBox="0 0 100 (\d+)"', picture)[0]) - 8 * 8
    found = {(group, aim): (float(low) - float(high)) / height for high, _, low, group, aim, _ in bands}
    assert found.keys() == wanted.keys()
    assert all(found[pair] == pytest.approx(share, abs=0.001) for pair, share in wanted.items())
    assert sum(found.values()) == pytest.approx(1, abs=0.005)
    left = [(group, float(high), float(low)) for high, _, low, group, _, _ in bands]
    right = [(aim, float(high), float(low)) for high, low, aim in re.findall(r" 98.5 ([\d.]+)L98.5 ([\d.]+)C[^>]*><title>[^<]+ for (\w):", picture)]
    assert len(left) == len(right) == 27
    for side in (left, right):
        ordered = sorted(side, key=lambda band: band[1:])
        for (group, _, end), (other, start, _) in pairwise(ordered):
            assert start - end == pytest.approx(0 if group == other else 8, abs=0.11)
    assert all(float(shown) / 100 == pytest.approx(wanted[group, aim], abs=0.006) for *_, group, aim, shown in bands)


def test_the_heat_map_says_what_is_shared_and_what_chance_would_share() -> None:
    given_ = Overlap(budget="5%", arms=["a", "b"], jaccard=[[1.0, 0.623], [0.623, 1.0]], by_chance=[[1.0, 0.026], [0.026, 1.0]])
    run = Results(name="r", version="0", created="2026-01-01", seconds=1.0, pool=DataSummary(rows_in=3, used=3), overlaps=[given_])
    drawn = body(run, "overlap")
    assert drawn.count('class="self"') == 2 and drawn.count('style="--v:62%"') == 2
    assert 'title="a and b: 62%, by chance 2.6%">62</td>' in drawn and 'title="b and a: 62%' in drawn


def test_stable_cores_are_as_long_as_their_share(wide: Results, bodies: dict[str, str]) -> None:
    drawn = bodies["overlap"]
    cores = [float(width) for width in re.findall(r'<rect class="core" width="([\d.]+)%"', drawn)]
    assert cores == pytest.approx([100 * row.always / (row.always + row.sometimes) for row in wide.stabilities], abs=0.01)
    rest = [(float(x), float(width)) for x, width in re.findall(r'<rect class="flip" x="([\d.]+)%" width="([\d.]+)%"', drawn)]
    assert all(x + width == pytest.approx(100, abs=0.02) for x, width in rest)


def test_an_arm_keeps_its_mark_over_the_page_and_only_eight_have_colours(wide: Results, bodies: dict[str, str]) -> None:
    who = marks(wide)
    assert [who[arm].tone for arm in ARMS] == [f"a{n}" for n in range(8)] and who["random"].tone == "random"
    assert controls(wide) == set(CONTROLS) and {who[arm].tone for arm in CONTROLS} == {"control"}
    assert who["nobody"] == Mark("other", 0) and "nobody" not in who
    page = html.unescape("".join(bodies.values()))
    assert set(re.findall(r'class="mark (\w+)" [^>]*><title>policy-mask', page)) == {"a7"}
    assert set(re.findall(r'class="histogram (\w+)" [^>]*aria-label="policy-mask', page)) == {"a7"}
    assert set(re.findall(r'class="dots taken (\w+)"[^>]*><title>taken by policy-mask', page)) == {"a7"}


def test_more_arms_than_colours_are_grey_and_said_to_be(wide: Results, bodies: dict[str, str]) -> None:
    more = [c.model_copy(update={"arm": f"{c.arm}-{n}", "difference": None}) for c in wide.comparisons if c.arm == "tfidf" for n in range(4)]
    run = wide.model_copy(update={"comparisons": [*wide.comparisons, *more]})
    drawn = body(run, "budgets")
    assert "Arms after the first eight are grey" in drawn and '<g class="lines other">' in drawn
    assert "Arms after the first eight" not in bodies["budgets"]
    names = re.findall(r'<div style="top:[\d.]+px" title="([^"]+)">', drawn)
    assert "tfidf" in names and "tfidf-0" not in names


def test_a_group_has_one_colour_at_every_budget_of_a_target(wide: Results, bodies: dict[str, str]) -> None:
    found = tones(wide, sections(wide))
    assert set(found) == set(TARGETS) and all(len(set(mine.values())) == len(mine) == 8 for mine in found.values())
    bars = re.findall(r'<rect class="(k\d)"[^>]*><title>clinc150:', bodies["taken"])
    assert len(set(bars)) == 1 and len(bars) > 50


def linear(colour: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    cones = np.array([[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]])
    mixed = np.array([[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]])
    return mixed @ np.cbrt((cones @ rgb).clip(0))


# Machado, Oliveira and Fernandes, 2009, full severity.
EYES = {
    "normal": np.eye(3),
    "without red": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "without green": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
}


def schemes() -> list[dict[str, str]]:
    return [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in re.findall(r":root \{([^}]*)\}", css())]


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("scheme", [0, 1])
def test_no_two_arms_look_alike_to_any_of_the_common_kinds_of_eyes(scheme: int, eye: str) -> None:
    colours = [schemes()[scheme][f"t{n}"] for n in range(8)]
    seen = [oklab((EYES[eye] @ linear(colour)).clip(0, 1)) for colour in colours]
    assert min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2)) > (0.12 if eye == "normal" else 0.06)


@pytest.mark.parametrize("scheme", [0, 1])
def test_words_stand_out_from_their_ground(scheme: int) -> None:
    named = schemes()[scheme]

    def contrast(a: str, b: str) -> float:
        bright = sorted(float(linear(named[name]) @ [0.2126, 0.7152, 0.0722]) for name in (a, b))
        return (bright[1] + 0.05) / (bright[0] + 0.05)

    for word, ground in (
        *((word, ground) for word in ("ink", "quiet", "link") for ground in ("page", "card")),
        *(("better", "page"), ("worse", "page"), ("warn", "page"), ("better", "better-soft"), ("worse", "worse-soft"), ("on-heat", "heat")),
    ):
        assert contrast(word, ground) >= 4.5, (word, ground)
    assert all(contrast(f"t{n}", "page") > 2.3 for n in range(8))


def test_references_alone_make_a_chart() -> None:
    entries = [Comparison(task="t", metric="acc", budget=budget, arm="random", mean=0.5, n=5) for budget in ("1%", "2%")]
    run = Results(name="r", version="0", created="2026-01-01", seconds=1.0, pool=DataSummary(rows_in=3, used=3), comparisons=entries)
    assert body(run, "budgets").count('class="mark random"') == 2
    assert against_budget(sections(run), ("t", "acc"), Marks(), set()).count("<title>") == 2

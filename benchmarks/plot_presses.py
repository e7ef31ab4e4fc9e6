"""Draw what benchmarks/presses.py wrote: bytes against fidelity, every press named at its points.

    python benchmarks/plot_presses.py FILE.json OUT.svg

x is the share of the exact cache's bytes, y the KL divergence from the exact next-token distributions to the lossy ones, on a log scale; a press whose
distributions are the exact ones is drawn at the lower edge. Lines join the settings of a press. OUT may end in .png, too.
"""

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402  (the backend comes first)
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.transforms import Bbox  # noqa: E402

SHAPES = {"few bits": "s", "fewer tokens": "o", "other": "D"}


def kind_of(label: str) -> str:
    if label.endswith(" bits"):
        return "few bits"
    return "fewer tokens" if re.search(r" [0-9.]+$", label) else "other"


def name_of(row: dict[str, Any]) -> str:
    """The press, with its bits: how many tokens it keeps is its place."""
    return str(row["label"] if kind_of(row["label"]) == "few bits" else row["press"])


def placed(axes: Axes, points: list[tuple[float, float, str]], size: float = 7.5) -> None:
    """Write each name as near to its point as it fits without covering another name or point, and lead a thin line to those that lie apart.

    Of points above each other, the names keep the order.
    """
    figure = axes.get_figure(root=True)
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined, union-attr]
    pixels = [tuple(axes.transData.transform((x, y))) for x, y, _ in points]
    unit = size * figure.dpi / 72  # type: ignore[union-attr]
    taken = [Bbox.from_bounds(x - unit / 2, y - unit / 2, unit, unit) for x, y in pixels]
    offsets = sorted(
        ((side, rise, out) for side in (1, -1) for rise in range(-14, 15) for out in (0, 2, 4)),
        key=lambda place: abs(place[1]) + 1.2 * place[2] + (place[0] < 0) * 0.5,
    )
    lowest: dict[int, float] = defaultdict(lambda: float("inf"))  # of the names of points above each other
    for (x, y), (_, _, name) in sorted(zip(pixels, points, strict=True), key=lambda pair: -pair[0][1]):
        for side, rise, out in offsets:
            at = (x + side * unit * (0.9 + out), y + 0.55 * rise * unit)
            text = axes.text(*axes.transData.inverted().transform(at), name, size=size, ha="left" if side > 0 else "right", va="center")
            box = text.get_window_extent(renderer)
            inside = axes.bbox.y0 < box.y0 and box.y1 < axes.bbox.y1 and axes.bbox.x0 < box.x0 and box.x1 < axes.bbox.x1
            if inside and at[1] <= lowest[round(x)] and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                lowest[round(x)] = at[1]
                if rise or out:
                    ends = axes.transData.inverted().transform([(x, y), (at[0] - 2 * side, at[1])])
                    axes.plot(*ends.T, color="0.35", lw=0.5, zorder=2)
                break
            text.remove()


def drawn(found: dict[str, Any], axes: Axes) -> list[tuple[float, float, str]]:
    """Everything but the names, which are returned with their places."""
    rows = [row for row in found["rows"] if "kl" in row]
    floor = min(row["kl"] for row in rows if row["kl"] > 0) / 3
    presses: dict[str, list[tuple[float, float]]] = defaultdict(list)
    points = []
    for row in rows:
        x, y = 100 * row["share"], max(row["kl"], floor)
        presses[row["press"]].append((x, y))
        axes.plot(x, y, SHAPES[kind_of(row["label"])], color="black", ms=4, mfc="black" if row["kl"] > 0 else "white", zorder=3)
        points.append((x, y, name_of(row) + ("" if row["kl"] > 0 else " (exact)")))
    for line in presses.values():
        axes.plot(*zip(*sorted(line), strict=True), color="0.8", lw=0.7, zorder=1)
    axes.set_yscale("log")
    axes.set_xlim(0, 112)
    axes.set_ylim(floor * 0.7, max(row["kl"] for row in rows) * 1.6)
    axes.set_xlabel("bytes held, % of the exact cache")
    axes.set_ylabel("KL of next-token distributions from exact to lossy, nats")
    axes.set_xticks(range(0, 101, 10))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.92", lw=0.6)
    axes.set_axisbelow(True)
    told = f"{found['model']}, {found['dtype']}: {found['prefixes']} prefixes of {found['context']} tokens, {found['questions']} questions behind each"
    axes.set_title(told + "\nlower left is better; circles keep some of the tokens, squares all in few bits, diamonds do otherwise", size=9, loc="left")
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    found = json.loads(given.file.read_text(encoding="utf-8"))
    if not any(row.get("kl") for row in found["rows"]):
        parser.error(f"{given.file} holds no fidelity: random weights have none")
    plt.rcParams |= {"svg.hashsalt": "presses", "font.size": 9}
    figure, axes = plt.subplots(figsize=(8, 7), layout="constrained")
    points = drawn(found, axes)
    figure.draw_without_rendering()  # settles where the axes lie
    figure.set_layout_engine("none")
    placed(axes, points)
    figure.savefig(given.out, dpi=150, metadata={"Date": None} if given.out.suffix == ".svg" else None, facecolor="white")


if __name__ == "__main__":
    main()

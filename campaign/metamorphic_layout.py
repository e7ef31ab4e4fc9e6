"""Scoring in batches and shards of other sizes: which rows a selection of any size would exchange, and whether rounding explains each of them.

A scorer promises that a row's number in another batch is within `TOLERANCE` of its own size, or of a hundredth of the rows' mean size where that is
more. A similarity to the target can be near zero where the vectors behind it are not: there the size is at least the rows' mean size. So two rows can
change places only if their numbers are that close. For every cut-off of 1 to N - 1 rows, each row that is kept under one layout and not under the
other must lie within twice that band of the number at the cut-off, and over all cut-offs together the kept sets must agree to `LEAST_JACCARD`.
Vectors count by their mean similarity to the target, which is what `top_k` ranks by.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from campaign.small_experiment import NAME, recipe
from campaign.tally import counts, ended

TOLERANCE = 1e-4
LEAST_JACCARD = 0.999
LAYOUTS = ((256, 512), (64, 2048), (100, 300), (1000, 8192))  # (rows of a shard, padded tokens of a batch); the plain ones are those of the product
SCORERS: dict[str, dict[str, Any]] = {
    **{name: {"name": name} for name in ("bm25", "dsir", "loss", "perplexity", "ifd", "margin", "grad_norm", "rds", "trak", "self_influence", "less")},
    "el2n": {"name": "el2n", "at": "every"},
    "forgetting": {"name": "forgetting"},
}
Numbers = np.ndarray[Any, Any]


def numbers_of(place: Path, seed: int, rows: int, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """What `top_k` ranks the rows by, by scorer and id, in the layout that stands in `curate.pipelines.score`."""
    from curate.pipelines.check import stages_of
    from curate.pipelines.launch import execute
    from curate.pipelines.select import read_selection
    from curate.recipe import Runtime, parse_recipe
    from curate.store import Store
    from curate.strict_yaml import load

    settings = {**recipe(seed, rows), "features": {name: SCORERS[name] for name in names}, "budgets": ["100%"], "baselines": []}
    settings["arms"] = {name: {_reads(name): name, "selector": "top_k"} for name in names}
    typed = parse_recipe(load(yaml.safe_dump(settings), "campaign"))
    execute(typed, Runtime(store=place / "store", runs=place / "runs", workers=1), place, until="select", command="", quiet=True)
    store, found = Store(place / "store"), {}
    for stage in stages_of(place / "runs" / NAME):
        artifact = store.find(stage["key"]) if stage["stage"] == "selection" else None
        if artifact is not None:
            kept = read_selection(artifact)
            found[stage["label"].split()[0]] = dict(zip(map(str, kept["id"]), map(float, kept["gain"]), strict=True))
    return found


def _reads(name: str) -> str:
    """Which of the fields of an arm takes this scorer's output."""
    from curate.registry import load

    output: str = load("scorers", name).output  # type: ignore[attr-defined]
    return output


def compared(one: dict[str, float], other: dict[str, float], least: float = 0.01) -> dict[str, Any]:
    """How far apart the numbers are, which rows flip at some cut-off, and what of that rounding does not explain; `least` size in units of the mean."""
    ids = sorted(one)
    if ids != sorted(other):
        return {"wrong": [f"{len(set(ids) ^ set(other))} rows have a number in one layout only"], "flips": 0, "jaccard": 0.0, "apart": 1.0}
    a, b = np.asarray([one[name] for name in ids]), np.asarray([other[name] for name in ids])
    size = np.maximum(np.abs(a), least * np.abs(a).mean())
    apart = float((np.abs(a - b) / size).max())
    ranks = [np.argsort(np.argsort(-values, kind="stable"), kind="stable") for values in (a, b)]
    wrong, flips, shared, union = [], 0, 0, 0
    cut_at = np.sort(a)[::-1]
    for cut in range(1, len(ids)):
        kept = [rank < cut for rank in ranks]
        flipped = np.flatnonzero(kept[0] != kept[1])
        flips, shared, union = flips + len(flipped), shared + int((kept[0] & kept[1]).sum()), union + int((kept[0] | kept[1]).sum())
        far = [row for row in flipped if abs(a[row] - cut_at[cut - 1]) > 2 * TOLERANCE * max(size[row], abs(cut_at[cut - 1]))]
        wrong += [f"row {ids[row]} flips at {cut} rows, {abs(a[row] - cut_at[cut - 1]):.3g} from the cut-off {cut_at[cut - 1]:.6g}" for row in far]
    jaccard = shared / union if union else 1.0
    if apart > TOLERANCE:
        wrong.append(f"a row is {apart:.2g} of its size from itself, more than {TOLERANCE:g}")
    if jaccard < LEAST_JACCARD:
        wrong.append(f"Jaccard {jaccard:.5f} over all cut-offs, less than {LEAST_JACCARD}")
    return {"wrong": wrong, "flips": flips, "jaccard": jaccard, "apart": apart}


def swept(scratch: Path, seed: int, rows: int, names: Sequence[str], layouts: Sequence[tuple[int, int]], say: Callable[[str], None]) -> dict[str, Any]:
    """Every scorer under every layout, against the product's own."""
    from curate.pipelines import score

    began, usual = time.monotonic(), (score.SHARD_ROWS, dict(score.MICRO_BATCH_TOKENS))
    plain, found = numbers_of(scratch, seed, rows, names), []
    try:
        for shard_rows, tokens in layouts:
            score.SHARD_ROWS, score.MICRO_BATCH_TOKENS = shard_rows, {**usual[1], "cpu": tokens}
            other = numbers_of(scratch, seed, rows, names)
            about = {"shard_rows": shard_rows, "tokens": tokens}
            found += [{"scorer": name, **about, **compared(plain[name], other[name], 0.01 if _reads(name) == "scores" else 1.0)} for name in names]
    finally:
        score.SHARD_ROWS, score.MICRO_BATCH_TOKENS = usual
    for name in names:
        mine = [one for one in found if one["scorer"] == name]
        worst, flips, least = max(one["apart"] for one in mine), sum(one["flips"] for one in mine), min(one["jaccard"] for one in mine)
        wrong = [line for one in mine for line in one["wrong"]]
        say(f"  {name}: at most {worst:.1e} of a row's size apart, {flips} flips over all cut-offs, all explained: {not wrong}, least Jaccard {least:.6f}")
        if wrong:
            say(f"  FAILED {name}: {wrong[0]}")
    bad = sum(bool(one["wrong"]) for one in found)
    counts = {"planned": len(found), "landed": len(found), "not_landed": 0, "passed": len(found) - bad, "failed": bad}
    return {**counts, "seconds": round(time.monotonic() - began, 1), "layouts": found}


def main(given: argparse.Namespace) -> int:
    """The part of `campaign.metamorphic` that changes layouts."""
    names = [given.only] if given.only else list(SCORERS)
    with tempfile.TemporaryDirectory() as folder:
        found = swept(Path(folder), given.seed, given.rows, names, LAYOUTS, lambda line: print(line, flush=True))
    print(f"metamorphic, layouts, seed {given.seed}: {counts(found)}")
    return ended(found, given.out, {"seed": given.seed, "rows": given.rows, **found})

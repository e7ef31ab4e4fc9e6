"""Change what must not matter, run the whole experiment, and compare: same selections, exports and trainings, bit for bit.

    python -m campaign.metamorphic [--variants 16] [--kind workers|files|place|environment|killed|store|all] [--only NAME] [--seed S] [--out r.json]
    python -m campaign.metamorphic --layouts [...]        scoring batches and shards of other sizes (campaign/metamorphic_layout.py)

A pool of generated rows, copies among them, is cut into files. Variants: one to four workers; files and sources in other orders, renamed, cut
elsewhere, as JSON lines or parquet; other folders for store and runs; other locales, time zones, HOME, PYTHONHASHSEED, OMP_NUM_THREADS; and a run
that is killed at a random operation on the file system and run again. Each is drawn from the seed, and drawn variants combine several of these. A
variant passes if its row ids, its selections, its exported rows, its trained weights and losses, and its evaluations have the bytes of the plain run.
One more runs the model in half precision in the plain run's store: it must have the bytes of such a run in a store of its own, and others than the plain.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from campaign.metamorphic_variant import KINDS, Variant, rows_of, run_variant, signature, variants_of
from campaign.tally import ended, words


@dataclass(frozen=True)
class Verdict:
    """One variant; it passed if it differs in nothing."""

    name: str
    landed: bool
    wrong: list[str] = field(default_factory=list)


def differing(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """A line for every part of the results that is not the same, in the order of the stages: the first one is nearest to the cause."""
    names = list(dict.fromkeys([*expected, *found]))
    return [f"{name} is {'other' if name in found and name in expected else 'missing or new'}" for name in names if found.get(name) != expected.get(name)]


def swept(scratch: Path, rows: Sequence[dict[str, str]], seed: int, variants: Sequence[Variant], say: Callable[[str], None]) -> dict[str, Any]:
    """The plain run, and every variant beside it."""
    began = time.monotonic()
    plain = scratch / "plain"
    ended = run_variant(Variant("plain"), plain, rows, seed)
    if ended.code:
        raise SystemExit(f"the plain run exits with {ended.code}: {ended.said[-600:]}")
    expected = signature(plain, Variant("plain"))
    say(f"  the plain run has {len(expected)} parts")
    verdicts = []
    for variant in variants:
        place = scratch / "variant"
        ended = run_variant(variant, place, rows, seed)
        if ended.code:
            wrong = [f"exits with {ended.code}: {ended.said[-300:]}"]
        elif variant.dtype:
            wrong = _beside(variant, place, scratch, rows, seed)
        else:
            wrong = differing(signature(place, variant), expected)
        shutil.rmtree(place)
        verdicts.append(Verdict(variant.name, ended.landed, wrong))
        if wrong:
            say(f"  FAILED {variant.name}: {'; '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''}")
        else:
            say(f"  {'passed' if ended.landed else 'NOT LANDED'} {variant.name}")
    return {
        "planned": len(variants),
        "landed": sum(one.landed for one in verdicts),
        "not_landed": sum(not one.landed for one in verdicts),
        "passed": sum(one.landed and not one.wrong for one in verdicts),
        "failed": sum(bool(one.wrong) for one in verdicts),
        "parts": len(expected),
        "seconds": round(time.monotonic() - began, 1),
        "variants": [asdict(one) for one in verdicts],
    }


def _beside(variant: Variant, own: Path, scratch: Path, rows: Sequence[dict[str, str]], seed: int) -> list[str]:
    """What a variant in the plain run's store differs in from the same in a store of its own, the folder `own`."""
    shared, expected = scratch / "shared", signature(own, variant)
    shutil.copytree(scratch / "plain" / "store", shared / "store")
    ended = run_variant(variant, shared, rows, seed)
    wrong = [f"exits with {ended.code}: {ended.said[-300:]}"] if ended.code else differing(signature(shared, variant), expected)
    shutil.rmtree(shared)
    return wrong + ([] if expected != signature(scratch / "plain", Variant("plain")) else ["it changes nothing, so that it shows nothing"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=int, default=16, help="how many, first one of each change, then drawn combinations")
    parser.add_argument("--kind", choices=(*KINDS, "all"), default="all")
    parser.add_argument("--only", default="", metavar="NAME", help="replay one variant, as it was named")
    parser.add_argument("--layouts", action="store_true", help="scoring batches and shards of other sizes instead")
    parser.add_argument("--seed", type=int, default=0, help="of the rows, the training and the variants")
    parser.add_argument("--rows", type=int, default=300, help="of the pool; scores come in shards of 256")
    parser.add_argument("--out", type=Path, help="write the counts and the failures here, as JSON")
    given = parser.parse_args(arguments)
    if given.layouts:
        from campaign.metamorphic_layout import main as layouts

        return layouts(given)
    chosen = [one for one in variants_of(given.seed, max(given.variants, 64)) if given.kind in ("all", *one.kinds)]
    chosen = [one for one in chosen if one.name == given.only] if given.only else chosen[: given.variants]
    with tempfile.TemporaryDirectory() as folder:
        found = swept(Path(folder), rows_of(given.seed, given.rows), given.seed, chosen, lambda line: print(line, flush=True))
    print(f"metamorphic, seed {given.seed}: {words(found)}, {found['parts']} parts compared in each, {found['seconds']} s")
    return ended(found, given.out, {"seed": given.seed, "rows": given.rows, **found})


if __name__ == "__main__":
    sys.exit(main())

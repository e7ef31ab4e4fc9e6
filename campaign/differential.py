"""Every selector against a naive reference on random instances, and the engine with its caches against the plain model.

    python -m campaign.differential [--instances 50] [--prompts 100] [--selector NAME] [--only NAME:N] [--seed S] [--out r.json]

Instances are small: a function of sets is compared with all sets that the budget allows, its certificate with the optimum; a rule is written down once
more in a few lines. Each also checks the budget, the certificate computed again, and a pool in another order. `cache` generates and weighs answers by
the engine that shares prefixes and batches, for random prompts in batches of random composition, and by the model alone without any cache: the same
tokens, and log-probabilities within 1e-4. `--only NAME:N` replays one instance.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from campaign.differential_engine import CACHE, Engine
from campaign.tally import counts, ended, total

Instance = Callable[[int], list[str]]
_MODULES = ("campaign.differential_sets", "campaign.differential_rules")


def references() -> dict[str, Instance]:
    """The reference of every selector that curate ships, by its name; KeyError where one has none."""
    from curate.registry import names

    known: dict[str, Instance] = {}
    for module in map(importlib.import_module, _MODULES):
        known |= {name: function for name, function in vars(module).items() if getattr(function, "__module__", "") == module.__name__}
    return {name: known[name] for name in names("selectors")}


def tried(name: str, instance: Instance, numbers: Sequence[int], seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The counts of one reference; what raises an error has failed too."""
    began, failures = time.monotonic(), []
    for number in numbers:
        try:
            wrong = instance(1_000_003 * seed + number)
        except Exception as error:  # whatever a method does with an instance that it ought to solve
            wrong = [f"{type(error).__name__}: {error}"]
        if wrong:
            failures.append({"number": number, "wrong": wrong})
            say(f"  FAILED {name}:{number}: {wrong[0][:300]}")
    count, bad = len(numbers), len(failures)
    return {
        "name": name,
        "planned": count,
        "landed": count,
        "not_landed": 0,
        "passed": count - bad,
        "failed": bad,
        "seconds": round(time.monotonic() - began, 1),
        "failures": failures,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=50, help="of every selector")
    parser.add_argument("--prompts", type=int, default=100, help="of the engine; 0 for none")
    parser.add_argument("--selector", default="", metavar="NAME", help=f"one selector, or {CACHE}")
    parser.add_argument("--only", default="", metavar="NAME:N", help="replay one instance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the counts and the failures here, as JSON")
    given = parser.parse_args(arguments)
    only, _, number = given.only.partition(":")
    wanted, found = only or given.selector, []
    numbers = [int(number)] if only else range(given.instances)
    for name, instance in references().items():
        if wanted in ("", name):
            found.append(tried(name, instance, numbers, given.seed, lambda line: print(line, flush=True)))
            print(f"{name}: {counts(found[-1])}", flush=True)
    if wanted in ("", CACHE) and given.prompts:
        engine = Engine.loaded()
        batches = [int(number)] if only else range(-(-given.prompts // engine.rows))
        found.append(tried(CACHE, engine.instance, batches, given.seed, lambda line: print(line, flush=True)))
        print(f"{CACHE}, {engine.prompts} prompts: {counts(found[-1])}; log-probabilities at most {engine.apart:.2g} apart", flush=True)
    sums = total(found)
    print(f"all, seed {given.seed}: {counts(sums)}")
    return ended(sums, given.out, {"seed": given.seed, "total": sums, "methods": found})


if __name__ == "__main__":
    sys.exit(main())

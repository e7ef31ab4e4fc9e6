"""Run the drivers of a tier one after the other, and say of each what it counted.

    python -m campaign.tiers commit|nightly|release [--seed S] [--only DRIVER] [--out r.json]

`commit` takes three minutes on two cores, `nightly` an hour, `release` as long as it needs. Each driver prints its own counts and failures; at the end
stands a line for each, with its exit code and its seconds. Exit 1 if any driver failed. Drivers that cannot run here say "skipped: ..." and count so.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_SHORT = {
    "crash_sweep": "--limit 4",
    "errno_sweep": "--stage select --errno ENOSPC --limit 2",
    "power_loss": "--stage select --limit 3 --draws 1",
    "config_fuzz": "--trials 500",
    "differential": "--instances 2 --prompts 20",
    "train_resume": "--way plain --steps 4 --random 1",
    "crash_random": "--mode driver --trials 1 --workers 1",
}
TIERS: dict[str, list[tuple[str, str]]] = {
    "commit": list(_SHORT.items()),
    "nightly": [
        ("crash_sweep", "--limit 24"),
        ("crash_sweep", "--mode torn --limit 8"),
        ("errno_sweep", "--limit 1"),
        ("power_loss", "--limit 6"),
        ("disk_full", "--sizes 8 --inodes 4 --limits 4"),
        ("crash_random", "--trials 1"),
        ("cluster_faults", "--n 1"),
        ("metamorphic", "--variants 9"),
        ("metamorphic", "--layouts"),
        ("train_resume", "--steps 8 --random 4"),
        ("differential", "--instances 100 --prompts 500"),
        ("config_fuzz", "--trials 10000 --cli 10"),
        ("bad_input", "--mutations 100"),
        ("security", "--limit 24"),
        ("export_faults", "--limit 40 --races 10"),
        ("slurm_one_node", ""),
        ("namespaces", ""),
        ("ssh_loopback", ""),
        ("teeth", ""),
        ("soak", "--minutes 5"),
    ],
    "release": [
        ("crash_sweep", ""),
        ("crash_sweep", "--mode torn"),
        ("errno_sweep", ""),
        ("power_loss", ""),
        ("disk_full", ""),
        ("crash_random", "--trials 100"),
        ("cluster_faults", "--n 50"),
        ("metamorphic", "--variants 64"),
        ("metamorphic", "--layouts"),
        ("train_resume", "--random 100"),
        ("differential", "--instances 500 --prompts 2000"),
        ("config_fuzz", "--trials 20000 --cli 300"),
        ("bad_input", "--mutations 5000 --tests"),
        ("security", ""),
        ("export_faults", "--races 50"),
        ("slurm_one_node", ""),
        ("namespaces", ""),
        ("ssh_loopback", ""),
        ("load", ""),
        ("teeth", ""),
        ("soak", "--minutes 60"),
    ],
}
_MOST_SECONDS = 6 * 3600  # of one driver


def run(driver: str, options: str, seed: int) -> dict[str, Any]:
    """One driver in a process of its own, which prints as it goes."""
    seeded = [] if driver in ("slurm_one_node", "namespaces", "ssh_loopback") else ["--seed", str(seed)]
    command = [sys.executable, "-m", f"campaign.{driver}", *options.split(), *seeded]
    print(f"== {' '.join(command[1:])}", flush=True)
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line.strip())
        code = process.wait(_MOST_SECONDS)
    last = next((line for line in reversed(lines) if line), "")
    return {"driver": driver, "options": options, "code": code, "seconds": round(time.monotonic() - began, 1), "last": last}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tier", choices=TIERS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="this driver of the tier")
    parser.add_argument("--out", type=Path, help="write the lines here, as JSON")
    given = parser.parse_args(arguments)
    wanted = [(driver, options) for driver, options in TIERS[given.tier] if given.only in (None, driver)]
    if not wanted:
        parser.error(f"{given.only} is not in {given.tier}; it has {', '.join(dict.fromkeys(driver for driver, _ in TIERS[given.tier]))}")
    found = [run(driver, options, given.seed) for driver, options in wanted]
    print(f"\n{given.tier}, seed {given.seed}")
    for one in found:
        state = "skipped" if one["last"].startswith("skipped") else "ok" if one["code"] == 0 else f"FAILED ({one['code']})"
        print(f"  {one['driver']} {one['options']}: {state}, {one['seconds']} s: {one['last'][:120]}")
    failed = [one for one in found if one["code"]]
    print(f"{len(found) - len(failed)} of {len(found)} drivers passed in {sum(one['seconds'] for one in found):.0f} s")
    if given.out:
        given.out.write_text(json.dumps({"tier": given.tier, "seed": given.seed, "drivers": found}, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

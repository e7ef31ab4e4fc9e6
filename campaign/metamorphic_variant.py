"""A variant of an experiment: what is changed that must not matter, how it is run, and the parts of its results that must be the same."""

import json
import random
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from campaign.command import curate, finish
from campaign.small_experiment import NAME, recipe
from campaign.trial import in_child
from curate.store import file_digest

KINDS = ("workers", "files", "place", "environment", "killed", "store")
_OPERATIONS = 220  # about as many as the stages up to the first models do; a kill that does not land is reported
_ENVIRONMENTS: tuple[dict[str, str], ...] = (
    {"LC_ALL": "C", "LANG": "C"},
    {"LC_ALL": "C.UTF-8", "TZ": "Pacific/Kiritimati"},
    {"TZ": "America/St_Johns", "PYTHONHASHSEED": "1"},
    {"HOME": "/nonexistent", "PYTHONHASHSEED": "4242"},
    {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
    {"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4", "PYTHONHASHSEED": "random"},
)


@dataclass(frozen=True)
class Files:
    """How the pool lies in files: how many, drawn from which seed, of which kinds, and whether each is a source of its own."""

    count: int = 3
    seed: int | None = None  # rows in the order in which they were made, files by their names
    parquet: bool = False  # every other file
    apart: bool = False


@dataclass(frozen=True)
class Variant:
    """What is other than in the plain run."""

    name: str
    workers: int = 1
    files: Files = Files()
    folders: tuple[str, str] = ("store", "runs")
    environment: dict[str, str] = field(default_factory=dict)
    kill: int = 0  # at which operation on the file system; 0 for none
    dtype: str = ""  # of the model; then the plain run's store is what is other than in a run with this type in a store of its own

    @property
    def kinds(self) -> list[str]:
        """Which sorts of change it makes."""
        plain = Variant("")
        changed = (self.workers != 1, self.files != plain.files, self.folders != plain.folders, bool(self.environment), bool(self.kill), bool(self.dtype))
        return [kind for kind, other in zip(KINDS, changed, strict=True) if other]


@dataclass(frozen=True)
class Ended:
    """How a variant's run ended; `landed` is false where it was to be killed and was not."""

    code: int
    said: str
    landed: bool = True


def variants_of(seed: int, count: int) -> list[Variant]:
    """One variant of every change, then combinations drawn from the seed."""
    singly = [Variant(f"{workers} workers", workers=workers) for workers in (2, 3, 4)]
    singly += [
        Variant("files in another order", files=Files(seed=1)),
        Variant("one file", files=Files(count=1)),
        Variant("seven files, renamed and shuffled", files=Files(7, seed=2)),
        Variant("sources apart, in another order", files=Files(4, seed=3, apart=True)),
        Variant("parquet beside JSON lines", files=Files(4, seed=4, parquet=True)),
        Variant("other folders", folders=("a store with spaces/and depth/s", "elsewhere/r")),
        Variant("killed and run again", kill=90),
        Variant("half precision in the same store", dtype="bfloat16"),
    ]
    singly += [Variant(f"environment {number}", environment=one) for number, one in enumerate(_ENVIRONMENTS)]
    order = [singly[0], *singly[3:], *singly[1:3]]  # more workers take long: two of the three come last
    return order[:count] + list(islice(_drawn(seed), max(0, count - len(order))))


def _drawn(seed: int) -> Iterator[Variant]:
    generator, number = random.Random(f"{seed} metamorphic"), 0
    while True:
        made = Variant(
            f"drawn {number}",
            workers=generator.choice((1, 1, 1, 2, 3)),
            files=Files(generator.randint(1, 9), generator.randrange(1000), generator.random() < 0.5, generator.random() < 0.5),
            folders=generator.choice((("store", "runs"), (f"s{number}", f"deep/er/r{number}"))),
            kill=generator.randint(1, _OPERATIONS) if generator.random() < 0.5 else 0,
        )
        yield replace(made, environment=generator.choice(_ENVIRONMENTS)) if not made.kill and generator.random() < 0.3 else made
        number += 1


def rows_of(seed: int, count: int) -> list[dict[str, str]]:
    """Generated rows; among them copies, and copies that differ in a column that is not read."""
    from curate.data.synthetic import instructions

    rows = list(instructions("pool", count, seed))
    return rows + rows[:5] + [row | {"skill": "copied"} for row in rows[3:9]]


def run_variant(variant: Variant, place: Path, rows: Sequence[dict[str, str]], seed: int) -> Ended:
    """Lay the files out and run the whole experiment, exports included."""
    place.mkdir(exist_ok=True)
    settings: dict[str, Any] = {**recipe(seed, len(rows)), "pool": _laid_out(variant.files, place / "data", rows)}
    if variant.dtype:
        settings["model"] = {**settings["model"], "dtype": variant.dtype}
    if variant.environment:
        return _by_command(variant, place, settings)
    killed = None
    if variant.kill:
        killed = in_child(lambda where: experiment(where, variant, settings), place, place / "notes-killed", variant.kill)
        if killed.code not in (0, -signal.SIGKILL):
            return Ended(killed.code, killed.said, False)
    ended = in_child(lambda where: experiment(where, variant, settings), place, place / "notes")
    return Ended(ended.code, ended.said, killed is None or killed.code == -signal.SIGKILL)


def _laid_out(files: Files, data: Path, rows: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Write the rows into files; the sources of the pool."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data.mkdir()
    order = list(rows)
    names = [f"part-{number}" for number in range(files.count)]
    if files.seed is not None:
        generator = random.Random(files.seed)
        generator.shuffle(order)
        names = [f"{generator.randrange(10**6):06d}-{name}" for name in names]
        generator.shuffle(names)
    paths = []
    for number, name in enumerate(names):
        mine = order[number * len(order) // files.count : (number + 1) * len(order) // files.count]
        as_table = files.parquet and number % 2
        paths.append(data / f"{name}.{'parquet' if as_table else 'jsonl'}")
        if as_table:
            pq.write_table(pa.Table.from_pylist(mine), paths[-1])
        else:
            paths[-1].write_text("".join(json.dumps(row) + "\n" for row in mine))
    if files.apart or files.parquet:
        return [{"path": f"data/{path.name}", "group": "kind"} for path in paths]
    return [{"path": "data", "group": "kind"}]


def experiment(place: Path, variant: Variant, settings: dict[str, Any]) -> None:
    """The run, and the export of every arm, in this process."""
    from curate.pipelines.launch import execute
    from curate.pipelines.publish import publish
    from curate.recipe import Runtime, parse_recipe
    from curate.strict_yaml import load

    store, runs = (place / name for name in variant.folders)
    typed = parse_recipe(load(yaml.safe_dump(settings), "campaign"))
    execute(typed, Runtime(store=store, runs=runs, workers=variant.workers), place, until="", command="curate run small.yaml", quiet=True)
    for arm in typed.arms:
        publish(runs / NAME, store, arm, place / "exported" / arm, budget=None, seed=None, overwrite=True)


def _by_command(variant: Variant, place: Path, settings: dict[str, Any]) -> Ended:
    """The same by the command line, in processes with another environment."""
    (place / f"{NAME}.yaml").write_text(yaml.safe_dump(settings))
    store, runs = variant.folders
    folders = ("--store", store, "--runs", runs)
    commands: list[tuple[object, ...]] = [("run", f"{NAME}.yaml", *folders, "--workers", variant.workers, "--quiet", "--device", "cpu")]
    commands += [("export", NAME, arm, f"exported/{arm}", *folders) for arm in settings["arms"]]
    said = place / "said.txt"
    for command in commands:
        code, _ = finish(curate(*command), place, said, variant.environment)
        if code:
            return Ended(code, said.read_text(errors="replace")[-2000:])
    return Ended(0, "")


def signature(place: Path, variant: Variant) -> dict[str, str]:
    """A hash of every part of the results that must not change, by its name."""
    from curate.data.examples import open_examples
    from curate.pipelines.check import check, stages_of

    store, runs = (place / name for name in variant.folders)
    check(runs / NAME, store)
    found = {}
    for stage in stages_of(runs / NAME):
        folder, name = store / stage["key"], f"{stage['stage']}, {stage['label']}"
        if stage["stage"] == "examples":
            examples = open_examples(folder)
            found[name] = _hash(json.dumps([examples.ids.tolist(), examples.groups.tolist(), examples.lengths.tolist()]))
        else:
            files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in ("manifest.json", "built.json"))
            found[name] = _hash(json.dumps([[str(path.relative_to(folder)), _content(path)] for path in files]))
    for path in sorted((place / "exported").glob("*/data/*")):
        found[f"exported, {path.parent.parent.name}, {path.name}"] = file_digest(path)
    return found


def _content(path: Path) -> str:
    """The hash of a file; the sidecar of a shard without the artifact that it belongs to, whose name holds what must not matter."""
    if path.suffix == ".json" and path.with_suffix("").is_file():
        sidecar = json.loads(path.read_bytes())
        return _hash(json.dumps({name: value for name, value in sidecar.items() if name != "artifact"}, sort_keys=True))
    return file_digest(path)


def _hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()

"""Data that cannot be used (D01 to D22): the file, the line or the column, the reason, and what to do."""

import gzip
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from campaign.catalogue import PREPARE, TINY, Arrange, Case, Shown, Skipped
from campaign.data_files import footless, forged_page, gzip_bomb, huge_row, parquet_bomb, parquet_of

RECIPE = """name: bad
pool: {POOL}
target: {rare: {TARGET}}
model: {path: MODEL, max_length: 128}
budgets: [4]
evaluate: {task: likelihood, data: {TEST}}
"""
ROWS = [{"prompt": f"What is {i} plus {i}?", "completion": f"It is {2 * i}."} for i in range(30)]


def lines(*rows: Any) -> bytes:
    """JSON lines of these rows; bytes are lines as they are."""
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


# id, the pool's bytes, the pool's source beside its path, and what is said
UNUSABLE: list[tuple[str, bytes, str, str]] = [
    ("D01-empty", b"", "", "pool.jsonl: it has no rows; check the path and the filter"),
    ("D01-filtered", lines(*ROWS), "where: {prompt: x}", "pool.jsonl: no row is left of 30 (prompt: 'x' matches 0); check the path and the filter"),
    ("D01-aside", lines(*[{"prompt": "a", "completion": ""}] * 5), "", "100.0% of 5 rows were set aside (empty_text 5; for example pool.jsonl:"),
    ("D02-columns", lines({"foo": 1, "bar": 2}), "", "the columns ('foo', 'bar') are not those of any known format; known are messages"),
    ("D02-ambiguous", lines({**ROWS[0], "instruction": "c", "output": "d"}), "",
     "can be read as prompt_completion (prompt -> completion); as alpaca (instruction -> output). Choose with format: prompt_completion or format: alpaca"),
    ("D02-format", lines(*ROWS), "format: alpaca", "are not those of format alpaca; known are alpaca (instruction+output or instruction+response), or"),
    ("D02-id", lines(*ROWS), "id: uid", "pool.jsonl: id: there is no column 'uid'; the columns are 'prompt', 'completion'"),
    ("D02-where", lines(*ROWS), "where: {kind: a}", "pool.jsonl: where: there is no column 'kind'; the columns are 'prompt', 'completion'"),
    ("D02-template", lines(*ROWS), "prompt: '{q}', completion: '{a}'", "prompt or completion: there is no column 'q'; the columns are 'prompt', 'completion'"),
    ("D02-nested", lines({"prompt": {"a": 1}, "completion": "x"}), "", "column 'prompt' of prompt_completion (prompt -> completion) holds dict, not text; "),
    ("D05", lines({**ROWS[0], "id": "a"}, {**ROWS[1], "id": "b"}, {**ROWS[2], "id": "a"}), "id: id",
     "id 'a' is that of pool.jsonl:1 and of pool.jsonl:3; make the id column unique, or leave out id"),
    ("D05-no-id", lines({**ROWS[0], "id": None}), "id: id", "pool.jsonl:1: None in column 'id' is no id; ids are 1 to 256 printable characters"),
    ("D14-json", lines(*ROWS[:4], b'{"prompt": "a" "b"}', *ROWS), "",
     "pool.jsonl:5: bad_json (Expecting ',' delimiter at character 16); mend the line, or set hygiene.on_bad_row: quarantine to leave it out"),
    ("D14-nan", lines(*ROWS, b'{"prompt": NaN}'), "", "pool.jsonl:31: bad_json (NaN is not JSON)"),
    ("D14-twice", lines(*ROWS, b'{"prompt": "a", "prompt": "b"}'), "", "pool.jsonl:31: bad_json (a key appears twice in one object)"),
    ("D14-deep", lines(*ROWS, b"[" * 100_000), "", "pool.jsonl:31: bad_json (values are nested too deep)"),
    ("D14-digits", lines(*ROWS, b'{"prompt": ' + b"9" * 5000 + b"}"), "", "pool.jsonl:31: bad_json (a number has too many digits)"),
    ("D14-list", lines(*ROWS, b"[1]"), "", "pool.jsonl:31: bad_json (a JSON object was expected, not list)"),
    ("D02-split", lines(*ROWS), "split: train", "pool.jsonl: split 'train' needs a Hub dataset or a saved DatasetDict; use where, limit or sample for files"),
]  # fmt: skip

# id, the one bad row of 31, its reason, and what its detail says
ASIDE = [
    ("D03", {"prompt": " ", "completion": "x"}, "empty_text", "a turn of the user is blank"),
    ("D03-null", {"prompt": None, "completion": "x"}, "empty_text", "column 'prompt' is null or absent"),
    ("D04", {"prompt": "word " * 200, "completion": "x"}, "too_long", "tokens, at most 128"),
    ("D07-surrogate", {"prompt": "\ud800", "completion": "x"}, "bad_unicode", r"character 0 is '\ud800'"),
    ("D07-bytes", b'{"prompt": "\xff", "completion": "x"}', "bad_unicode", r"character 0 is '\udcff'"),
    ("D07-nul", {"prompt": "a\x00", "completion": "x"}, "bad_unicode", r"character 1 is '\x00'"),
    ("D09", {"prompt": "a" * 2**21, "completion": "x"}, "too_large", "bytes, at most 1048576 are read"),
]

PACKED = gzip.compress(lines(*ROWS))
# id, the pool's file, its bytes, and what is said
FILES = [
    ("D02-kind", "pool.xlsx", b"x", "this kind of file is not read; the kinds are .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow"),
    ("D12-footer", "pool.parquet", b"PAR1" + b"x" * 50, "pool.parquet: cannot be read (ArrowInvalid: 'Parquet magic bytes not found"),
    ("D12-cut", "pool.parquet", footless(parquet_of(ROWS)), "pool.parquet: cannot be read (ArrowInvalid: 'Parquet magic bytes not found"),
    ("D12-short", "pool.parquet", b"PAR1", "pool.parquet: cannot be read (ArrowInvalid: 'Parquet file size is 4 bytes"),
    ("D15-truncated", "pool.jsonl.gz", PACKED[:-20], "pool.jsonl.gz: cannot be read (OSError: 'Truncated compressed stream'); the file is damaged or not of"),
    ("D02-csv-header", "pool.csv", b"a,a\n1,2\n", "pool.csv:1: the first line must name each column once; it is 'a', 'a'"),
    ("D02-csv-quote", "pool.csv", b'prompt,completion\n"a,b\n', "pool.csv:2: is not CSV (unexpected end of data); quote values that hold"),
    ("D02-csv-values", "pool.csv", b"prompt,completion\na,b\nc\n", "pool.csv:3: bad_csv (1 values for 2 columns); mend the line, or set hygiene.on_bad_row"),
]

# id, the makers of the pool's file, its name, the exit code, and what is said
BIG: list[tuple[str, Callable[[], bytes], str, int, str]] = [
    ("D09-parquet", lambda: huge_row(200), "pool.parquet", 3, "were set aside (too_large 1; for example pool.parquet:30: too_large, "),
    ("D10", lambda: parquet_bomb(100, 1600), "pool.parquet", 3, "pool.parquet: cannot be read (ArrowMemoryError: "),
    ("D11", forged_page, "pool.parquet", 3, "pool.parquet"),
    ("D15-bomb", lambda: gzip_bomb(1152), "pool.jsonl.gz", 3, "pool.jsonl.gz: unpacks to more than 200 times its size; it is not read, unpack it yourself"),
]

SHOWN = [
    Shown("D06", "tests/data/test_examples.py::test_ids_and_order_do_not_depend_on_files_order_shards_or_format"),
    Shown("D08", "tests/data/test_template.py::test_special_tokens_in_text_are_text"),
    Shown("D13", "tests/data/test_read.py::test_a_flipped_bit_in_a_parquet_with_checksums_is_found"),
    Shown("D13-plain", "tests/data/test_source.py::test_the_fingerprint_follows_content_and_not_place"),
    Shown("D14-number", "tests/data/test_read.py::test_a_bad_line_is_an_error_with_its_number_or_is_quarantined"),
    Shown("D20", "tests/safety/test_pickles.py::test_a_column_type_that_is_a_pickle_is_not_made"),
]


def recipe_for(pool: str = "path: pool.jsonl", **places: str) -> str:
    """The recipe with this pool, and other sources where they are given."""
    found = RECIPE
    given = {"POOL": pool, "TARGET": "synthetic: target, rows: 8", "TEST": "synthetic: test, rows: 8", "MODEL": str(TINY)} | places
    for place, value in given.items():
        found = found.replace(place, value)
    return found


def files(**contents: bytes | Callable[[], bytes]) -> Arrange:
    """Put these files there; `pool_jsonl_gz` is pool.jsonl.gz."""

    def arrange(place: Path) -> None:
        for name, content in contents.items():
            (place / name.replace("_", ".")).write_bytes(content if isinstance(content, bytes) else content())

    return arrange


def cases() -> list[Case | Shown | Skipped]:
    """Pools that are refused, rows that are set aside, files that cannot be read, and what must not change the ids."""
    return [*_refused(), *_aside(), *_unreadable(), *_several(), *_same_ids(), _lost_and_doubled(), *SHOWN]


def _refused() -> list[Case]:
    return [
        Case(name, recipe_for(f"path: pool.jsonl, {fields}" if fields else "path: pool.jsonl"), PREPARE, 3, (said,), files(pool_jsonl=content))
        for name, content, fields, said in UNUSABLE
    ]


def _aside() -> list[Case]:
    found = []
    for name, row, reason, detail in ASIDE:
        remedy = "raise model.max_length (now 128)" if reason == "too_long" else "mend them"
        said = (f"pool: 3.2% of 31 rows were set aside ({reason} 1; for example pool.jsonl:31: {reason}, ", detail, f"the limit is 1%: {remedy} or raise")
        place = files(pool_jsonl=lines(*ROWS, row))
        found.append(Case(name, recipe_for(), PREPARE, 3, said, place))
        limit = ("run", "bad.yaml", "hygiene.quarantine_limit=5%", *PREPARE[2:])
        found.append(Case(f"{name}-limit", recipe_for(), limit, 0, (), place, look=_counted("pool", {reason: 1}, 30)))
    user, tool = {"role": "user", "content": "a"}, {"role": "tool", "content": "b"}
    turns = files(pool_jsonl=lines(*({"messages": turns} for turns in ([user], [user, user], [tool]))))
    said = ("bad_roles 3", "wanted: an optional system turn, then user and assistant in turn", "no row is left: mend the data")
    return [*found, Case("D19", recipe_for(), PREPARE, 3, said, turns)]


def _unreadable() -> list[Case]:
    found = [Case(name, recipe_for(f"path: {file}"), PREPARE, 3, (said,), files(**{file.replace(".", "_"): raw})) for name, file, raw, said in FILES]
    found += [Case(name, recipe_for(f"path: {file}"), PREPARE, code, (said,), files(**{file.replace(".", "_"): make})) for name, make, file, code, said in BIG]
    pipe = "pipe.jsonl is no regular file, so it cannot be read twice; copy it to one"
    found.append(Case("D12-pipe", recipe_for("path: pipe.jsonl"), PREPARE, 3, (pipe,), lambda place: os.mkfifo(place / "pipe.jsonl")))
    for role in ("POOL", "TARGET", "TEST"):
        for number, missing in enumerate(("rows.jsonl", "none*.jsonl", "pool.jsonl/rows.jsonl")):
            said = f"error: {missing}: no data file matches {{}}/{missing}; {{}} holds 'bad.yaml', 'pool.jsonl'"
            recipe = recipe_for(**{role: f"path: '{missing}'"}) if role != "POOL" else recipe_for(f"path: '{missing}'")
            found.append(Case(f"C15-{role.lower()}-{number}", recipe, PREPARE, 3, (said,), files(pool_jsonl=lines(*ROWS))))
    return found


def _several() -> list[Case]:
    """What is wrong between files, or between pool, target and evaluation."""
    rows, questions = lines(*ROWS), lines({"question": "a", "answer": "b"})
    formats = "pool2.jsonl: reads as question_answer (question -> answer), but pool.jsonl as prompt_completion (prompt -> completion); make them"
    typed = lines({"prompt": 1, "completion": "x"})
    numbers = "pool2.jsonl: column 'prompt' holds int, but str in {}/pool.jsonl; make them separate sources or convert one"
    overlap = "evaluation likelihood: fewer than two of its 8 items are not target rows; evaluate on other data than the target"
    secret = lines(*({**row, "file_name": "../../../../etc/passwd"} for row in ROWS))
    hub = ("hub dataset org/name: ", "go online or give revision: COMMIT")
    return [
        Case("D18", recipe_for("path: 'pool*.jsonl'"), PREPARE, 3, (formats,), files(pool_jsonl=rows, pool2_jsonl=questions)),
        Case("D18-type", recipe_for("path: 'pool*.jsonl'"), PREPARE, 3, (numbers,), files(pool_jsonl=rows, pool2_jsonl=typed)),
        Case("D21", recipe_for(TEST="synthetic: target, rows: 8"), PREPARE, 3, (overlap,), files(pool_jsonl=rows)),
        Case("D21-pool", recipe_for(TEST="path: pool.jsonl"), PREPARE, 0, (), files(pool_jsonl=rows), look=_told_of_overlap),
        Case("D22", recipe_for(), PREPARE, 0, (), files(pool_jsonl=secret), look=_counted("pool", {}, 30)),
        Case("D02-hub", recipe_for("hub: org/name"), PREPARE, 3, hub),
        Case("D16", recipe_for(), PREPARE, 8, ("pool: the files changed while they were read; leave them alone",), files(pool_jsonl=rows), patches=MEDDLED),
    ]


def _same_ids() -> list[Case]:
    """Ids that neither order, files nor format change: two pools, one set of ids."""
    other = recipe_for("path: 'part*.*'")
    first = ("run", "bad.yaml", "pool={path: pool.jsonl}", *PREPARE[2:])
    turned = files(pool_jsonl=lines(*ROWS), parta_jsonl=lines(*ROWS[:9:-1]), partb_parquet=parquet_of(ROWS[:10]))
    byte = files(pool_jsonl=lines(*ROWS, {"prompt": "e\u0301 \u202e\U0001f600", "completion": "\u00e9"}))
    return [
        Case("D17", other, PREPARE, 0, (), turned, look=_one_id_set, again=(first,)),
        Case("D07-kept", recipe_for(), PREPARE, 0, (), byte, look=_counted("pool", {}, 31)),
    ]


def _lost_and_doubled() -> Case:
    """Features that hold a row twice and another one not at all: their numbers add up and their hashes fit, and only the ids show it."""
    more = "features: {surprise: loss}\narms: {hard: {scores: surprise, selector: top_k}}\n"
    scored = ("run", "bad.yaml", "--until", "score", "--quiet", "--workers", "1")
    said = ("store/features-", ": its scored and set-aside rows are not those of its examples")
    shown = {"curate.pipelines.score.shard_bytes": _one_row_twice}
    return Case("D05-stored", recipe_for() + more, ("verify", "bad"), 8, said, files(pool_jsonl=lines(*ROWS)), lines=2, patches=shown, again=(scored,))


def _one_row_twice() -> Callable[..., bytes]:
    """A scorer that takes the last row of a shard for its first."""
    from curate.features import shard_bytes

    return lambda rows, *rest: shard_bytes(np.concatenate([rows[:-1], rows[:1]]), *rest)


def _meddled() -> Callable[..., Any]:
    """A reader that adds a row to the file once it has read it."""
    from curate.data.load import load

    def read(*arguments: Any, **options: Any) -> Any:
        yield from load(*arguments, **options)
        with open("pool.jsonl", "ab") as file:
            file.write(lines(ROWS[0]))

    return read


MEDDLED: Mapping[str, Callable[[], Any]] = {"curate.pipelines.prepare.load": _meddled}


def _pools(place: Path) -> list[dict[str, Any]]:
    """What the store says of the pools that were read."""
    from curate.store import read_json

    found = [read_json(path) | {"path": path.parent} for path in sorted((place / "store").glob("examples-*/manifest.json"))]
    return [one for one in found if one["summary"]["rows_in"] >= len(ROWS)]


def _counted(role: str, aside: Mapping[str, int], used: int) -> Callable[[Path], list[str]]:
    def look(place: Path) -> list[str]:
        from curate.data.examples import open_examples, quarantined

        (pool,) = _pools(place)
        reasons = [str(row["reason"]) for row in quarantined(pool["path"])]
        found = len(open_examples(pool["path"]).ids), {reason: reasons.count(reason) for reason in reasons}
        return [] if found == (used, dict(aside)) else [f"the {role} has (used, aside) {found}, not {(used, dict(aside))}"]

    return look


def _one_id_set(place: Path) -> list[str]:
    from curate.data.examples import open_examples

    found = [open_examples(pool["path"]).ids.tolist() for pool in _pools(place)]
    return [] if len(found) == 2 and found[0] == found[1] and len(set(found[0])) == len(ROWS) else [f"{len(found)} pools have other ids"]


def _told_of_overlap(place: Path) -> list[str]:
    said = "are also in the pool, word for word: scores on them measure memory"
    return [] if said in (place / "runs" / "bad" / "report.md").read_text() else ["the report does not tell of rows that are in pool and evaluation"]

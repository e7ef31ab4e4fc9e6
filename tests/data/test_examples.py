"""Examples on disk: stable ids, an account of every row, and rows that are read when they are asked for."""

import json
import pickle
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.core import Row
from curate.data.conversation import Conversation, Rejection
from curate.data.examples import check_quarantine, conversations, open_examples, quarantined, sources
from curate.data.ledger import reconcile
from curate.data.load import Parsed
from curate.data.read import RawRow
from curate.data.source import Source
from curate.data.template import Encoder
from curate.data.writer import write_examples
from curate.errors import DataError, IntegrityError

Prepare = Callable[..., tuple[Path, dict[str, Any]]]
Jsonl = Callable[..., Source]

ROWS = [{"instruction": f"ask {number % 90}", "output": f"say {number % 90}", "n": number} for number in range(100)]


def contents(path: Path) -> list[tuple[Any, ...]]:
    """All that an example set says, in its order."""
    examples = open_examples(path)
    rows = [(row.input_ids.tolist(), row.supervised.tolist()) for row in examples.rows]
    everything = range(len(examples))
    return list(zip(examples.ids, examples.lengths, examples.supervised, examples.groups, rows, map(json.dumps, sources(path, everything)), strict=True))


def test_rows_come_back_as_they_were_encoded(prepare: Prepare, jsonl: Jsonl, encoder: Encoder) -> None:
    path, summary = prepare(jsonl("rows.jsonl", ROWS), shard_rows=7)
    examples = open_examples(path)
    assert len(examples) == len(set(examples.ids)) == 100 == summary["rows_in"] == summary["used"]
    assert sorted(examples.ids) == examples.ids.tolist()
    assert len(list(path.glob("rows-*.arrow"))) == 15
    for index, (fields, turns) in enumerate(zip(sources(path, range(100)), conversations(path, range(100)), strict=True)):
        assert turns == [{"role": "user", "content": fields["instruction"]}, {"role": "assistant", "content": fields["output"]}]
        expected, found = encoder.row(turns), examples.rows[index]
        assert expected is not None
        assert found.input_ids.dtype == np.int32 and found.supervised.dtype == np.bool_
        assert found.input_ids.tolist() == expected.input_ids.tolist() and found.supervised.tolist() == expected.supervised.tolist()
        assert (examples.lengths[index], examples.supervised[index]) == (len(found.input_ids), found.supervised.sum())
    assert summary["tokens"] == examples.lengths.sum() and summary["supervised_tokens"] == examples.supervised.sum()
    assert summary == json.loads(json.dumps(summary))


def test_examples_slice_and_pickle(prepare: Prepare, jsonl: Jsonl) -> None:
    path, _ = prepare(jsonl("rows.jsonl", ROWS))
    rows = open_examples(path).rows
    assert [row.input_ids.tolist() for row in rows[90:95]] == [rows[index].input_ids.tolist() for index in range(90, 95)]
    assert pickle.loads(pickle.dumps(rows))[3].input_ids.tolist() == rows[3].input_ids.tolist()
    assert len(pickle.dumps(rows)) < 5000


def test_ids_and_order_do_not_depend_on_files_order_shards_or_format(prepare: Prepare, jsonl: Jsonl, tmp_path: Path) -> None:
    one, _ = prepare(jsonl("rows.jsonl", ROWS, group="label:g"))
    parts = [jsonl(f"part-{name}.jsonl", rows, group="label:g") for name, rows in (("z", ROWS[:30]), ("y", ROWS[:29:-1]))]
    pq.write_table(pa.Table.from_pylist(ROWS[::-1]), tmp_path / "rows.parquet")
    others = [
        prepare(*parts, shard_rows=3),
        prepare(*reversed(parts)),
        prepare(Source(path="part-*.jsonl", group="label:g")),
        prepare(Source(path="rows.parquet", group="label:g")),
    ]
    assert all(contents(other) == contents(one) for other, _ in others)


def test_repeats_are_numbered_and_ids_ignore_other_columns(prepare: Prepare, jsonl: Jsonl) -> None:
    with_n, _ = prepare(jsonl("a.jsonl", ROWS))
    without, _ = prepare(jsonl("b.jsonl", [{"question": row["instruction"], "answer": row["output"]} for row in ROWS]))
    ids = open_examples(with_n).ids
    assert ids.tolist() == open_examples(without).ids.tolist()
    assert sum(name.endswith("-1") for name in ids) == 10 and {len(name.partition("-")[0]) for name in ids} == {32}


def test_adding_rows_leaves_the_ids_of_others_alone(prepare: Prepare, jsonl: Jsonl) -> None:
    few, _ = prepare(jsonl("a.jsonl", ROWS[:50]))
    many, _ = prepare(jsonl("b.jsonl", ROWS))
    assert set(open_examples(few).ids) < set(open_examples(many).ids)


def test_own_ids_are_kept_and_sorted(prepare: Prepare, jsonl: Jsonl) -> None:
    path, _ = prepare(jsonl("a.jsonl", ROWS, id="n"))
    assert open_examples(path).ids.tolist() == sorted(str(number) for number in range(100))
    assert all(str(fields["n"]) == name for name, fields in zip(open_examples(path).ids, sources(path, range(100)), strict=True))


def test_a_repeated_id_names_both_places(prepare: Prepare, jsonl: Jsonl) -> None:
    rows = [{"question": str(number), "answer": "a", "key": f"k{number}"} for number in range(300)]
    rows[280]["key"] = "k3"
    with pytest.raises(DataError, match="id 'k3' is that of a.jsonl:4 and of a.jsonl:281"):
        prepare(jsonl("a.jsonl", rows, id="key"))


GOOD = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


def turns(*said: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in said]}


BAD: list[tuple[str, Any]] = [
    ("empty_text", turns(("user", "q"), ("assistant", None))),
    ("empty_text", turns(("user", " "), ("assistant", "a"))),
    ("empty_text", {"messages": None}),
    ("empty_text", {"other": 1}),
    ("bad_unicode", turns(("user", "\ud800"), ("assistant", "a"))),
    ("bad_unicode", turns(("user", "\0"), ("assistant", "a"))),
    ("bad_unicode", b'{"messages": [{"role": "user", "content": "\xff"}, {"role": "assistant", "content": "a"}]}'),
    ("bad_roles", turns(("user", "q"))),
    ("bad_roles", turns(("user", "q"), ("user", "q"), ("assistant", "a"))),
    ("bad_roles", {"messages": []}),
    ("bad_roles", turns(("\x1b[31m\ud800" * 50, "q"), ("assistant", "a"))),
    ("bad_type", {"messages": "q"}),
    ("bad_type", {"messages": ["q"]}),
    ("too_long", turns(("user", "q"), ("assistant", "word " * 400))),
    ("too_large", turns(("user", "q"), ("assistant", "a" * 2**21))),
    ("too_large", {**GOOD, "other": "a" * 2**24}),
    ("bad_json", b'{"messages": ['),
    ("bad_json", b"\xff\xfe"),
]


@pytest.mark.parametrize(("reason", "row"), BAD)
def test_a_bad_row_is_set_aside_and_the_others_are_used(prepare: Prepare, jsonl: Jsonl, reason: str, row: Any) -> None:
    path, summary = prepare(jsonl("a.jsonl", [GOOD, row, GOOD]), on_bad_row="quarantine")
    assert (summary["rows_in"], summary["used"], summary["quarantined"]) == (3, 2, {reason: 1})
    (found,) = quarantined(path)
    assert found["reason"] == reason and found["origin"] == "a.jsonl:2" and found["detail"].isprintable()
    ids = open_examples(path).ids.tolist()
    assert ids[0].partition("-")[0] == ids[1].partition("-")[0] and len({*ids, found["id"]}) == 3


def test_bad_rows_have_stable_distinct_ids_too(prepare: Prepare, jsonl: Jsonl) -> None:
    rows = [row for _, row in BAD] * 2
    first, summary = prepare(jsonl("a.jsonl", [GOOD, *rows], group="label:g"), on_bad_row="quarantine")
    second, _ = prepare(jsonl("b.jsonl", [*reversed(rows), GOOD], group="label:g"), on_bad_row="quarantine")
    assert sum(summary["quarantined"].values()) == 2 * len(BAD) == len({row["id"] for row in quarantined(first)})
    assert [(row["id"], row["reason"]) for row in quarantined(first)] == [(row["id"], row["reason"]) for row in quarantined(second)]


def test_texts_round_trip_exactly(prepare: Prepare, jsonl: Jsonl) -> None:
    texts = ["caf\u00e9", "cafe\u0301", "\U0001f469\u200d\U0001f680", "\u05e9\u05dc\u05d5\u05dd\u200f", "a\u200bb", " \ttrailing \n", "\x1b[31mred", "\ufeff."]
    path, _ = prepare(jsonl("a.jsonl", [{"question": text, "answer": text} for text in texts], group="question"))
    examples = open_examples(path)
    assert len(set(examples.ids)) == len(texts)
    assert sorted(turn["content"] for said in conversations(path, range(len(texts))) for turn in said) == sorted(texts * 2)
    assert sorted(examples.groups) == sorted(texts)


def test_a_group_that_is_not_unicode_is_spelled_out(prepare: Prepare, jsonl: Jsonl) -> None:
    path, _ = prepare(jsonl("a.jsonl", [b'{"question": "q", "answer": "a", "kind": "\xff"}'], group="kind"))
    assert open_examples(path).groups.tolist() == ["\\udcff"]


def test_groups_special_tokens_and_odd_values_are_accounted_for(prepare: Prepare, tmp_path: Path) -> None:
    import datetime
    import decimal

    table = {
        "text": ["one <|end|>", "two", "three"],
        "label": ["a", "a", "<|start|>"],
        "png": [b"\x89P", None, b""],
        "day": [datetime.date(2024, 1, 2)] * 3,
        "price": [decimal.Decimal("1.50")] * 3,
    }
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    path, summary = prepare(Source(path="rows.parquet", group="label"))
    assert summary["groups"] == {"a": 2, "<|start|>": 1} and summary["special_tokens_escaped"] == 2
    fields = {row["text"]: row for row in sources(path, range(3))}
    assert fields["one <|end|>"] == {"text": "one <|end|>", "label": "a", "png": "8950", "day": "2024-01-02", "price": "1.50"}


def test_plain_text_and_token_rows_are_stored_but_have_no_turns(prepare: Prepare, jsonl: Jsonl) -> None:
    for source in (jsonl("a.jsonl", [{"text": "some text"}]), jsonl("b.jsonl", [{"input_ids": [5, 6], "labels": [-100, 6]}])):
        path, summary = prepare(source)
        assert summary["used"] == 1 and len(open_examples(path).rows[0].input_ids) == summary["tokens"]
        with pytest.raises(DataError, match="no question and answer"):
            conversations(path, [0])


class Faulty:
    """An encoder that loses or makes up outcomes."""

    max_length = 512

    def __init__(self, encoder: Encoder, change: int) -> None:
        self.encoder, self.change = encoder, change

    def encode(self, conversations: Sequence[Conversation]) -> list[Row | Rejection]:
        found = self.encoder.encode(conversations)
        return found[: self.change] if self.change < 0 else found + found[: self.change]

    def special_tokens_in(self, conversation: Conversation) -> int:
        return 0


@pytest.mark.parametrize("change", [-1, 1])
def test_an_encoder_that_loses_or_invents_rows_is_found_out(prepare: Prepare, jsonl: Jsonl, encoder: Encoder, change: int) -> None:
    with pytest.raises(IntegrityError, match="do not reconcile"):
        prepare(jsonl("a.jsonl", ROWS), with_encoder=Faulty(encoder, change))


@pytest.mark.parametrize(("used", "aside"), [(["a", "b"], []), (["a", "b"], ["b"]), (["a", "d"], ["c"]), (["a", "b", "c"], ["c"]), (["a", "a"], ["c"])])
def test_equal_counts_are_not_enough_to_reconcile(used: list[str], aside: list[str]) -> None:
    reconcile(np.array(["a", "b", "c"]), np.array(["c", "a"]), np.array(["b"]))
    with pytest.raises(IntegrityError, match="do not reconcile"):
        reconcile(np.array(["a", "b", "c"]), np.array(used, np.str_), np.array(aside, np.str_))


@pytest.mark.parametrize("name", ["index.parquet", "rows-00000.arrow"])
def test_a_damaged_or_missing_file_is_named(prepare: Prepare, jsonl: Jsonl, name: str) -> None:
    for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-20])):
        path, _ = prepare(jsonl("a.jsonl", ROWS))
        damage(path / name)
        with pytest.raises(IntegrityError, match=name):
            open_examples(path).rows[0]


def test_too_many_rows_set_aside_stop_the_run_with_advice() -> None:
    summary = {"rows_in": 1000, "used": 769, "quarantined": {"empty_text": 12, "too_long": 219}, "max_length": 512}
    check_quarantine(summary, 0.231, "pool")
    with pytest.raises(DataError) as refusal:
        check_quarantine(summary, 0.01, "pool")
    assert str(refusal.value) == (
        "pool: 23.1% of 1000 rows were set aside (too_long 219, empty_text 12); the limit is 1%: "
        "raise model.max_length (now 512) or raise hygiene.quarantine_limit"
    )
    with pytest.raises(DataError, match="no row is left"):
        check_quarantine({"rows_in": 3, "used": 0, "quarantined": {"bad_roles": 3}, "max_length": 512}, 1.0, "target maths")


def test_memory_does_not_grow_with_the_text(tmp_path: Path, encoder: Encoder) -> None:
    class Instant(Faulty):
        def encode(self, conversations: Sequence[Conversation]) -> list[Row | Rejection]:
            return [Row(np.arange(8, dtype=np.int32), np.ones(8, np.bool_)) for _ in conversations]

    def rows() -> Iterator[Parsed]:
        for number in range(10_000):
            said = (("user", f"{number} " + "x" * 4000), ("assistant", "y"))
            yield Parsed(RawRow(f"made:{number}", "g", {"n": number}), Conversation(messages=said))

    written = 0

    def write(name: str, data: bytes) -> None:
        nonlocal written
        written += len(data)

    tracemalloc.start()
    try:
        summary = write_examples(rows(), Instant(encoder, 0), write, shard_rows=128)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert summary["used"] == 10_000 and written > 40 * 10**6
    assert peak < written / 4


@pytest.mark.real
def test_real_pools_are_read(prepare: Prepare, shared: Path) -> None:
    data = shared / "data"
    path, summary = prepare(Source(path="pools/clinc150-clinc150.parquet", where={"split": ["val", "oos_val"]}, sample=300, group="intent"), folder=data)
    assert summary["used"] == 300 and set(summary["groups"]) > {"oos"}
    assert all(said[1]["content"] == group for said, group in zip(conversations(path, range(300)), open_examples(path).groups, strict=True))

    with pytest.raises(DataError, match="alpaca .instruction -> output.; as alpaca .instruction -> response."):
        prepare(Source(path="pools/codealpaca-new_codealpaca.parquet"), folder=data)
    with pytest.raises(DataError, match="text .text, leaving out 'sql', 'variables'."):
        prepare(Source(path="pools/wikisql-wikisql_nl_sql.parquet"), folder=data)

    sql = Source(path="pools/wikisql-wikisql_nl_sql.parquet", prompt="Write an SQL query for this question: {text}", completion="{sql}", limit=50)
    path, summary = prepare(sql, folder=data)
    assert summary["used"] + sum(summary["quarantined"].values()) == 50
    asked, answered = conversations(path, [0])[0]
    assert asked["content"].startswith("Write an SQL query") and answered["content"].startswith("SELECT")


@pytest.mark.real
def test_empty_answers_of_a_real_pool_are_set_aside(prepare: Prepare, shared: Path) -> None:
    source = Source(path="pools/alpaca52k-alpaca52k_en.parquet", where={"output": ""})
    _, summary = prepare(source, folder=shared / "data")
    assert summary["used"] == 0 and summary["quarantined"] == {"empty_text": summary["rows_in"]}

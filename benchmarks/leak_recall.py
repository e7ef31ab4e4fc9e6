"""What the leak gate finds of known overlaps, against brute force that shares no code with it, and what it says of pairs that should be clean.

    python benchmarks/leak_recall.py --data DIR

The truth of a pair is found by comparing every item with every row: an item is in the pool if its letters and digits, lower case and nothing else,
are a part of some row's (`str in str`; at least 20 of them), or if the two are the same. A second truth counts items of which 13 words in a row stand
in some row, as published counts do. What the gate calls dirty beyond the first truth is counted by kind and shown.
"""

import argparse
import ast
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from curate.hygiene.benchmark import Benchmark, Item, LeakRules
from curate.hygiene.leaks import Gate, Hit

Rows = list[tuple[str, ...]]  # the turns of each


def table(data: Path, name: str) -> list[dict[str, Any]]:
    return [dict(row) for row in pq.read_table(data / f"{name}.parquet").to_pylist()]


def alpaca(rows: Sequence[dict[str, Any]]) -> Rows:
    return [(f"{row['instruction'] or ''}\n\n{row.get('input') or ''}".strip(), row.get("output") or row.get("response") or "") for row in rows]


def filled(rows: Sequence[dict[str, Any]]) -> Rows:
    """MAWPS's placeholders with their numbers, as anyone would train on it."""
    made = []
    for row in rows:
        numbers = [number.removesuffix(".0") for number in row["Numbers"].split()]
        text = re.sub(r"number(\d+)", lambda found, held=numbers: held[int(found[1])] if int(found[1]) < len(held) else found[0], row["Question"])
        made.append((text, str(row["Answer"])))
    return made


def items(data: Path, name: str) -> list[Item]:
    rows = table(data, f"targets/{name}")
    if name == "commonsenseqa-dev":
        said = [ast.literal_eval(row["question"]) if isinstance(row["question"], str) else row["question"] for row in rows]
        return [Item(str(i), one["stem"], " ".join(choice["text"] for choice in one["choices"])) for i, one in enumerate(said)]
    ways: dict[str, Any] = {
        "math_word-svamp": lambda row: (f"{row['Body']} {row['Question']}", row["Answer"]),
        "math_word-asdiv_test": lambda row: (f"{row['body']} {row['question']}", row["answer"]),
        "math_word-addsub": lambda row: (row["sQuestion"], ""),
        "math_word-singleeq": lambda row: (row["sQuestion"], ""),
        "reasoning_zs-strategyqa": lambda row: (row["input"], row["target"]),
        "bbh": lambda row: (row["input"], row["target"]),
        "mmlu-test": lambda row: ("\n".join(str(row[name]) for name in ("question", "A", "B", "C", "D")), row["answer"]),
        "mbpp-mbpp": lambda row: (row["text"], row["code"]),
        "commonsense_mc-arc-challenge_test": lambda row: (row["instruction"], row["output"]),
    }
    way = ways.get(name, lambda row: (row["question"], row["answer"]))
    return [Item(str(i), *map(str, way(row))) for i, row in enumerate(rows)]


def squeezed(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", text.lower().replace("\\n", " "))


def grams(text: str) -> set[str]:
    said = re.sub(r"[^a-z0-9]+", " ", text.lower().replace("\\n", " ")).split()
    return {" ".join(said[i : i + 13]) for i in range(len(said) - 12)}


def contained(wanted: Sequence[Item], pool: Rows) -> set[int]:
    """Items that stand in some turn of some row, letter for letter; by comparing all pairs."""
    turns = "\n".join(dict.fromkeys(squeezed(turn) for row in pool for turn in row))
    whole = set(turns.split("\n"))
    said = [squeezed(item.question) for item in wanted]
    return {i for i, text in enumerate(said) if text and (text in turns if len(text) >= 20 else text in whole)}


def sharing(wanted: Sequence[Item], pool: Rows) -> set[int]:
    """Items of which 13 words in a row stand in some row."""
    held = {gram for row in pool for turn in row for gram in grams(turn)}
    return {i for i, item in enumerate(wanted) if grams(item.question) & held}


def overlap(pool_name: str, pool: Rows, name: str, wanted: list[Item], *, show: int) -> None:
    gate = Gate.of([Benchmark(name, wanted)], LeakRules())
    hits = gate.scan(pool)
    best: dict[int, tuple[str, Hit]] = {}
    for hit in hits:
        verdict = gate.verdict(hit)
        if verdict != "clean" and (hit.item not in best or (verdict == "dirty", hit.cover) > (best[hit.item][0] == "dirty", best[hit.item][1].cover)):
            best[hit.item] = (verdict, hit)
    dirty = {item for item, (verdict, _) in best.items() if verdict == "dirty"}
    truth, shared = contained(wanted, pool), sharing(wanted, pool)
    more, missed = dirty - truth, truth - dirty
    print(f"\n{pool_name} against {name} ({len(pool):,} rows, {len(wanted):,} items)")
    said = [f"contained {len(truth)}: dirty {len(dirty & truth)}, recall {len(dirty & truth) / len(truth):.4f}"] if truth else ["contained 0"]
    said += [f"13 words shared {len(shared)}: reported {len(set(best) & shared)}"]
    precision = f", precision {len(dirty & truth) / len(dirty):.4f}" if dirty else ""
    print(f"  {'; '.join(said)}; dirty in all {len(dirty)}{precision}; suspicious {len(best) - len(dirty)}")
    if more:
        kinds = Counter(f"{best[item][1].kind} {best[item][1].part}, {'whole' if best[item][1].cover >= 1 else 'edited'}" for item in more)
        print(f"  dirty beyond containment: {dict(kinds)}")
    for item in sorted(more)[:show]:
        hit = best[item][1]
        print(f"    {hit.cover:.0%} item: {wanted[item].question[:150]!r}\n         row:  {pool[hit.row][hit.turn][:150]!r}")
    for item in sorted(missed)[:show]:
        print(f"    missed: {wanted[item].question[:150]!r} ({best[item][0] + ' ' + best[item][1].kind if item in best else 'not seen'})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with pools/, targets/ and leaky/")
    parser.add_argument("--show", type=int, default=3)
    given = parser.parse_args()
    data: Path = given.data
    pools = {
        "math_data_cot": alpaca(table(data, "leaky/mathqa_llmadapters-math_data_cot")),
        "asdiv_a_mawps_train": filled(table(data, "leaky/math_word-asdiv_a_mawps_train")),
        "flan_cot-ecqa": alpaca(table(data, "pools/flan_cot-ecqa")),
        "flan_cot-strategyqa": alpaca(table(data, "pools/flan_cot-strategyqa")),
        "gsm8k-train": [(row["question"], row["answer"]) for row in table(data, "pools/gsm8k-train")],
        "alpaca52k": alpaca(table(data, "pools/alpaca52k-alpaca52k_en")),
        "dolly3k": alpaca(table(data, "pools/dolly3k-dolly_3k")),
        "code_alpaca": alpaca(table(data, "pools/codealpaca-new_codealpaca")),
    }
    pairs = [("math_data_cot", name) for name in ("gsm8k-test", "math_word-svamp", "math_word-addsub", "math_word-singleeq", "math_word-asdiv_test")]
    pairs += [("asdiv_a_mawps_train", name) for name in ("math_word-asdiv_test", "math_word-singleeq", "math_word-addsub", "math_word-svamp")]
    pairs += [("flan_cot-ecqa", "commonsenseqa-dev"), ("flan_cot-strategyqa", "reasoning_zs-strategyqa"), ("gsm8k-train", "gsm8k-test")]
    pairs += [("alpaca52k", name) for name in ("bbh", "gsm8k-test", "math_word-svamp", "mmlu-test", "mbpp-mbpp", "commonsense_mc-arc-challenge_test")]
    pairs += [("dolly3k", "bbh"), ("code_alpaca", "mbpp-mbpp"), ("code_alpaca", "bbh")]
    held: dict[str, list[Item]] = {}
    for pool, name in pairs:
        overlap(pool, pools[pool], name, held.setdefault(name, items(data, name)), show=given.show)


if __name__ == "__main__":
    main()

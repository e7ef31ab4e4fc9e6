"""The datatrove side of benchmarks/leak_gate.py and benchmarks/deduplicate.py: runs under an interpreter that has datatrove, without curate.

Reads `items.jsonl` ({"question"}) and `pool.jsonl` ({"text"}), and prints seconds and counts as JSON.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
from datatrove.utils.text import ngrams, simplify_text


def texts(path: Path, field: str) -> list[str]:
    with open(path, encoding="utf-8") as file:
        return [json.loads(line)[field] for line in file]


def decontaminate(folder: Path) -> dict[str, float]:
    """Its n-gram filter with 13 words, over an index of the same items, hashed as its indexer does."""
    index = folder / "index"
    index.mkdir(exist_ok=True)
    step = NGramsDecontFilter(str(index), NGramsDecontConfig(n_grams=13))
    start = time.process_time()
    hashes = set()
    for text in texts(folder / "items.jsonl", "question"):
        words = step.tokenizer.word_tokenize(simplify_text(text, step.config.norm_config))
        hashes |= {step.hash_func(" ".join(gram)) for gram in ngrams(words, 13)}
    np.array(sorted(hashes), dtype=step.config.hash_config.np_descr).tofile(index / "all.index.hashes")
    step.load_index_hashes()
    built = time.process_time() - start
    documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts(folder / "pool.jsonl", "text"))]
    start = time.process_time()
    flagged = [int(document.id) for document in documents if step.filter(document) is not True]
    seconds = time.process_time() - start
    (folder / "datatrove.json").write_text(json.dumps(flagged))
    return {"index_seconds": built, "seconds": seconds, "flagged": len(flagged)}


if __name__ == "__main__":
    print(json.dumps(decontaminate(Path(sys.argv[1]))))

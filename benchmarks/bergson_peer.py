"""Projected per-sample gradients against bergson (EleutherAI), which computes the same: who is faster, and how far from the floor?

    python benchmarks/bergson_peer.py --peer PATH/TO/bergson/python [--rows 16 32] [--tokens 32 128] [--width 16] [--repetitions 7]

bergson's dependencies conflict with curate's, so it runs under an interpreter of its own (`--peer`, or BERGSON_PYTHON), started here
and answering line by line. The two take turns, and turns at going first; times are each process's own CPU seconds. A random Llama of
3.2 M parameters in its 28 linear layers (hidden 256, 4 layers, 2,048 tokens), the same weights and rows on both sides, float32, one
thread, loss over every token. bergson's side is its own loading, GradientCollector and backward pass, without reading or writing data.

factored: P G Q^T, both factors of each layer's gradient projected to `width`, no gradient formed.
adam: P (G / (sqrt v + epsilon)) Q^T with random second moments v over three decades; both sides form G.
floor: forward pass and the gradients of the layers' inputs, weights frozen and only the embedding's output wanting a gradient; measured
in both processes, which shows whether they are equally fast. Ours asks for a little less: nothing under the first layer.

Before any timing both sides must give the same gradients: norms of the unprojected rows agree to 1e-4; those of the projected ones,
whose random matrices differ, on average over seeds within 20%.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _bergson_sides import Bergson, Ours, write_inputs
from transformers.utils import logging

WAYS = ("factored", "adam")
HEADS = ("ours ms/row", "bergson ms/row", "ours / bergson", "ours / floor", "bergson / floor")
SEEDS = 16  # of random matrices, to compare squared norms in expectation


class Peer:
    """The other process: a request is a line of JSON, its answer another."""

    def __init__(self, python: str, folder: Path) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [python, __file__, "--serve", str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.communicate()

    def ask(self, verb: str, *arguments: Any) -> Any:
        print(json.dumps([verb, *arguments]), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline() if self.process.stdout else ""
        if not answer:
            raise SystemExit("the peer stopped; its error stands above")
        return json.loads(answer)

    def prepare(self, way: str, rows: int, tokens: int, width: int, seed: int) -> None:
        self.ask("prepare", way, rows, tokens, width, seed)

    def seconds(self, way: str) -> Any:
        return self.ask("seconds", way)

    def squared_norms(self, way: str) -> Any:
        return self.ask("squared_norms", way)


def serve(folder: Path) -> None:
    """Answer requests from stdin; whatever else is printed goes to stderr."""
    answers, sys.stdout = sys.stdout, sys.stderr
    side = Bergson(folder)
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        print(json.dumps(getattr(side, verb)(*arguments)), file=answers, flush=True)


def check(ours: Ours, peer: Peer, width: int) -> None:
    """Stop unless both sides give the same gradients, and projections of the same width and squared norm in expectation."""
    for way in WAYS:
        (exact, kept, size), (other, other_kept, other_size) = measured(ours, way, width), measured(peer, way, width)
        apart = float(np.abs(exact / other - 1).max())
        print(f"{way}: squared norms of unprojected rows differ by at most {apart:.1e} of themselves; {size:.0f} numbers a projected row")
        print(f"{way}: mean squared norm projected / unprojected, ours {kept:.3f}, bergson {other_kept:.3f}", flush=True)
        if not apart < 1e-4 or size != other_size or not abs(kept / other_kept - 1) < 0.2:
            raise SystemExit(f"{way}: the two sides do not compute the same, so their times cannot be compared")


def measured(side: "Ours | Peer", way: str, width: int) -> tuple[np.ndarray[Any, Any], float, float]:
    """(B,) squared norms of rows that are not projected, the share of them that projections keep on average, and the width of those."""

    def norms(size: int, seed: int) -> np.ndarray[Any, Any]:
        side.prepare(way, 8, 32, size, seed)
        return np.array(side.squared_norms(way))

    exact = norms(0, 0)[:-1]
    mean = np.mean([norms(width, seed) for seed in range(SEEDS)], axis=0)
    return exact, float(mean[:-1].mean() / exact.mean()), float(mean[-1])


def compare(ours: Ours, peer: Peer, rows: int, tokens: int, options: argparse.Namespace) -> None:
    """Take turns at one batch, who goes first in turns too, and print medians with ranges."""
    ways = (*WAYS, "floor")
    for way in ways:
        ours.prepare(way, rows, tokens, options.width, 0)
        peer.prepare(way, rows, tokens, options.width, 0)
    taken = np.zeros((options.repetitions, len(ways), 2))
    for turn in range(options.repetitions):
        for number, way in enumerate(ways):
            for column in (0, 1) if turn % 2 else (1, 0):
                taken[turn, number, column] = (ours, peer)[column].seconds(way)
    floor = taken[:, -1]
    for way, times in zip(ways, taken.transpose(1, 2, 0), strict=True):
        columns = [*(times / rows * 1e3), times[0] / times[1], *(times / floor.T)]
        shown = [f"{np.median(column):.2f} ({column.min():.2f}-{column.max():.2f})" for column in columns]
        print(f"{rows:>4} {tokens:>6} {way:>9} " + " ".join(f"{text:>19}" for text in shown), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Projected per-sample gradients against bergson.")
    parser.add_argument("--peer", default=os.environ.get("BERGSON_PYTHON"), help="the Python interpreter that has bergson")
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--width", type=int, default=16, help="of each side of a layer's projection")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    if options.serve:
        serve(options.serve)
        return
    if not shutil.which(options.peer or ""):
        print(f"left out: --peer (or BERGSON_PYTHON) must name the Python interpreter that has bergson; got {options.peer!r}")
        return
    with tempfile.TemporaryDirectory() as name:
        write_inputs(Path(name), max(8, *options.rows), max(32, *options.tokens))
        ours = Ours(Path(name))
        with Peer(options.peer, Path(name)) as peer:
            check(ours, peer, options.width)
            print(f"{'rows':>4} {'tokens':>6} {'way':>9} " + " ".join(f"{head:>19}" for head in HEADS))
            for tokens, rows in itertools.product(options.tokens, options.rows):
                compare(ours, peer, rows, tokens, options)


if __name__ == "__main__":
    main()

"""Fine-tuning beside TRL's SFTTrainer: the same rows, model, optimizer and batch, packing off and on, in one process tree; prints tokens a second.

    python benchmarks/training_throughput.py MODEL DATA.parquet [--rows 512] [--device cpu] [--dtype float32] [--batch 16] [--lora 16] [--repeat 3]

Needs `trl` beside curate. Each side runs in a process of its own, in turns, `--repeat` times, and trains `--within` times in each, every time from the same
weights; the fastest counts, and the spread is printed. On a GPU the first training of a process also loads kernels, so that --within 3 is fair. What is
timed is the training loop (TRL's `train_runtime`, ours around `train`): model and rows are loaded and tokenised before. Tokens are those of the rows,
without padding. Both sides see every row once, `--batch` rows (or packs of about as many tokens) to a step, with loss on the answers alone. MODEL may
be `random-1b`: a Llama of 1.2 billion random numbers with the tokenizer given by --tokenizer.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WAYS = ("padded", "packed")


def rows_of(arguments: argparse.Namespace, handle: Any) -> list[Any]:
    """The first rows of the file that fit, as tokens with the answers marked."""
    from curate.core import Row
    from curate.data.conversation import Rejection
    from curate.data.load import load
    from curate.data.source import Source
    from curate.data.template import Encoder
    from curate.model import load_tokenizer

    encoder = Encoder(load_tokenizer(handle), handle.max_length)
    source = Source(path=str(Path(arguments.data).absolute()), prompt=arguments.prompt, completion=arguments.completion)
    found: list[Any] = []
    for parsed in load([source], Path(), on_bad_row="quarantine"):
        if isinstance(parsed.meaning, Rejection):
            continue
        row = encoder.encode([parsed.meaning])[0]
        if isinstance(row, Row):
            found.append(row)
        if len(found) == arguments.rows:
            break
    return found


def loaded(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The handle of the model and the model itself, with adapters where they are wanted; of random-1b, the handle is that of the tokenizer."""
    from shared_prefixes import random_1b

    from curate.adapters import attach_adapters
    from curate.model import LanguageModel, fresh, load_tokenizer, resolve
    from curate.settings import Lora, ModelSpec

    random = arguments.model == "random-1b"
    folder = str(Path(arguments.tokenizer if random else arguments.model).absolute())
    lora = Lora(r=arguments.lora, alpha=2 * arguments.lora) if arguments.lora else None
    handle = resolve(ModelSpec(path=folder, dtype=arguments.dtype, max_length=arguments.max_length, lora=lora), Path())
    if not random:
        return handle, fresh(handle, arguments.device)
    model = random_1b(load_tokenizer(handle), arguments.device, arguments.dtype).model
    model, names = attach_adapters(model, lora, 0) if lora else (model, dict(model.named_parameters()))
    return handle, LanguageModel(model.to(arguments.device).eval(), load_tokenizer(handle), arguments.device, names)


def ours(arguments: argparse.Namespace) -> dict[str, float]:
    import numpy as np
    import torch

    from curate.settings import Optimizer
    from curate.store import Workspace
    from curate.train import TrainingSet, plan_steps, train

    handle, model = loaded(arguments)
    rows = rows_of(arguments, handle)
    lengths = np.array([len(row.input_ids) for row in rows])
    data = TrainingSet(np.array([f"{i:06d}" for i in range(len(rows))]), rows, lengths, np.ones(len(rows), np.float32))
    settings = Optimizer(
        learning_rate=1e-4,
        epochs=1,
        batch_size=arguments.batch,
        micro_batch_tokens=arguments.batch_tokens,
        packing=arguments.way == "packed",
        precision="bfloat16" if arguments.device != "cpu" else "float32",
    )
    plan = plan_steps(data, settings, 0)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        log = train(model, data, plan, settings, 0, Workspace(Path(folder)), save_every=10**9)
        if arguments.device != "cpu":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "tokens": float(log.tokens), "steps": float(log.steps), "loss": log.losses[-1], "first_loss": log.losses[0], **peak(arguments)}


def theirs(arguments: argparse.Namespace) -> dict[str, float]:
    import datasets
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    handle, model = loaded(arguments)
    rows = rows_of(arguments, handle)
    data = datasets.Dataset.from_dict(
        {"input_ids": [row.input_ids.tolist() for row in rows], "completion_mask": [row.supervised.astype(int).tolist() for row in rows]}
    )
    tokens = sum(len(row.input_ids) for row in rows)
    packed = arguments.way == "packed"
    # As many packs to a step as hold about the tokens of `--batch` rows.
    batch = max(1, round(arguments.batch * tokens / len(rows) / handle.max_length)) if packed else arguments.batch
    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            output_dir=folder,
            max_length=handle.max_length,
            packing=packed,
            per_device_train_batch_size=batch,
            num_train_epochs=1,
            learning_rate=1e-4,
            lr_scheduler_type="linear",
            warmup_steps=0,
            weight_decay=0.0,
            bf16=arguments.device != "cpu",
            use_cpu=arguments.device == "cpu",
            gradient_checkpointing=False,
            completion_only_loss=True,
            report_to=[],
            logging_steps=10**6,
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = SFTTrainer(model=model.model, args=settings, train_dataset=data, processing_class=model.tokenizer)
        result = trainer.train()
    seconds = float(result.metrics["train_runtime"])
    return {"seconds": seconds, "tokens": float(tokens), "steps": float(result.global_step), "loss": float(result.training_loss), **peak(arguments)}


def peak(arguments: argparse.Namespace) -> dict[str, float]:
    """The most memory that this process held, in MiB."""
    import resource

    import torch

    if arguments.device != "cpu":
        return {"peak": torch.cuda.max_memory_allocated() / 2**20}
    return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10}


def trained(arguments: argparse.Namespace) -> dict[str, float]:
    """One side, once."""
    import gc

    import torch

    gc.collect()
    if arguments.device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return {"ours": ours, "theirs": theirs}[arguments.side](arguments)


def measured(side: str, way: str) -> list[dict[str, float]]:
    """One side in a process of its own, with the arguments of this one."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--way", way]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TOKENIZERS_PARALLELISM": "false"}, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("[{")]
    if done.returncode or not lines:
        raise SystemExit(f"{side} {way} failed:\n{done.stderr[-3000:]}")
    found: list[dict[str, float]] = json.loads(lines[-1])
    return found


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--prompt")
    parser.add_argument("--completion")
    parser.add_argument("--tokenizer", default="")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--lora", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--within", type=int, default=1)
    parser.add_argument("--side", choices=("ours", "theirs"))
    parser.add_argument("--way", choices=WAYS, default="padded")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    if arguments.side:
        print(json.dumps([trained(arguments) for _ in range(arguments.within)]))
        return
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(arguments.repeat):
        for way in WAYS:
            for side in ("ours", "theirs"):
                runs.setdefault((side, way), []).extend(measured(side, way))
    print(f"{'':>8} {'side':>7} {'steps':>6} {'seconds':>16} {'tokens/s':>10} {'peak MiB':>9} {'last/mean loss':>15}")
    best = {key: min(found, key=lambda run: run["seconds"]) for key, found in runs.items()}
    for (side, way), run in best.items():
        slowest = max(other["seconds"] for other in runs[side, way])
        speed = run["tokens"] / run["seconds"]
        print(f"{way:>8} {side:>7} {run['steps']:>6.0f} {run['seconds']:>8.2f} -{slowest:>6.2f} {speed:>10,.0f} {run['peak']:>9,.0f} {run['loss']:>15.3f}")
    for way in WAYS:
        print(f"{way}: curate / TRL {best['theirs', way]['seconds'] / best['ours', way]['seconds']:.2f} x the tokens a second")


if __name__ == "__main__":
    main()

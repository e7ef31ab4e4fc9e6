"""Several sampled answers to every prompt, as pass@k needs them: the engine beside transformers' generate and continuous batching, in one process.

    python benchmarks/pass_at_k.py MODEL [--samples 32] [--prompts 8] [--context 256] [--tokens 64] [--rows 256] [--device cpu]

Greedy answers of all three are compared first. Then each draws `samples` answers of exactly `tokens` tokens to every prompt, at temperature 1 from all
tokens, by turns. The engine prefills a prompt once and its answers attend to the same keys; in `generate` with num_return_sequences every answer has a copy
of its prompt; `generate_batch` prefills a prompt once but for its last token, and its answers share whole blocks. Both are given as many prompts at a time
as make --rows answers: try few on a CPU, where they run better so, and many on a GPU. Prompts are random tokens, for the work does not depend on what they
say; MODEL may be `random-1b`, a Llama of 1.2 billion random numbers.

Tokens a second are generated ones; prefilled tokens are those that went through the embedding, or that the engine counts, less one for each answer's token but
its last. Bytes of keys and values are, for the engine, the most that it held; of `generate`, computed from the shape of its cache at the last step; of
`generate_batch`, the blocks that it was given: as many as all answers need at once, with nothing to spare. On a GPU the engine records its passes as CUDA
graphs; transformers is used as it comes, without graphs or compilation. Time is process CPU seconds on one thread, or seconds on a GPU, the least of all
repeats.
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402  (the thread count comes first)
import torch  # noqa: E402
import transformers  # noqa: E402
from shared_prefixes import loaded, random_1b  # noqa: E402

from curate.inference.continuous import PAGE, stated_sizes  # noqa: E402
from curate.inference.engine import Engine  # noqa: E402
from curate.inference.sampling import Nucleus, sample  # noqa: E402
from curate.model import LanguageModel  # noqa: E402

BATCH_TOKENS = 8192  # that it computes at once, the engine's number
Answers = list[list[int]]  # prompt by prompt


@dataclass
class Way:
    """One way to answer, and what a run of it took."""

    name: str
    run: Callable[[int], Answers]  # how many samples, 0 for the greedy answer
    nbytes: Callable[[], int]
    source: str  # of the bytes
    computed: Callable[[], int] | None = None  # tokens, as it counts them; where it does not, those that are embedded
    seconds: float = float("inf")
    tokens: int = 0  # that went through the model


def engine_way(model: LanguageModel, prompts: Sequence[list[int]], tokens: int) -> Way:
    engine = Engine(model)

    def run(samples: int) -> Answers:
        if not samples:
            return engine.generate(prompts, max_tokens=tokens)
        engine.peak_bytes = engine.forward_tokens = 0
        found = sample(engine, prompts, samples=samples, seed=0, nucleus=Nucleus(), max_tokens=tokens, stop=())
        return [answer for several in found for answer in several or ()]

    return Way("engine", run, lambda: engine.peak_bytes, "measured", lambda: engine.forward_tokens)


def configured(tokens: int, samples: int) -> Any:
    drawn = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "num_return_sequences": samples} if samples else {"do_sample": False}
    return transformers.GenerationConfig(max_new_tokens=tokens, eos_token_id=-1, pad_token_id=0, **drawn)


def generate_way(model: LanguageModel, prompts: Sequence[list[int]], tokens: int, samples: int, together: int) -> Way:
    context = len(prompts[0])

    def run(samples: int) -> Answers:
        answers: Answers = []
        for ids in torch.tensor(prompts, device=model.device).split(together):
            found = model.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=configured(tokens, samples))
            answers += found[:, context:].tolist()
        return answers

    size = together * samples * (context + tokens - 1) * bytes_of_a_token(model)
    return Way("generate", run, lambda: size, "from shapes")


def continuous_way(model: LanguageModel, prompts: Sequence[list[int]], tokens: int, samples: int, together: int) -> Way:
    context = len(prompts[0])
    whole = context // PAGE  # blocks of a prompt that its answers share; the rest each has for itself
    blocks = together * (whole + samples * -(-(context + tokens - whole * PAGE) // PAGE))

    def run(samples: int) -> Answers:
        sizes = stated_sizes(blocks, min(BATCH_TOKENS, blocks * PAGE))
        how = {"generation_config": configured(tokens, samples), "continuous_batching_config": sizes, "progress_bar": False, "warmup": False}
        answers: Answers = []
        for first in range(0, len(prompts), together):
            found = model.model.generate_batch(inputs=prompts[first : first + together], **how)
            by_prompt = sorted(found, key=lambda name: int(name.removeprefix("req_").split("__")[0]))
            answers += [list(found[name].generated_tokens) for name in by_prompt]
        return answers

    return Way("generate_batch", run, lambda: blocks * PAGE * bytes_of_a_token(model), "as given")


def bytes_of_a_token(model: LanguageModel) -> int:
    """Keys and values of one token in all layers."""
    config = model.model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * width * next(model.model.parameters()).element_size()


def compare_greedy(ways: Sequence[Way]) -> None:
    answers = [way.run(0) for way in ways]
    for way, found in zip(ways[1:], answers[1:], strict=True):
        same = [one == other for one, other in zip(answers[0], found, strict=True)]
        starts = [next((i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), 0) for one, other in zip(answers[0], found, strict=True)]
        apart = [start for start, equal in zip(starts, same, strict=True) if not equal]
        print(f"greedy answers: {sum(same)} of {len(same)} of {way.name} are the engine's" + (f"; the others part at token {apart}" if apart else ""))


def clock(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def draw(model: LanguageModel, way: Way, given: argparse.Namespace) -> None:
    """One timed run."""
    counted = 0

    def count(module: Any, arguments: Any) -> None:
        nonlocal counted
        counted += arguments[0].numel()

    hook = model.model.get_input_embeddings().register_forward_pre_hook(count)
    began = clock(given.device)
    answers = way.run(given.samples)
    way.seconds = min(way.seconds, clock(given.device) - began)
    hook.remove()
    way.tokens = counted if way.computed is None else way.computed()
    counts = {given.prompts * given.samples} | ({given.prompts} if way.name == "generate_batch" else set())  # transformers 5.17 gives back the first ones only
    if len(answers) not in counts or {len(answer) for answer in answers} != {given.tokens}:
        raise SystemExit(f"{way.name} gave {len(answers)} answers of {sorted({len(answer) for answer in answers})} tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder, or random-1b")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--context", type=int, default=256, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--rows", type=int, default=256, help="answers that transformers is asked for at a time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeat", type=int, default=2)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    random = given.model == "random-1b"
    model = random_1b(SimpleNamespace(pad_token_id=0, eos_token_id=1), given.device, given.dtype) if random else loaded(given)[0]
    prompts = np.random.default_rng(0).integers(2, model.model.config.get_text_config().vocab_size, (given.prompts, given.context)).tolist()
    together = min(given.prompts, max(1, given.rows // given.samples))
    ways = [
        engine_way(model, prompts, given.tokens),
        generate_way(model, prompts, given.tokens, given.samples, together),
        continuous_way(model, prompts, given.tokens, given.samples, together),
    ]
    compare_greedy(ways)
    for _ in range(given.repeat):
        for way in ways:
            draw(model, way, given)
    answers = given.prompts * given.samples
    how = f"transformers in batches of {together * given.samples}, {given.dtype} on {given.device}"
    print(f"{given.prompts} prompts of {given.context} tokens, {given.samples} answers of {given.tokens} tokens to each, {how}")
    print(f"{'':<16}{'tokens/s':>10}{'seconds':>10}{'time/engine':>13}{'prefilled':>11}{'MiB of keys and values':>25}")
    for way in ways:
        speed, prefilled = answers * given.tokens / way.seconds, way.tokens - answers * (given.tokens - 1)
        size = f"{way.nbytes() / 2**20:,.1f} {way.source}"
        print(f"{way.name:<16}{speed:>10,.0f}{way.seconds:>10.2f}{way.seconds / ways[0].seconds:>13.2f}{prefilled:>11,}{size:>25}")


if __name__ == "__main__":
    main()

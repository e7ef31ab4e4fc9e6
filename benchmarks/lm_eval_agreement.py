"""Do task files mean here what they mean to lm-evaluation-harness? Requests, tokens, scores, answers and metrics side by side, item by item.

    PEER/bin/python benchmarks/lm_eval_agreement.py --data FOLDER [--model FOLDER] [--limit 100] [--scored 20] --write FILE
         .../python benchmarks/lm_eval_agreement.py --data FOLDER [--model FOLDER] --read FILE

The tasks are benchmarks/lm_eval_tasks; FOLDER holds the parquet files that they name. In an environment with lm_eval 0.4.10 or later, torch and
transformers 5, where this file imports no curate, it writes what lm-eval's ConfigurableTask asks, what its `hf` model makes of it in tokens (--model), in
log-likelihoods (the first --scored documents of each task, float32, one by one) and in greedy answers of 16 tokens (the first --answered ones), and what
its metrics say. Metrics are of the model's log-likelihoods where there are some, and else of numbers and answers made from the requests (`invented`).
--read compares all of it with curate's, whose engine scores the documents of a task on one plan: texts, tokens and answers must be equal, metrics equal
to 1e-12, log-likelihoods are shown by their largest difference. `computed` are the tokens that went through the model for them: ours, and those of `hf`.
"""

import argparse
import json
import os
import random
import sys
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

TASKS = Path(__file__).with_name("lm_eval_tasks").resolve()
HEADS = ("questions", "requests", "texts equal", "tokens equal", "unstable", "metrics equal", "totals equal", "max |d log p|", "greedy equal")
HEADS += ("computed", "by hf", "answers equal")
ANSWER = 16  # tokens of a generated answer


def invented(requests: list[list[str]], repeats: int, target: object) -> tuple[list[float], list[bool], list[str]]:
    """Log-likelihoods, greedy flags and answers that depend on the requests alone; some answers are right."""
    generator = random.Random(json.dumps(requests))
    scores = [-10 * generator.random() for _ in requests]
    right = str(target[0] if isinstance(target, list) and target else target)
    forms = (f" {right}", f"So the answer is {right}.", f"#### {right.split('#### ')[-1]}", "", f"7 {right.upper()} ", "#### 12", "I do not know.")
    return scores, [generator.random() < 0.5 for _ in requests], [generator.choice(forms) for _ in range(repeats)]


def write(options: argparse.Namespace) -> dict[str, Any]:
    """What lm-eval makes of every task."""
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    os.chdir(options.data)
    model = recording(options.model) if options.model else None
    written = {}
    for path in sorted(TASKS.glob("*.yaml")):
        task = ConfigurableTask(config=load_yaml(path))
        task.set_config("num_fewshot", task.config.num_fewshot or 0)
        task.set_fewshot_seed(1234)
        task.build_all_requests(limit=options.limit or None)
        written[path.stem] = peer_task(task, model, options.scored, options.answered)
    return {"peer": version("lm_eval"), "limit": options.limit, "tasks": written}


def recording(folder: Path) -> Any:
    """lm-eval's `hf` model; `seen` is the (context, continuation) tokens of its last requests, and it scores, and counts, only while `scoring`."""
    from lm_eval.models.huggingface import HFLM

    class Recording(HFLM):  # type: ignore[misc]
        seen: list[tuple[list[int], list[int]]] = []
        scoring = False
        computed = 0

        def _model_call(self, inps: Any, **options: Any) -> Any:
            self.computed += inps.numel()
            return super()._model_call(inps, **options)

        def _loglikelihood_tokens(self, requests: Any, **options: Any) -> Any:
            self.seen += [(list(context), list(continuation)) for _, context, continuation in requests]
            return super()._loglikelihood_tokens(requests, **options) if self.scoring else [(0.0, False)] * len(requests)

    return Recording(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1)


def peer_task(task: Any, model: Any, scored: int, answered: int) -> dict[str, Any]:
    by_document = defaultdict(list)
    for instance in task.instances:
        by_document[instance.doc_id].append(instance)
    items: list[dict[str, Any]] = []
    before = model.computed if model is not None else 0
    for number, instances in by_document.items():
        texts = [[str(part) for part in instance.args if isinstance(part, str)] for instance in instances]
        item: dict[str, Any] = {"requests": texts}
        scores, greedy, answers = invented(texts, task.config.repeats, task.doc_to_target(instances[0].doc))
        if model is not None:
            item["tokens"], found = peer_tokens(task, model, instances, number < scored)
            if found is not None:
                scores, greedy = item["scores"], item["greedy"] = found
            if task.OUTPUT_TYPE == "generate_until" and number < answered:
                item["answer"] = peer_answer(model, instances[0])
        for place, instance in enumerate(instances):
            rolling = task.OUTPUT_TYPE == "loglikelihood_rolling"
            instance.resps = answers if task.OUTPUT_TYPE == "generate_until" else [scores[place] if rolling else (scores[place], greedy[place])]
        items.append(item | {"answers": answers})
    task.apply_filters()
    totals: dict[str, float] = {}
    for pipeline in task.instances[0].filtered_resps:
        values: dict[str, list[Any]] = defaultdict(list)
        for item, instances in zip(items, by_document.values(), strict=True):
            found = task.process_results(instances[0].doc, [instance.filtered_resps[pipeline] for instance in instances])
            item.setdefault("metrics", {})[pipeline] = {name: numbers(value) for name, value in found.items()}
            for name, value in found.items():
                values[name].append(value)
        totals |= {f"{name},{pipeline}": float(task.aggregation()[name](several)) for name, several in values.items()}
    return {"items": items, "totals": totals, "computed": model.computed - before if model is not None else 0}


def peer_answer(model: Any, instance: Any) -> str:
    """The greedy answer, up to the task's stop strings."""
    from lm_eval.api.instance import Instance

    context, options = instance.args
    greedy = {"until": options.get("until", []), "do_sample": False, "max_gen_toks": ANSWER}
    return str(model.generate_until([Instance("generate_until", instance.doc, (context, greedy), 0)], disable_tqdm=True)[0])


def numbers(value: Any) -> list[float]:
    """A metric's value and its weight."""
    return [float(value[0]), float(value[1])] if isinstance(value, tuple) else [float(value), 1.0]


def peer_tokens(task: Any, model: Any, instances: list[Any], scored: bool) -> tuple[list[Any], tuple[list[float], list[bool]] | None]:
    """The tokens of one document's requests, and its log-likelihoods if they are wanted."""
    if task.OUTPUT_TYPE == "generate_until":
        context, options = instances[0].args
        room = model.max_length - options.get("max_gen_toks", 256)
        return [[model.tok_batch_encode([context], left_truncate_len=room)[0][0].tolist(), []]], None
    model.seen, model.scoring = [], scored
    verb = model.loglikelihood_rolling if task.OUTPUT_TYPE == "loglikelihood_rolling" else model.loglikelihood
    found = verb(instances, disable_tqdm=True)
    pairs = [(one, False) if isinstance(one, float) else one for one in found]
    return [list(pair) for pair in model.seen], ([score for score, _ in pairs], [bool(greedy) for _, greedy in pairs]) if scored else None


class Side:
    """curate's model: tokens, and what its engine says to them."""

    def __init__(self, folder: Path) -> None:
        from curate.harness.tokens import HarnessTokens
        from curate.inference.engine import Engine
        from curate.model import fresh, resolve
        from curate.settings import ModelSpec

        self.engine = Engine(fresh(resolve(ModelSpec(path=str(folder)), folder)))
        self.tokens = HarnessTokens(self.engine.model.tokenizer, self.engine.model.model.config.max_position_embeddings)

    def encoded(self, task: Any, question: Any) -> list[Any]:
        if task.file.output_type == "generate_until":
            return [self.tokens.prompt(question.context, task.file.max_gen_toks)]
        return self.tokens.rolling(question.requests[0][1]) if task.file.output_type == "loglikelihood_rolling" else self.tokens.pairs(question.requests)

    def score(self, encoded: list[Any]) -> list[tuple[float, bool]]:
        """log p(continuation | context) in nats, and whether greedy decoding gives it, of all requests on one plan."""
        found = self.engine.score(self.engine.plan([one.context for one in encoded], [[one.continuation] for one in encoded]))
        return [(one.loglikelihood, one.greedy) for (one,) in found]

    def answers(self, prompts: list[str], until: list[str]) -> list[str]:
        """Greedy answers up to a stop string."""
        from curate.inference.stops import Stops

        tokenizer = self.engine.model.tokenizer
        stops = Stops.at([tokenizer.eos_token_id], until, lambda said: str(tokenizer.decode(said)))
        said = self.engine.generate([self.tokens.prompt(text, ANSWER).context for text in prompts], max_tokens=ANSWER, stops=stops)
        return [stops.cut(tokenizer.decode(tokens, skip_special_tokens=True)) for tokens in said]


def read(options: argparse.Namespace) -> bool:
    """Compare, print a line for each task, and say whether all is equal."""
    theirs = json.loads(options.read.read_text(encoding="utf-8"))
    side = Side(options.model) if options.model else None
    print(f"lm_eval {theirs['peer']}\n{'task':>14} | " + " | ".join(HEADS))
    good = True
    for name, written in theirs["tasks"].items():
        line, equal = compare(name, written, options.data, theirs["limit"], side)
        good &= equal
        print(f"{name:>14} | " + " | ".join(f"{cell:>{len(head)}}" for cell, head in zip(line, HEADS, strict=True)), flush=True)
    return good


def compare(name: str, written: dict[str, Any], folder: Path, limit: int, side: Side | None) -> tuple[list[str], bool]:
    from curate.harness.metrics import Outcome, summarise, values
    from curate.harness.questions import build_questions
    from curate.harness.reading import parse_task

    task = parse_task((TASKS / f"{name}.yaml").read_text(encoding="utf-8"), f"{name}.yaml", folder)
    asked = build_questions(task, limit=limit or None)
    counts: dict[str, int] = defaultdict(int)
    found = []
    paired = task.file.output_type in ("multiple_choice", "loglikelihood")
    for question, item in zip(asked.questions, written["items"], strict=True):
        texts = [[text for text in pair if text or paired] for pair in question.requests]
        counts["requests"] += len(texts)
        counts["texts"] += sum(mine == peer for mine, peer in zip(texts, item["requests"], strict=True))
        outcome = Outcome(responses=item["answers"])
        if task.file.output_type != "generate_until":
            scores, greedy, _ = invented(item["requests"], 1, None)
            outcome = Outcome(item.get("scores", scores), item.get("greedy", greedy))
        found.append(values(task.file, question, outcome))
        counts["metrics"] += same_metrics(found[-1], item["metrics"])
        if side is not None:
            compare_tokens(task, question, item, side, counts)
    apart, before = 0.0, side.engine.forward_tokens if side is not None else 0
    if side is not None:
        apart = compare_scores(task, asked.questions, written["items"], side, counts)
        counts["computed"] = side.engine.forward_tokens - before
        compare_answers(task, asked.questions, written["items"], side, counts)
    summaries = summarise(task.file, found)
    totals = {(key if "," in key else f"{key},none"): summary.value for key, summary in summaries.items()}
    totals_equal = totals.keys() == written["totals"].keys() and all(abs(totals[key] - value) <= 1e-9 * abs(value) for key, value in written["totals"].items())
    n = len(asked)
    good = counts["texts"] == counts["requests"] and counts["metrics"] == n and totals_equal and counts["tokens"] == counts["encoded"] - counts["unstable"]
    good &= counts["answers equal"] == counts["answers"]
    tokens = f"{counts['tokens']} of {counts['encoded']}"
    cells = [f"{n}", f"{counts['requests']}", f"{counts['texts']}", tokens, f"{counts['unstable']}", f"{counts['metrics']}"]
    cells += ["yes" if totals_equal else "NO", f"{apart:.1e}" if counts["scored"] else "-", f"{counts['greedy']} of {counts['scored']}"]
    return [*cells, f"{counts['computed']}", f"{written['computed']}", f"{counts['answers equal']} of {counts['answers']}"], good


def same_metrics(mine: dict[str, Any], peer: dict[str, dict[str, list[float]]]) -> bool:
    theirs = {f"{name},{pipeline}": tuple(value) for pipeline, named in peer.items() for name, value in named.items()}
    ours = {(name if "," in name else f"{name},none"): tuple(value) for name, value in mine.items()}
    return ours.keys() == theirs.keys() and all(max(abs(a - b) for a, b in zip(ours[name], theirs[name], strict=True)) <= 1e-12 for name in ours)


def compare_tokens(task: Any, question: Any, item: dict[str, Any], side: Side, counts: dict[str, int]) -> None:
    encoded = side.encoded(task, question)
    counts["encoded"] += len(encoded)
    counts["unstable"] += sum(not one.stable for one in encoded)
    longest = side.tokens.max_length + 1
    for one, (context, continuation) in zip(encoded, item["tokens"], strict=True):
        kept = context if task.file.output_type == "generate_until" else (context + continuation)[-longest:][: -len(continuation)]
        counts["tokens"] += one.stable and (one.context, one.continuation) == (kept, continuation)


def compare_scores(task: Any, questions: Any, items: list[dict[str, Any]], side: Side, counts: dict[str, int]) -> float:
    """The largest difference of log-likelihoods, where lm-eval has some and both sides score the same tokens."""
    pairs = [(side.encoded(task, question), item) for question, item in zip(questions, items, strict=True) if "scores" in item]
    results = iter(side.score([one for encoded, _ in pairs for one in encoded]))
    apart = 0.0
    for encoded, item in pairs:
        scored = [next(results) for _ in encoded]
        stable = [one.stable for one in encoded]
        if task.file.output_type == "loglikelihood_rolling":
            scored, stable = [(sum(score for score, _ in scored), False)], [all(stable)]
        for (score, greedy), good, theirs, peer_greedy in zip(scored, stable, item["scores"], item["greedy"], strict=True):
            counts["scored"] += good
            counts["greedy"] += good and greedy == peer_greedy
            apart = max(apart, abs(score - theirs) if good else 0.0)
    return apart


def compare_answers(task: Any, questions: Any, items: list[dict[str, Any]], side: Side, counts: dict[str, int]) -> None:
    pairs = [(question.context, item["answer"]) for question, item in zip(questions, items, strict=True) if "answer" in item]
    if pairs:
        mine = side.answers([context for context, _ in pairs], list(task.file.until))
        counts["answers"] += len(pairs)
        counts["answers equal"] += sum(one == theirs for one, (_, theirs) in zip(mine, pairs, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description="Task files read by lm-eval and by curate.")
    parser.add_argument("--data", type=Path, required=True, help="the folder of the parquet files that the tasks name")
    parser.add_argument("--model", type=Path, help="a folder with a causal model, for tokens and log-likelihoods")
    parser.add_argument("--limit", type=int, default=100, help="documents of each task; 0 for all")
    parser.add_argument("--scored", type=int, default=20, help="documents of each task whose log-likelihoods the peer computes")
    parser.add_argument("--answered", type=int, default=5, help="documents of each generating task to which the peer generates an answer")
    parser.add_argument("--write", type=Path, help="in lm-eval's environment: write what it does to this file")
    parser.add_argument("--read", type=Path, help="in curate's environment: compare with what was written")
    options = parser.parse_args()
    options.data = options.data.resolve()
    options.model = options.model.resolve() if options.model else None
    if options.write:
        target = options.write.resolve()
        target.write_text(json.dumps(write(options)), encoding="utf-8")
        return
    if not options.read:
        parser.error("give --write in lm-eval's environment, then --read in curate's")
    sys.exit(0 if read(options) else 1)


if __name__ == "__main__":
    main()

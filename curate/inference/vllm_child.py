"""The process that vLLM has to itself: a line of JSON in, a line of JSON out, until its input ends.

    {"start": sizes, "device": d}          -> {"version": v}
    {"ask": requests, "how": h, ...}       -> {"news": [[request, tokens, sound, cached], ...], "left": unfinished}
    {"stop": requests}                     -> the same, after one more step of all others

It does nothing between two lines, so that what runs beside what depends on the lines alone. vLLM pins threads, seeds every generator, replaces functions
of torch and opens a process group: none of that reaches the process that asks. This file imports nothing of curate.
"""

import json
import math
import os
import sys
from typing import Any


def started(wanted: dict[str, Any]) -> Any:
    """vLLM's engine with these sizes; ValueError where this build of it computes elsewhere."""
    from vllm import EngineArgs, LLMEngine
    from vllm.platforms import current_platform

    if current_platform.device_type != wanted["device"]:
        raise ValueError(f"this vLLM was built for the device {current_platform.device_type or 'of another machine'}, and {wanted['device']} was asked for")
    return LLMEngine.from_engine_args(EngineArgs(**wanted["start"]))


def ask(engine: Any, wanted: dict[str, Any]) -> None:
    """Hand in requests, each with a seed if its tokens are drawn."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import RequestOutputKind

    adapter = LoRARequest(*wanted["adapter"]) if wanted["adapter"] else None
    for name, tokens, seed in wanted["ask"]:
        how = SamplingParams(**wanted["how"], seed=seed, logprobs=0, ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.DELTA)
        engine.add_request(str(name), {"prompt_token_ids": tokens}, how, lora_request=adapter)


def step(engine: Any, stopped: list[int]) -> dict[str, Any]:
    """One step of all requests but those that are stopped first, and what it gave."""
    if stopped:
        engine.abort_request([str(name) for name in stopped])
    news = []
    for output in engine.step() if engine.has_unfinished_requests() else ():
        new = output.outputs[0]
        nats = [given[token].logprob for token, given in zip(new.token_ids, new.logprobs or (), strict=True)]
        news.append([int(output.request_id), list(new.token_ids), [math.isfinite(one) for one in nats], output.num_cached_tokens or 0])
    return {"news": news, "left": engine.get_num_unfinished_requests()}


def reply(engine: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    if "ask" in wanted:
        ask(engine, wanted)
    return step(engine, wanted.get("stop", []))


def main() -> None:
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever libraries print is no answer

    def say(answer: dict[str, Any]) -> None:
        line = json.dumps(answer).encode() + b"\n"
        while line:
            line = line[os.write(answers, line) :]

    try:
        engine = started(json.loads(sys.stdin.buffer.readline()))
        from vllm import __version__

        say({"version": __version__})
        for line in sys.stdin.buffer:
            say(reply(engine, json.loads(line)))
    except BrokenPipeError:
        return  # whoever asked is gone
    except Exception as error:  # vLLM raises whatever its parts met; it is said in one line over there
        say({"error": " ".join(f"{type(error).__name__}: {error}".split())})


if __name__ == "__main__":
    main()
    os._exit(0)  # threads of vLLM's would hold it for a while, and it has nothing left to say

"""Greedy generation by transformers' continuous batching, with the size of its cache stated instead of guessed.

Left to itself it takes what memory there is and warms up for minutes. Here the cache holds `batch_tokens` tokens, or one longest request if that is
more. It shares whole blocks of equal prompts, knows nothing of presses, and samples with numbers of its own, so that it is offered for greedy
answers alone; they equal the engine's up to rounding, which can tip a tie between two tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from curate.errors import ModelError
from curate.hushed import hushed
from curate.inference.stops import Stops

if TYPE_CHECKING:
    from transformers import ContinuousBatchingConfig

    from curate.model import LanguageModel

Tokens = Sequence[int]
PAGE = 32  # tokens of a block


def stated_sizes(blocks: int, batch_tokens: int) -> "ContinuousBatchingConfig":
    """A cache of so many blocks of `PAGE` tokens, and this many tokens to a pass; without CUDA graphs and kernels that are not at hand."""
    from transformers import ContinuousBatchingConfig

    known = {given.name for given in fields(ContinuousBatchingConfig)}
    page = "page_size" if "page_size" in known else "block_size"  # its name in transformers 5.17
    chosen: dict[str, Any] = {page: PAGE, "num_blocks": blocks, "max_batch_tokens": batch_tokens, "auto_switch_to_flash": False, "use_cuda_graph": False}
    chosen["return_logprobs"] = True  # the only trace that logits without a number leave
    return ContinuousBatchingConfig(**{name: value for name, value in chosen.items() if name in known})


@dataclass
class ContinuousBatching:
    """Runs greedy requests on one model; `decoded_tokens` counts what was generated.

    `broken` says whether logits of the last call were no finite numbers; transformers chooses tokens there all the same, and a version of it that does not
    give log-probabilities leaves no trace of it.
    """

    model: "LanguageModel"
    batch_tokens: int = 8192
    decoded_tokens: int = field(default=0, init=False)
    broken: bool = field(default=False, init=False)

    def generate(self, contexts: Sequence[Tokens], *, max_tokens: int, stops: Stops) -> list[list[int]]:
        """The likeliest token again and again, until a token of the stops (left out), a stop string, or `max_tokens`; equal contexts are run once."""
        from transformers import GenerationConfig

        numbers: dict[tuple[int, ...], int] = {}
        which = [numbers.setdefault(tuple(int(token) for token in context), len(numbers)) for context in contexts]
        if not numbers or max_tokens == 0:
            return [[] for _ in contexts]
        longest = max(map(len, numbers)) + max_tokens
        blocks = max(self.batch_tokens, longest + PAGE) // PAGE + 1
        sizes = stated_sizes(blocks, min(self.batch_tokens, blocks * PAGE))
        how = GenerationConfig(max_new_tokens=max_tokens, do_sample=False, eos_token_id=sorted(stops.tokens) or -1, pad_token_id=self.model.pad)
        with hushed("transformers"):  # which warns of every size that was given
            found = self.model.model.generate_batch(
                inputs=[list(prompt) for prompt in numbers], generation_config=how, continuous_batching_config=sizes, progress_bar=False, warmup=False
            )
        answers = [found[name] for name in sorted(found, key=lambda name: int(name.rsplit("_", 1)[-1]))]
        if len(answers) != len(numbers) or any(answer.error for answer in answers):
            reason = next((str(answer.error) for answer in answers if answer.error), f"{len(answers)} of {len(numbers)} requests came back")
            raise ModelError(f"transformers' continuous batching failed on this model ({reason}); use the engine's own generation")
        self.broken = not all(math.isfinite(nats) for answer in answers for nats in answer.logprobs)
        cut = [self._cut(list(answer.generated_tokens), stops) for answer in answers]
        self.decoded_tokens += sum(map(len, cut))
        return [list(cut[number]) for number in which]

    def _cut(self, generated: Sequence[int], stops: Stops) -> list[int]:
        """What the engine would have kept: it stops as soon as a string is complete, and continuous batching knows of tokens alone."""
        answer: list[int] = []
        for token in generated:
            if not stops.take(answer, int(token)):
                break
        return answer

"""lm-evaluation-harness with this engine inside: its tasks, prompts and metrics, while what requests begin with alike is computed once.

    import lm_eval
    from curate.lm_eval import CurateLM
    lm_eval.simple_evaluate(model=CurateLM("FOLDER"), tasks=["hellaswag"])

    python -m curate.lm_eval run --model curate --model_args pretrained=FOLDER --tasks hellaswag

lm-eval looks for models among its own and those that were imported before, and reads no entry points; so `--model curate` is known to the second command,
which is lm-eval's own once this module is imported. Texts become tokens as in lm-eval's `hf` model, of which this is a subclass, whatever its version.
All requests of a call are one plan. Log-likelihoods and greedy answers equal those of `hf` in float32 up to rounding; answers that are sampled are refused.
"""

import contextlib
import logging
import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from curate.errors import ConfigError, CurateError, DataError, ModelError, NumericError
from curate.hushed import hushed
from curate.inference.stops import Stops
from curate.model_folder import read_config
from curate.settings import ModelSpec
from curate.yaml_reader import clip

if TYPE_CHECKING:
    from curate.model import LanguageModel, ModelHandle


def _end(error: CurateError) -> NoReturn:
    """As curate's own command line ends."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


try:
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.utils import postprocess_generated_text
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ModuleNotFoundError as error:
    if error.name != "lm_eval":
        raise
    absent = ConfigError("curate.lm_eval runs inside lm-eval, which is not installed: pip install 'curate[lm-eval]'")
    if __name__ == "__main__":
        _end(absent)
    raise absent from None

Scored = tuple[Any, list[int], list[int]]  # the texts of a request (None: a window of one), and the tokens of its context and continuation
Wish = tuple[tuple[str, ...], int]  # the strings that end an answer, and the most tokens of one

DTYPES = ("auto", "float32", "bfloat16", "float16")
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # of an answer: the first that is given counts
_OF_SAMPLES = ("temperature", "top_p", "top_k")  # of no consequence where the likeliest token is taken
_NEUTRAL: dict[str, tuple[Any, ...]] = {"num_beams": (None, 1), "use_cache": (None, True)}  # what else may be said, where it changes nothing
# Settings in a model's generation_config.json with which `hf` takes other tokens than the likeliest.
_ALTERING = (
    *("repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens"),
    *("forced_eos_token_id", "min_length", "min_new_tokens", "exponential_decay_length_penalty", "guidance_scale", "num_beams", "stop_strings"),
)
_log = logging.getLogger("lm_eval.curate")  # lm-eval shows what loggers below its own say


class Ends(Stops):
    """As transformers ends answers: with the token that ends them, of which `hf` shows the text unless the token is special."""

    def take(self, answer: list[int], token: int) -> bool:
        """Add the token to the answer; whether the answer goes on."""
        answer.append(token)
        return token not in self.tokens and not self.reached(answer)


@register_model("curate")
class CurateLM(HFLM):  # type: ignore[misc]
    """A model of lm-eval whose requests run through curate.inference.engine; `engine` counts what was computed and what a run without sharing would.

    Memory: the model, and the keys and values of what is shared (engine.peak_bytes); the tokens of all requests of a call are held at once.
    lm-eval's cache of responses (--use_cache) gets them when the call ends.
    """

    def __init__(
        self,
        pretrained: str | Path,
        *,
        revision: str | None = None,
        peft: str | Path | None = None,
        dtype: str = "auto",
        device: str | None = None,
        max_length: int | None = None,
        batch_tokens: int = 8192,
        batch_size: Any = None,
        max_batch_size: Any = None,
        **unknown: Any,
    ) -> None:
        """A folder or Hub id, as for `hf`, and a PEFT folder on top of it.

        `dtype`: that of config.json, or float32, bfloat16, float16. `device`: by default a GPU, if there is one. `max_length`: by default all positions of
        the model. Batches are of `batch_tokens` tokens; lm-eval gives every model a batch size in requests, which means nothing here.
        """
        from curate.inference.engine import Engine
        from curate.model import fresh

        if unknown:
            raise ConfigError(f"model_args: {sorted(unknown)[0]} is unknown; there are pretrained, revision, peft, dtype, device, max_length, batch_tokens")
        if isinstance(batch_tokens, bool) or not isinstance(batch_tokens, int) or batch_tokens < 1:
            raise ConfigError(f"model_args: batch_tokens is {batch_tokens!r}; give a number of tokens")
        self.handle = _handle(pretrained, revision, dtype, max_length)
        base = fresh(self.handle, _device(device))
        with hushed("lm_eval.models.huggingface"):  # which warns of every model that it did not load itself
            super().__init__(pretrained=base.model, tokenizer=base.tokenizer, max_length=max_length)
        self.pretrained, self.revision, self.peft = str(pretrained), revision, str(peft) if peft is not None else None
        self._uses = contextlib.ExitStack()  # the adapter, for as long as this object lives
        self._adapter = ""  # its hash
        self.engine = Engine(self._adapted(base, Path(peft)) if peft is not None else base, batch_tokens=batch_tokens)
        self._warned = False

    def _adapted(self, base: "LanguageModel", folder: Path) -> "LanguageModel":
        from curate.inference.variants import Variants

        variants = Variants(base, {folder.name: folder})
        self._adapter = variants.fingerprint(folder.name)
        return self._uses.enter_context(variants.using(folder.name))

    def _loglikelihood_tokens(self, requests: Sequence[Scored], disable_tqdm: bool = False, override_bs: int | None = None) -> list[tuple[float, bool]]:
        """(log p in nats, whether greedy decoding gives it) of each request's continuation."""
        fitted = [self._fitted(context, continuation) for _, context, continuation in requests]
        cut = sum(len(context) < len(request[1]) for (context, _), request in zip(fitted, requests, strict=True))
        if cut:
            _log.warning("%d of %d requests are longer than the model's %d tokens and lose the beginning of their context", cut, len(requests), self.max_length)
        found = self.engine.score(self.engine.plan([context for context, _ in fitted], [[continuation] for _, continuation in fitted]))
        answers = [(one.loglikelihood, one.greedy) for (one,) in found]
        broken = sum(math.isnan(nats) for nats, _ in answers)
        if broken:
            raise NumericError(f"{self.pretrained}: the logits are no finite numbers for {broken} of {len(answers)} requests; try dtype=float32")
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def _fitted(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """What the model reads of a request: the last token is never fed."""
        if not context or not continuation:
            part = "continuation" if context else "context"
            raise DataError(f"a request has no tokens in its {part} ({clip(ascii(self.tok_decode(context or continuation)))}); mend the task's texts")
        if len(continuation) > self.max_length:
            begins = clip(ascii(self.tok_decode(continuation[:40])))
            raise DataError(f"a continuation of {len(continuation)} tokens does not fit the model's {self.max_length} (it begins {begins}); leave the task out")
        return context[-(self.max_length + 1 - len(continuation)) :], continuation

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """log p of each whole text in nats, in windows of `max_length` tokens in which each token is scored once."""
        texts = [request.args[0] for request in requests]
        windows = [self._windows(text) for text in texts]
        scores = iter(self._loglikelihood_tokens([(None, *window) for several in windows for window in several]))
        totals = [sum((next(scores)[0] for _ in several), 0.0) for several in windows]
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def _windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        windows = get_rolling_token_windows(token_list=self.tok_encode(text), prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1)
        return [make_disjoint_window(window) for window in windows]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The greedy answer to each prompt, up to the first of its stop strings or the end of text; requests with equal settings are one plan."""
        self._warn_of_settings()
        by_wish: dict[Wish, list[int]] = defaultdict(list)
        for place, request in enumerate(requests):
            by_wish[wished(request.args[1], self.max_gen_toks)].append(place)
        answers: dict[int, str] = {}
        for (until, longest), places in by_wish.items():
            answers |= dict(zip(places, self._generated([requests[place].args[0] for place in places], until, longest), strict=True))
        for place, request in enumerate(requests):
            self.cache_hook.add_partial("generate_until", request.args[:2], answers[place])
        return [answers[place] for place in range(len(requests))]

    def _generated(self, prompts: Sequence[str], until: Sequence[str], longest: int) -> list[str]:
        strings = [*until, *([] if self.eot_token_id is None else [self.tok_decode(self.eot_token_id, skip_special_tokens=False)])]
        stops = Ends.at(self._ends(), strings, lambda said: str(self.tokenizer.decode(said)))
        said = self.engine.generate([self._prompt(text, longest) for text in prompts], max_tokens=longest, stops=stops)
        return [str(postprocess_generated_text(self.tok_decode(tokens), strings, None)) for tokens in said]

    def _prompt(self, text: str, longest: int) -> list[int]:
        room = self.max_length - longest
        if room < 1:
            raise ConfigError(f"answers of {longest} tokens leave no room for a prompt in the model's {self.max_length}; give gen_kwargs a lower max_gen_toks")
        tokens = self.tok_batch_encode([text], left_truncate_len=room)[0][0].tolist()
        return [int(token) for token in tokens] or [self.prefix_token_id]

    def _ends(self) -> set[int]:
        """The tokens at which transformers ends an answer."""
        given = self.model.generation_config.eos_token_id
        several = given if isinstance(given, (list, tuple)) else [given]
        return {int(token) for token in (*several, self.eot_token_id) if token is not None}

    def _warn_of_settings(self) -> None:
        """`hf` hands this file to transformers, which applies it to greedy answers too."""
        found = {name: value for name in _ALTERING if (value := getattr(self.model.generation_config, name, None)) not in (None, 0, 1, [])}
        if found and not self._warned:
            named = ", ".join(f"{name} {value!r}" for name, value in found.items())
            _log.warning("%s: generation_config.json has %s, which hf applies to greedy answers; here the likeliest token is taken", self.pretrained, named)
        self._warned = True

    def get_model_info(self) -> dict[str, Any]:
        """For lm-eval's results: which model this was, how many tokens were computed, and how many a run without sharing would have."""
        engine = self.engine
        return {
            "model_num_parameters": self.model.num_parameters(),
            "model_dtype": self.handle.dtype,
            "model_revision": self.revision,
            "model_sha": self.handle.fingerprint,
            **({"peft_sha": self._adapter} if self.peft else {}),
            "forward_tokens": engine.forward_tokens,
            "asked_tokens": engine.asked_tokens,
            "unshared": engine.unshared,
        }


def wished(options: Mapping[str, Any], longest: int) -> Wish:
    """A request's stop strings and the most tokens of its answer, `longest` by default; ConfigError for what greedy decoding cannot give."""
    for name, value in options.items():
        if name not in ("until", "do_sample", *_LENGTHS, *_OF_SAMPLES) and value not in _NEUTRAL.get(name, ()):
            raise ConfigError(f"gen_kwargs: {name} is {value!r}, which greedy decoding does not know; leave it out, or use --model hf")
    sampled, temperature = options.get("do_sample"), options.get("temperature")
    if sampled or (sampled is None and temperature):
        raise ConfigError(f"gen_kwargs: do_sample {sampled!r} with temperature {temperature!r} draws answers; say do_sample=False, or use --model hf")
    until = options.get("until")
    strings = [until] if isinstance(until, str) else list(until or [])
    if not all(isinstance(string, str) and string for string in strings):
        raise ConfigError(f"gen_kwargs: until is {until!r}; give strings that are not empty")
    limit = next((options[name] for name in _LENGTHS if options.get(name) is not None), longest)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ConfigError(f"gen_kwargs: max_gen_toks is {limit!r}; give a number of tokens")
    return tuple(strings), limit


def _handle(pretrained: str | Path, revision: str | None, dtype: str, max_length: int | None) -> "ModelHandle":
    from curate.model import resolve

    if dtype not in DTYPES:
        raise ConfigError(f"model_args: dtype is {dtype!r}; give one of {', '.join(DTYPES)}")
    if max_length is not None and (isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 8):
        raise ConfigError(f"model_args: max_length is {max_length!r}; give a number of tokens, at least 8")
    handle = resolve(ModelSpec(path=str(pretrained), revision=revision, max_length=max_length), Path())
    config = read_config(handle.path)
    kept = config.get("text_config", {}).get("dtype") or config.get("dtype") or config.get("torch_dtype") or "float32"
    if dtype == "auto" and kept not in DTYPES:
        raise ModelError(f"{handle.path / 'config.json'}: dtype is {kept!r}; say dtype=float32 or another of {', '.join(DTYPES[1:])}")
    return replace(handle, dtype=kept if dtype == "auto" else dtype)


def _device(wanted: str | None) -> str:
    """lm-eval's command line asks for cuda:0 unless it is told otherwise; without a GPU that is the CPU, as for `hf`."""
    import torch

    name = wanted or "cuda"
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ConfigError(f"device is {wanted!r}, which torch does not know; give cpu, cuda or cuda:NUMBER") from error
    if kind == "cuda" and not torch.cuda.is_available():
        _log.info("there is no GPU; the model runs on the CPU")
        return "cpu"
    return name


def main() -> None:
    """lm-eval's own command line, to which `--model curate` is known."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except CurateError as error:
        _end(error)


if __name__ == "__main__":
    main()

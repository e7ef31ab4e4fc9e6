"""One task of lm-evaluation-harness as its YAML describes it: which documents, what is asked of each, and how answers are scored.

The keys and their meaning are those of lm-eval 0.4.13, with two differences: `data` names local files, and a list or a mapping of templates is
taken as it stands. Keys that run code or need the Hub are refused where the file is read (curate.harness.reading).
"""

import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, Field, field_validator, model_validator

from curate.core import Config

Output = Literal["multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until"]
MetricName = Literal[
    "acc",
    "acc_norm",
    "acc_bytes",
    "acc_mutual_info",
    "exact_match",
    "pass@k",
    "perplexity",
    "word_perplexity",
    "byte_perplexity",
    "bits_per_byte",
]
Aggregation = Literal["mean", "perplexity", "weighted_perplexity", "bits_per_byte"]
FilterName = Literal["regex", "take_first", "take_first_k", "majority_vote", "remove_whitespace", "lowercase", "uppercase"]
Texts = str | Annotated[list[str], Field(min_length=1)]
Files = Texts | dict[str, Texts]  # of one split, or by split

METRICS: dict[Output, tuple[MetricName, ...]] = {
    "multiple_choice": ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"),
    "loglikelihood": ("perplexity", "acc"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "generate_until": ("exact_match", "pass@k"),
}
DEFAULT_METRICS: dict[Output, tuple[MetricName, ...]] = {
    "multiple_choice": ("acc", "acc_norm"),
    "loglikelihood": ("perplexity", "acc"),
    "loglikelihood_rolling": METRICS["loglikelihood_rolling"],
    "generate_until": ("exact_match",),
}
AGGREGATIONS: dict[MetricName, tuple[Aggregation, ...]] = {  # the default first
    "perplexity": ("perplexity", "mean"),
    "word_perplexity": ("weighted_perplexity",),
    "byte_perplexity": ("weighted_perplexity",),
    "bits_per_byte": ("bits_per_byte",),
}
LOWER_IS_BETTER = frozenset(AGGREGATIONS)


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{value!r} is no regular expression: {error}") from None
    return value


class DatasetKwargs(Config):
    """What lm-eval passes to `datasets.load_dataset`."""

    data_files: Files | None = Field(None, description="Local files of the split `train`, or by split.")
    trust_remote_code: Literal[False] = Field(False, description="Remote code is never run.")


class FewshotConfig(Config):
    """How few-shot examples are drawn and written, where that differs from the question itself."""

    sampler: Literal["default", "first_n"] = Field("default", description="Drawn for each document, or always the first.")
    split: str | None = None
    samples: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = Field(None, description="The examples themselves, in place of a split.")
    doc_to_text: str | int | None = None
    doc_to_target: str | int | list[str] | None = None
    doc_to_choice: Texts | dict[str, str] | None = None
    gen_prefix: str | None = None
    fewshot_delimiter: str | None = None
    target_delimiter: str | None = None


class Metric(Config):
    """A metric by name; the options are those of exact_match, which pass@k shares."""

    metric: MetricName
    aggregation: Aggregation | None = None
    higher_is_better: bool | None = None
    hf_evaluate: Literal[False] = Field(False, description="Metrics of Hugging Face evaluate are code from the Hub.")
    ignore_case: bool = False
    ignore_punctuation: bool = False
    ignore_numbers: bool = False
    regexes_to_ignore: list[Annotated[str, Field(max_length=2000)]] = []
    k: list[Annotated[int, Field(ge=1)]] = Field([1], min_length=1, description="Of pass@k; ours, lm-eval has no such metric.")

    @property
    def how(self) -> Aggregation:
        return self.aggregation or AGGREGATIONS.get(self.metric, ("mean",))[0]

    @field_validator("regexes_to_ignore")
    @classmethod
    def _patterns(cls, value: list[str]) -> list[str]:
        return [_pattern(one) for one in value]

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        allowed = AGGREGATIONS.get(self.metric, ("mean",))
        if self.how not in allowed:
            raise ValueError(f"{self.metric} is aggregated by {' or '.join(allowed)}, not by {self.how}")
        if self.higher_is_better is not None and self.higher_is_better == (self.metric in LOWER_IS_BETTER):
            raise ValueError(f"{self.metric} is better when it is {'lower' if self.metric in LOWER_IS_BETTER else 'higher'}; mend or remove higher_is_better")
        options = {"ignore_case", "ignore_punctuation", "ignore_numbers", "regexes_to_ignore", "k"} & self.model_fields_set
        idle = sorted(options - {"k"} if self.metric not in ("exact_match", "pass@k") else options & {"k"} if self.metric == "exact_match" else ())
        if idle:
            raise ValueError(f"{self.metric} has no option {', '.join(idle)}; remove it")
        return self


class Step(Config):
    """One function over the responses of a document."""

    function: FilterName
    regex_pattern: Annotated[str, Field(max_length=2000)] = r"#### (\-?[0-9\.\,]+)"
    group_select: int = Field(0, description="Which match counts; -1 is the last.")
    fallback: str = Field("[invalid]", description="What stands for no match.")
    k: int | None = Field(None, ge=1, description="Of take_first_k.")

    @field_validator("regex_pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        return _pattern(value)

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        own = {"regex": {"regex_pattern", "group_select", "fallback"}, "take_first_k": {"k"}}.get(self.function, set())
        if idle := sorted(self.model_fields_set - own - {"function"}):
            raise ValueError(f"{self.function} has no option {', '.join(idle)}; remove it")
        if self.function == "take_first_k" and self.k is None:
            raise ValueError("take_first_k needs k")
        return self


class Filter(Config):
    """A named chain of functions; every metric is computed once for each chain."""

    name: str = Field(min_length=1)
    filter: list[Step] = Field(min_length=1)

    @field_validator("filter")
    @classmethod
    def _reduces_last(cls, steps: list[Step]) -> list[Step]:
        if any(step.function == "take_first" for step in steps[:-1]):
            raise ValueError("take_first leaves one answer, so it must be the last function")
        return steps


class GenerationKwargs(Config):
    """When an answer ends, and how its tokens are chosen; greedy unless do_sample, or else the temperature, says otherwise."""

    until: str | list[str] | None = Field(None, description="Texts that end the answer; default: the few-shot delimiter.")
    max_gen_toks: int | None = Field(None, ge=1, description="Longest answer in tokens; default 256.")
    max_new_tokens: int | None = Field(None, ge=1, description="Another name of max_gen_toks.")
    do_sample: bool | None = None
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.do_sample and not self.temperature:
            raise ValueError("do_sample: true needs a temperature above 0")
        if self.max_gen_toks is not None and self.max_new_tokens is not None:
            raise ValueError("max_gen_toks and max_new_tokens mean the same; keep one")
        return self

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn."""
        return self.temperature > 0 if self.do_sample is None else self.do_sample


class TaskFile(Config):
    """The fields of a task file; defaults are lm-eval's."""

    task: str | None = Field(None, min_length=1)
    task_alias: str | None = None
    tag: Texts | None = None
    include: Texts | None = Field(None, description="Task files whose keys this one's replace.")
    data: Files | None = Field(None, description="Files of the documents that are asked, or by split; ours, lm-eval has dataset_path.")
    dataset_path: str | None = Field(None, min_length=1, description="parquet, json or csv with dataset_kwargs.data_files; or a file or folder.")
    dataset_name: str | None = None
    dataset_kwargs: DatasetKwargs | None = None
    training_split: str | None = None
    validation_split: str | None = None
    test_split: str | None = None
    fewshot_split: str | None = None
    output_type: Output = "generate_until"
    description: str = ""
    doc_to_text: str | int | None = None
    doc_to_target: str | int | list[str] | None = None
    doc_to_choice: Texts | dict[str, str] | None = None
    gen_prefix: str | None = None
    target_delimiter: str = " "
    fewshot_delimiter: str = "\n\n"
    fewshot_config: FewshotConfig = FewshotConfig()
    num_fewshot: int | None = Field(None, ge=0)
    metric_list: list[Metric] | None = Field(None, min_length=1)
    generation_kwargs: GenerationKwargs | None = None
    repeats: int = Field(1, ge=1, le=10_000)
    filter_list: list[Filter] | None = Field(None, min_length=1)
    should_decontaminate: bool = False
    doc_to_decontamination_query: str | None = None
    metadata: dict[str, Any] = {}

    @property
    def shots(self) -> int:
        return self.num_fewshot or 0

    @property
    def shot_split(self) -> str | None:
        """The split that fewshot_config or fewshot_split names."""
        return self.fewshot_config.split or self.fewshot_split

    @property
    def asked_split(self) -> str | None:
        return self.test_split if self.test_split is not None else self.validation_split

    @property
    def metrics(self) -> list[Metric]:
        """Those of metric_list, or the defaults of the output type."""
        return self.metric_list or [Metric(metric=name) for name in DEFAULT_METRICS[self.output_type]]

    @property
    def until(self) -> list[str]:
        """The texts that end a generated answer."""
        given = self.generation_kwargs.until if self.generation_kwargs else None
        return [self.fewshot_delimiter] if given is None else [given] if isinstance(given, str) else given

    @property
    def max_gen_toks(self) -> int:
        given = self.generation_kwargs or GenerationKwargs()
        return given.max_gen_toks or given.max_new_tokens or 256

    @property
    def version(self) -> str:
        """metadata.version as text; empty if there is none."""
        return str(self.metadata.get("version", ""))


def fields_at(path: tuple[str | int, ...]) -> list[str]:
    """The keys allowed at a place of a task file, for the nearest name in an error."""
    known: type[BaseModel] | None = TaskFile
    for step in path:
        if known is not None and isinstance(step, str):
            field = known.model_fields.get(step)
            known = _model_in(field.annotation) if field else None
    return list(known.model_fields) if known is not None else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for argument in get_args(annotation) if (found := _model_in(argument))), None)

"""The text of the recipe that `curate init` writes: everything that it computes, and in comments what else there is."""

import re
from dataclasses import dataclass
from typing import Any

from curate.data.source import Source
from curate.errors import ConfigError
from curate.report.wording import visible

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RESERVED = ("zero_shot", "random", "full")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_WORDS = ("null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan")
_TEMPLATE = """# What `curate init` made of your files. `curate list` shows every scorer, selector and task; `curate list scorers less` says all of one.
# Relative paths start from this file.
name: {name}

# The rows to choose from.
pool:
{pool}

# What the model should become good at. {selected_for} rows, drawn by their content, are selected for.
target:
  {target_name}:
{target}
    sample: {selected_for}

model: {model}

# Rows that say the same are chosen once, and rows that hold an item of the target or the evaluation are left out, since a copy of the answer is no gain.
# target_overlap: the evaluation below reads the same file; it leaves out the rows that are selected for, by their ids, so the two do not meet.
# The report counts what is in both. With an evaluation file of its own, remove target_overlap: a target made of its items is then refused.
hygiene: {{deduplicate: near, decontaminate: true, target_overlap: 100%}}

# How a row is compared with the target: computed once, shared by all arms. None of these needs a GPU; hidden states are faster with one.
features:
{features}
  # gradient: {{name: less}}    # influence on the target, by gradients of a short warm-up: the dearest; for a machine with a GPU, or a small model
  # surprise: {{name: loss}}    # how unlikely the model finds the answer; for selectors that read scores, such as coverage

# What is compared. Round-robin gives every row of the target its share; transport spreads the choice as the target is spread.
arms:
{arms}
  # gradient: {{vectors: gradient, selector: {{name: round_robin}}}}
  # mean: {{vectors: hidden, selector: {{name: top_k}}}}    # nearest to the target's average: loses parts of a wide target
baselines: [zero_shot, random, full] # the model as it is; random rows; the whole pool for as many tokens

budgets: [{budget}] # or a number of rows, or "2M tokens"; several are compared side by side
seeds: [0, 1, 2] # more seeds, narrower intervals

# Every arm sees the same number of tokens. A rate for {rate_of}; lower it if losses jump.
train: {{epochs: 2, learning_rate: {rate}, match: tokens}}

# Rows of the target's file that are not selected for, about {held_out}. Better: a file of its own, that no row of the pool or target comes from.
evaluate:
  - task: likelihood
    data:
{evaluated}
    limit: 500
  # - {{task: {{name: exact_match, extract: text}}, data: [...], limit: 500}}    # generates answers and compares them: slower, and nearer to what you want
"""
_WORDS_FEATURE = "  words: {name: bm25} # the words that it shares with a target row: seconds"
_HIDDEN_FEATURE = "  hidden: {name: rds} # the model's hidden states: a forward pass over the pool"


@dataclass(frozen=True)
class Chosen:
    """What the recipe says."""

    name: str
    pools: list[tuple[Source, str, str, list[str], bool]]  # source, reading, rows, columns to group by, whether rows name their licence
    target: tuple[Source, str, str]  # source, reading, name
    selected_for: int
    held_out: int
    model: str
    lora: bool
    words: bool  # whether rows have text to compare
    budget: str

    @property
    def arms(self) -> list[str]:
        """The names of the arms."""
        return [*(["words"] if self.words else []), "hidden", "transport"]


def recipe_text(chosen: Chosen) -> str:
    """The recipe as commented YAML."""
    source, reading, target_name = chosen.target
    selectors = {"words": "{similarity: words, selector: {name: round_robin}}", "hidden": "{vectors: hidden, selector: {name: round_robin}}"}
    selectors["transport"] = "{vectors: hidden, selector: {name: transport}}"
    return _TEMPLATE.format(
        name=scalar(chosen.name),
        pool="\n".join(_pool(*one) for one in chosen.pools),
        target="\n".join(_fields(source, "    ", reading)),
        target_name=scalar(target_name),
        selected_for=chosen.selected_for,
        held_out=chosen.held_out,
        model=f"{{path: {scalar(chosen.model)}" + (", lora: {r: 16, alpha: 32}} # adapters; without lora: all weights are trained" if chosen.lora else "}"),
        features="\n".join([*([_WORDS_FEATURE] if chosen.words else []), _HIDDEN_FEATURE]),
        arms="\n".join(f"  {name}: {selectors[name]}" for name in chosen.arms),
        budget=chosen.budget,
        rate="2.0e-4" if chosen.lora else "1.0e-4",
        rate_of="adapters" if chosen.lora else "all weights",
        evaluated="\n".join(["      - " + line.strip() if not number else line for number, line in enumerate(_fields(source, "        ", ""))]),
    )


def run_name(text: str, fallback: str = "") -> str:
    """`text` as a name of a run or target: what a name cannot hold becomes a hyphen, where a fallback is given, and is refused otherwise."""
    made = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:64] if fallback else text
    if _NAME.fullmatch(made) and made not in _RESERVED:
        return made
    if fallback:
        return fallback
    raise ConfigError(f"--name {text!a} is no run name: use letters, digits, '.', '_' and '-', at most 64, beginning with a letter or digit")


def scalar(value: Any) -> str:
    """A value as it stands in a recipe; text that could be read as something else is quoted, and what cannot be printed escaped."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(scalar, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{scalar(key)}: {scalar(item)}' for key, item in value.items())}}}"
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return '"' + "".join(_escaped(character) for character in text) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08x}"


def _fields(source: Source, indent: str, reading: str) -> list[str]:
    """The fields of a source, a line each; the first says how the columns are read."""
    given = source.model_dump(exclude_defaults=True)
    lines = [f"{indent}{name}: {scalar(value)}" for name, value in given.items()]
    return [f"{lines[0]} # {_comment(reading)}" if reading else lines[0], *lines[1:]]


def _pool(source: Source, reading: str, rows: str, groups: list[str], licensed: bool) -> str:
    first, *others = _fields(source, "    ", f"{rows}, {reading}")
    lines = ["  - " + first.strip(), *others]
    if groups and source.group is None:
        lines.append(f"    # group: {_comment(scalar(groups[0]))} # by this column the report counts sources, and quotas can be set")
    if not licensed and source.license is None:
        lines.append("    # license: cc-by-4.0 # of these rows; kept with each and stated in the card of an export")
    return "\n".join(lines)


def _comment(text: str) -> str:
    return visible(text.replace("\n", " "))[:160]

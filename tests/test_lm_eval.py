"""lm-eval on the engine says what lm-eval's own `hf` model says, item by item. Tests that run lm-eval are skipped where it is not installed."""

import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

STORY = "Anna went to the harbour to see the ships. The lookout asked who was there, and the captain said that nobody knew. "
PLACES = ("the hill", "the ship", "the house by the sea", "a town")


class Sides:
    """The engine's model and `hf`, which counts what it computes."""

    def __init__(self, ours: Any, theirs: Any) -> None:
        self.ours, self.theirs, self.computed = ours, theirs, 0
        theirs.model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.computed += int((arguments[0] if arguments else named["input_ids"]).numel())

    def ask(self, verb: str, requests: Sequence[tuple[Any, ...]]) -> tuple[Any, Any, int, int]:
        """(our answers, those of `hf`, tokens that each computed)."""
        from lm_eval.api.instance import Instance

        asked = [Instance(request_type=verb, doc={}, arguments=arguments, idx=i) for i, arguments in enumerate(requests)]
        before = self.ours.engine.forward_tokens, self.computed
        mine, peer = getattr(self.ours, verb)(asked), getattr(self.theirs, verb)(asked)
        return mine, peer, self.ours.engine.forward_tokens - before[0], self.computed - before[1]


def sides(folder: Path, *, peft: Path | None = None, **options: Any) -> Sides:
    pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM

    from curate.lm_eval import CurateLM

    given = {**options, "peft": str(peft)} if peft else options
    return Sides(CurateLM(str(folder), device="cpu", **given), HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1, **given))


@pytest.fixture(scope="module")
def pair(tiny: Path) -> Sides:
    return sides(tiny)


@pytest.fixture(autouse=True)
def no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")


def equal_pairs(mine: list[tuple[float, bool]], peer: list[tuple[float, bool]]) -> None:
    assert [score for score, _ in mine] == pytest.approx([score for score, _ in peer], abs=2e-4)
    assert [greedy for _, greedy in mine] == [greedy for _, greedy in peer]


def test_loglikelihoods_and_greedy_flags_equal_those_of_hf(pair: Sides) -> None:
    shots = "".join(f"Question {i}: where did Anna go?\nAnswer: {PLACES[i % 4]}.\n" for i in range(8))
    asked = [(f"{shots}Question: {STORY * (i % 2)}where did Clara go, {i}?\nAnswer:", f" {place}") for i in range(6) for place in PLACES]
    mine, peer, ours, theirs = pair.ask("loglikelihood", asked)
    equal_pairs(mine, peer)
    assert 5 * ours < theirs  # the shots are computed once


def test_what_hf_generates_is_greedy_on_both_sides(pair: Sides) -> None:
    contexts = ["Anna said", "The captain saw", "Nobody", "Then"]
    said = pair.ask("generate_until", [(context, {"max_gen_toks": 5}) for context in contexts])[1]
    mine, peer, *_ = pair.ask("loglikelihood", [*zip(contexts, said, strict=True), *((context, " zebra") for context in contexts)])
    equal_pairs(mine, peer)
    assert {greedy for _, greedy in mine[:4]} == {True} and {greedy for _, greedy in mine[4:]} == {False}


@pytest.mark.parametrize(
    ("context", "continuation"),
    [
        ("", "hello there"),  # the prefix token stands for the context
        ("", "<|bos|>hello"),  # which is not said twice
        ("hello ", "there"),  # white space moves
        ("hel", "lo there"),  # a token reaches across the border
        ("<|bos|>hello", " there"),
        ("hello\n\n", " "),
        (STORY * 40, "and"),  # does not fit
        ("so", STORY * 12),
    ],
)
def test_every_kind_of_border_is_cut_as_hf_cuts_it(pair: Sides, context: str, continuation: str) -> None:
    mine, peer, *_ = pair.ask("loglikelihood", [(context, continuation)])
    equal_pairs(mine, peer)


def test_requests_that_differ_in_their_border_alone_are_scored_as_hf_scores_each_by_itself(pair: Sides) -> None:
    asked = [("we go to", " the town"), ("we go", " to the town"), ("we", " go to the town"), ("we go to the", " ship")]
    mine, *_ = pair.ask("loglikelihood", asked)
    equal_pairs(mine, [pair.ask("loglikelihood", [one])[1][0] for one in asked])


def test_whole_texts_equal_those_of_hf(pair: Sides) -> None:
    asked = [(STORY,), (STORY * 30,), ("",), (STORY + STORY[:40],), (STORY * 30 + "And so on.",)]
    mine, peer, ours, theirs = pair.ask("loglikelihood_rolling", asked)
    assert len(pair.theirs.tok_encode(STORY * 30)) > 2 * pair.ours.max_length
    assert mine == pytest.approx(peer, rel=1e-5, abs=1e-4) and mine[2] == 0
    assert 1.5 * ours < theirs


def test_another_max_length_gives_hfs_windows_and_cuts(tiny: Path) -> None:
    short = sides(tiny, max_length=16)
    mine, peer, *_ = short.ask("loglikelihood_rolling", [(STORY,), (STORY[:20],)])
    assert mine == pytest.approx(peer, abs=1e-3)
    equal_pairs(*short.ask("loglikelihood", [(STORY, " and"), (STORY, STORY[:30])])[:2])
    assert short.ours.max_length == 16


def test_generated_answers_equal_those_of_hf(pair: Sides) -> None:
    contexts = [STORY * 3 + start for start in ("Anna said", "The captain saw", "Then", "Nobody", "Clara could think of")]
    settings: list[dict[str, Any]] = [
        {"until": ["."], "max_gen_toks": 24},
        {"until": "\n", "do_sample": False, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 12},
        {"until": ["the ", " all", "who asked"], "temperature": 0.0, "max_gen_toks": 20},
        {"max_tokens": 9, "num_beams": 1},
    ]
    asked: list[tuple[Any, ...]] = [(context, dict(chosen)) for chosen in settings for context in contexts]
    mine, peer, ours, theirs = pair.ask("generate_until", asked)
    assert mine == peer
    assert len(set(mine)) > 5
    assert 2 * ours < theirs


def test_answers_end_where_the_model_ends_them(pair: Sides) -> None:
    asked: list[tuple[Any, ...]] = [(f"<|user|>{question}<|assistant|>", {}) for question in ("Where is Anna?", "2 + 2", "Say yes")]
    mine, peer, *_ = pair.ask("generate_until", asked)
    assert mine == peer
    assert all(0 < len(pair.ours.tok_encode(text)) < 30 for text in mine)  # of 256 that they may have


def test_no_token_is_computed_behind_a_stop_string(pair: Sides) -> None:
    mine, peer, ours, _ = pair.ask("generate_until", [("Anna said that the", {"until": ["ships", "who", "e"], "max_gen_toks": 200})])
    assert mine == peer
    assert ours < len(pair.ours.tok_encode("Anna said that the" + mine[0])) + 5


def test_a_token_at_which_the_models_settings_end_an_answer_is_shown_as_by_hf(pair: Sides, tiny: Path, tmp_path: Path) -> None:
    asked = [("Anna said", {"max_gen_toks": 10})]
    third = pair.ours.tok_encode(pair.ask("generate_until", asked)[1][0], add_special_tokens=False)[2]
    shutil.copytree(tiny, tmp_path / "model")
    settings = tmp_path / "model" / "generation_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"eos_token_id": [2, third]}))
    other = sides(tmp_path / "model")
    mine, peer, *_ = other.ask("generate_until", asked)
    assert mine == peer
    assert mine[0].endswith(other.ours.tok_decode([third])) and len(other.ours.tok_encode(mine[0])) <= 3


def test_a_prompt_that_leaves_no_room_loses_its_beginning_as_in_hf(pair: Sides) -> None:
    mine, peer, *_ = pair.ask("generate_until", [(STORY * 40 + "Anna", {"max_gen_toks": 500}), (STORY * 40, {"max_gen_toks": 8})])
    assert mine == peer


def test_an_empty_prompt_is_the_prefix_token(pair: Sides) -> None:
    from lm_eval.api.instance import Instance

    empty, bos = (pair.ours.generate_until([Instance("generate_until", {}, (text, {"max_gen_toks": 6}), 0)]) for text in ("", "<|bos|>"))
    assert empty == bos


def saved_adapter(base: Path, folder: Path) -> Path:
    """An adapter with random weights, large enough to change what is said."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(3)
        settings = peft.LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(str(folder))
    return folder


def test_an_adapter_changes_the_answers_as_it_changes_those_of_hf(tiny: Path, pair: Sides, tmp_path: Path) -> None:
    adapted = sides(tiny, peft=saved_adapter(tiny, tmp_path / "adapter.one"))
    asked = [(STORY, f" {place}") for place in PLACES]
    mine, peer, *_ = adapted.ask("loglikelihood", asked)
    equal_pairs(mine, peer)
    assert abs(mine[0][0] - pair.ask("loglikelihood", asked)[0][0][0]) > 0.01
    mine, peer, *_ = adapted.ask("generate_until", [(STORY, {"max_gen_toks": 12})])
    assert mine == peer
    assert adapted.ours.get_model_info()["peft_sha"]


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A folder with three tasks, one of each kind, and their documents."""
    rows = [{"question": f"Where did Anna go, {i}?", "choices": list(PLACES), "answer": i % 4, "text": f"{STORY}{PLACES[i % 4]}"} for i in range(5)]
    (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    common = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.json")}}, "test_split": "test", "num_fewshot": 0}
    several: dict[str, dict[str, Any]] = {
        "places": {
            "output_type": "multiple_choice", "doc_to_text": "{{text}}. {{question}}", "doc_to_choice": "{{choices}}", "doc_to_target": "answer",
            "fewshot_split": "test",
        },
        "texts": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"},
        "said": {
            "output_type": "generate_until", "doc_to_text": "{{text}}", "doc_to_target": "{{choices[answer]}}",
            "generation_kwargs": {"until": ["."], "max_gen_toks": 8}, "metric_list": [{"metric": "exact_match"}],
        },
    }  # fmt: skip
    for name, settings in several.items():
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"task": name, **common, **settings}))
    return tmp_path


def test_lm_evals_evaluation_gives_the_same_metrics(pair: Sides, task: Path) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    found = []
    for model in (pair.ours, pair.theirs):
        manager = TaskManager(include_path=str(task), include_defaults=False)
        found.append(lm_eval.simple_evaluate(model=model, tasks=["places", "texts", "said"], task_manager=manager, bootstrap_iters=0))
    mine, peer = found
    for name, results in peer["results"].items():
        for metric, value in results.items():
            assert mine["results"][name][metric] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value), (name, metric)
    assert mine["results"]["places"]["acc,none"] >= 0 and mine["results"]["texts"]["word_perplexity,none"] > 1
    assert [row["resps"] for row in mine["samples"]["said"]] == [row["resps"] for row in peer["samples"]["said"]]
    assert mine["config"]["forward_tokens"] < mine["config"]["asked_tokens"]

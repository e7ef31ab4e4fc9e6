"""Rows of several variants in one pass give what each variant gives alone; a prefix of the base would not."""

from pathlib import Path

import pytest
import torch
import transformers as t

from curate.errors import ModelError
from curate.inference.attention import ours
from curate.inference.mixed import Results, score_mixed
from curate.inference.own_attention import score
from curate.inference.passes import Pass, forward, logits_of
from curate.inference.plan import Layout
from curate.inference.prefill import prefill
from curate.inference.scoring import ScoringPlan, ScoringRun, plan_scoring
from curate.inference.variants import Variants
from curate.model import LanguageModel
from curate.testing.random_models import ARCHITECTURES, Architecture, random_model
from tests.inference.random_adapters import loaded_alone, save_adapter
from tests.inference.test_shared_prefixes import requests

LAYOUTS = [Layout(), Layout(row=64, subtree=128, batch=512, floor=0), Layout(row=16, subtree=16, batch=48, floor=0)]
NAMES = [None, "attention", "head", "embedding"]


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Variants:
    top = tmp_path_factory.mktemp("adapters")
    folders = {
        "attention": save_adapter(top / "attention", 1),
        "head": save_adapter(top / "head", 2, target_modules=["k_proj", "down_proj", "lm_head"], r=8, use_rslora=True),
        "embedding": save_adapter(top / "embedding", 3, target_modules=["v_proj", "embed_tokens"]),
    }
    return Variants(random_model(), folders)


def one_after_the_other(variants: Variants, plans: dict[str | None, ScoringPlan]) -> Results:
    found: Results = {}
    for name, wanted in plans.items():
        with variants.using(name) as model, torch.inference_mode(), ours(model.model):
            found[name] = ScoringRun(model, wanted).results()
    return found


def assert_equal(found: Results, wanted: Results) -> None:
    assert list(found) == list(wanted)
    for name, results in wanted.items():
        for mine, theirs in zip(found[name], results, strict=True):
            for ours_, other in zip(mine, theirs, strict=True):
                assert ours_.tokens == pytest.approx(other.tokens, abs=1e-5)
                assert ours_.loglikelihood == pytest.approx(other.loglikelihood, abs=3e-5)
                assert ours_.greedy == other.greedy


@pytest.mark.parametrize("tokens", [1, 700, 10**6])  # one variant to a pass, some, and all
@pytest.mark.parametrize("layout", LAYOUTS)
def test_mixed_rows_equal_one_variant_after_the_other(variants: Variants, layout: Layout, tokens: int) -> None:
    plan = plan_scoring(*requests(6, shared=30), layout)
    assert_equal(score_mixed(variants, NAMES, plan, tokens=tokens), one_after_the_other(variants, dict.fromkeys(NAMES, plan)))


@pytest.mark.parametrize("order", [[1, 0, 3, 2], [3, 2]])
def test_variants_with_plans_of_their_own_run_side_by_side(variants: Variants, order: list[int]) -> None:
    plans = {NAMES[i]: plan_scoring(*requests(3 + 2 * i, shared=10 * i + 5, seed=i), LAYOUTS[i % 3]) for i in order}
    assert_equal(score_mixed(variants, [NAMES[i] for i in order], plans), one_after_the_other(variants, plans))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_variant_equals_peft_alone_without_any_cache(tmp_path: Path, architecture: Architecture) -> None:
    folders = {str(seed): save_adapter(tmp_path / str(seed), seed, architecture=architecture) for seed in (1, 2)}
    base = random_model(architecture)
    contexts, continuations = requests(5, shared=20)
    found = score_mixed(Variants(base, folders), [*folders, None], plan_scoring(contexts, continuations, LAYOUTS[1]))
    for name, results in found.items():
        alone = LanguageModel(loaded_alone(folders[name] if name else None, architecture=architecture), base.tokenizer, "cpu", {})
        for context, texts, several in zip(contexts, continuations, results, strict=True):
            for text, scored in zip(texts, several, strict=True):
                with torch.inference_mode():
                    assert scored.tokens == pytest.approx(score(alone, context, text).tokens, abs=1e-5)


def test_more_variants_than_are_resident_come_in_groups(variants: Variants) -> None:
    plan = plan_scoring(*requests(4, shared=20))
    few = Variants(random_model(), {name: folder.file.parent for name, folder in variants._folders.items()}, resident=2)
    assert_equal(score_mixed(few, NAMES, plan), one_after_the_other(variants, dict.fromkeys(NAMES, plan)))


def test_a_long_stretch_goes_in_chunks(variants: Variants, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.inference.mixed.CHUNK", 7)
    plan = plan_scoring(*requests(4, shared=40), LAYOUTS[2])
    assert_equal(score_mixed(variants, NAMES, plan), one_after_the_other(variants, dict.fromkeys(NAMES, plan)))


def test_the_prefix_of_the_base_is_wrong_behind_an_ordinary_adapter(variants: Variants) -> None:
    shared, after = list(range(2, 42)), torch.tensor([[50, 51, 52]])
    positions = torch.arange(40, 43).unsqueeze(0)
    alone = loaded_alone(variants._folders["attention"].file.parent)
    with torch.no_grad():
        wanted = alone(input_ids=torch.tensor([[*shared, 50, 51, 52]])).logits[0, 40:]
    with torch.inference_mode(), ours(variants.base.model):
        of_base, _ = prefill(variants.base, shared)
        with variants.using("attention") as model:
            own, _ = prefill(model, shared)
            right = logits_of(model, forward(model, after, positions, Pass([own]))[0])
            wrong = logits_of(model, forward(model, after, positions, Pass([of_base]))[0])
    assert torch.allclose(right, wanted, atol=1e-4)
    assert (wrong - wanted).abs().max() > 0.1 * wanted.std()


def test_what_cannot_be_mixed_is_refused(tmp_path: Path) -> None:
    folders = {
        "dora": save_adapter(tmp_path / "dora", use_dora=True),
        "activated": save_adapter(tmp_path / "activated", alora_invocation_tokens=[5]),
        "plain": save_adapter(tmp_path / "plain"),
    }
    variants, plan = Variants(random_model(), folders), plan_scoring([[3, 4]], [[[5]]])
    for name in ("dora", "activated"):
        with pytest.raises(ModelError, match=f"{name} is an? .*whose rows cannot be mixed"):
            score_mixed(variants, ["plain", name], plan)


def test_a_model_that_cannot_share_prefixes_is_refused_with_the_reason(tmp_path: Path) -> None:
    torch.manual_seed(0)
    bloom = t.BloomForCausalLM(t.BloomConfig(vocab_size=97, hidden_size=64, n_layer=2, n_head=4)).eval()
    base = LanguageModel(bloom, random_model().tokenizer, "cpu", {})
    variants = Variants(base, {"a": save_adapter(tmp_path / "a")})
    with pytest.raises(ModelError, match="cannot share what they begin with: .*evaluate ordinary adapters one by one, with `using`"):
        score_mixed(variants, [None, "a"], plan_scoring([[3, 4]], [[[5]]]))

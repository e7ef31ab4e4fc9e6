"""Real runs of the Hugging Face Trainer come out as the weights, moments and rates that they had while they ran."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

from curate.core import Checkpoint, Row
from curate.errors import ModelError, SafetyError
from curate.interfaces import ScoringContext
from curate.model import LanguageModel, apply_weights, fresh, read_weights, resolve
from curate.moments import load_moments
from curate.scorers.less import Less
from curate.settings import Lora, ModelSpec
from curate.store import Store, Workspace, atomic_write
from curate.trainer_folder import _trainer_order, convert, fingerprint, lora_of, trainer_checkpoints

LORA = Lora(r=4, alpha=8, targets=["k_proj", "q_proj"])
NAME = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"  # number 0 of the run with adapters
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:fan_in_fan_out")


class Watch(transformers.TrainerCallback):
    """What the run held at each checkpoint, and the rate that each step was taken with."""

    def __init__(self, names: dict[str, torch.nn.Parameter]) -> None:
        self.names, self.rates, self.kept = names, list[float](), dict[int, tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.rates.append(given["optimizer"].param_groups[0]["lr"])

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        live = {name: given["optimizer"].state[parameter] for name, parameter in self.names.items()}
        moments = {f"{kind}.{name}": live[name][part].clone() for name in live for kind, part in (("first", "exp_avg"), ("second", "exp_avg_sq"))}
        self.kept[state.global_step] = ({name: parameter.detach().clone() for name, parameter in self.names.items()}, moments)


class Ran(NamedTuple):
    folder: Path
    watch: Watch
    trainer: Any
    model: LanguageModel  # curate's own, as loaded from the base model


def ours(tiny: Path, lora: Lora | None) -> LanguageModel:
    return fresh(resolve(ModelSpec(path=str(tiny), lora=lora), tiny))


def run(tiny: Path, folder: Path, lora: Lora | None = None, **arguments: Any) -> Ran:
    """Six steps of the Trainer on random rows, a checkpoint after every third."""
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    if lora:
        model = peft.get_peft_model(model, peft.LoraConfig(r=lora.r, lora_alpha=int(lora.alpha), target_modules=list(lora.targets), task_type="CAUSAL_LM"))
    watch = Watch({name.replace(".default.", "."): parameter for name, parameter in model.named_parameters() if parameter.requires_grad})
    rows = [{"input_ids": (ids := torch.randint(3, 1000, (12,))), "labels": ids} for _ in range(12)]
    settings = {"max_steps": 6, "save_steps": 3, "logging_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "weight_decay": 0.1}
    given = transformers.TrainingArguments(str(folder), **settings | {"report_to": "none", "use_cpu": True, "disable_tqdm": True} | arguments)
    trainer = transformers.Trainer(model=model, args=given, train_dataset=rows, callbacks=[watch])
    trainer.train()
    return Ran(folder, watch, trainer, ours(tiny, lora))


@pytest.fixture(scope="module")
def adapted(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run(tiny, tmp_path_factory.mktemp("lora"), LORA)


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("full")
    return run(tiny, folder, logging_steps=2, lr_scheduler_type="cosine", warmup_steps=2, adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-6)


@pytest.fixture(params=["adapted", "whole"])
def ran(request: pytest.FixtureRequest) -> Ran:
    return request.getfixturevalue(request.param)


@pytest.fixture
def copied(adapted: Ran, tmp_path: Path) -> Path:
    return Path(shutil.copytree(adapted.folder / "checkpoint-3", tmp_path / "run" / "checkpoint-3"))


def write(files: dict[str, bytes], folder: Path) -> Path:
    for name in files:
        atomic_write(folder / name, files[name])
    return folder


def change(file: Path, edit: Callable[[Any], object]) -> None:
    value = json.loads(file.read_bytes()) if file.suffix == ".json" else torch.load(file)
    edit(value)
    file.write_text(json.dumps(value)) if file.suffix == ".json" else torch.save(value, file)


def test_weights_and_moments_are_those_of_the_live_run_bit_for_bit(ran: Ran, tmp_path: Path) -> None:
    folders = trainer_checkpoints(ran.folder)
    assert [folder.name for folder in folders] == ["checkpoint-3", "checkpoint-6"]
    for step, folder, before in zip((3, 6), folders, (None, folders[0]), strict=True):
        path = write(convert(folder, ran.model, previous=before), tmp_path / str(step))
        assert json.loads((path / "state.json").read_bytes())["step"] == step
        for found, live in zip((read_weights(path), load_file(path / "moments.safetensors")), ran.watch.kept[step], strict=True):
            assert set(found) == set(live) and all(tensor.dtype == live[name].dtype and torch.equal(tensor, live[name]) for name, tensor in found.items())


def test_the_direction_from_the_moments_is_the_next_step_of_the_restored_optimizer(ran: Ran, tmp_path: Path) -> None:
    moments = load_moments(write(convert(ran.folder / "checkpoint-3", ran.model, previous=None), tmp_path))
    twins = {id(live): torch.nn.Parameter(torch.zeros_like(live, dtype=torch.float64)) for live in ran.watch.names.values()}
    restored = torch.optim.AdamW([{"params": [twins[id(parameter)] for parameter in group["params"]]} for group in ran.trainer.optimizer.param_groups])
    restored.load_state_dict(torch.load(ran.folder / "checkpoint-3/optimizer.pt"))
    for group in restored.param_groups:
        group["lr"] = 1.0  # of parameters that are zero: weight decay does nothing
    torch.manual_seed(0)
    for twin in twins.values():
        twin.grad = torch.randn_like(twin) * 1e-2
    restored.step()
    for name, twin in zip(ran.watch.names, twins.values(), strict=True):
        torch.testing.assert_close(moments.direction(name, twin.grad.flatten()[None])[0], -twin.detach().flatten(), rtol=1e-5, atol=1e-6)


def rate(folder: Path, model: LanguageModel, previous: Path | None) -> float:
    return float(json.loads(convert(folder, model, previous=previous)["state.json"])["learning_rate"])


def test_the_learning_rate_is_the_mean_of_the_logged_ones_of_the_steps_since_the_checkpoint_before(adapted: Ran, whole: Ran) -> None:
    for ran, first, second in ((adapted, slice(0, 3), slice(3, 6)), (whole, [1], [3, 5])):  # the latter logged every other step
        three, six, rates = ran.folder / "checkpoint-3", ran.folder / "checkpoint-6", np.array(ran.watch.rates)
        assert len(set(rates)) > 3
        assert rate(three, ran.model, None) == pytest.approx(rates[first].mean(), rel=1e-12)
        assert rate(six, ran.model, three) == pytest.approx(rates[second].mean(), rel=1e-12)


def test_where_no_step_was_logged_the_rates_in_the_schedulers_are_joined_by_a_line(adapted: Ran, tmp_path: Path) -> None:
    shutil.copytree(adapted.folder, tmp_path, dirs_exist_ok=True)
    for folder in (three := tmp_path / "checkpoint-3", six := tmp_path / "checkpoint-6"):
        change(folder / "trainer_state.json", lambda state: state.update(log_history=[{"step": 6, "train_loss": 1.0}]))
    assert rate(three, adapted.model, None) == pytest.approx(np.mean(adapted.watch.rates[:3]), rel=1e-12)  # the decay was linear
    assert rate(six, adapted.model, three) == pytest.approx(np.mean(adapted.watch.rates[3:]), rel=1e-12)
    (three / "scheduler.pt").unlink()
    with pytest.raises(ModelError, match="neither logged a learning rate"):
        rate(six, adapted.model, three)
    change(three / "trainer_state.json", lambda state: state.update(log_history=[{"step": 3, "learning_rate": 0.0}]))
    with pytest.raises(ModelError, match=r"mean learning rate from step 0 to 3 is 0\.0"):  # it would leave the checkpoint out unseen
        rate(three, adapted.model, None)


def test_a_converted_run_goes_through_the_store_into_a_scorer(ran: Ran, tmp_path: Path) -> None:
    def make(workspace: Workspace) -> dict[str, Any]:
        write(convert(ran.folder / "checkpoint-3", ran.model, previous=None), workspace.path / "checkpoint")
        return {}

    path = Store(tmp_path).build("trainer", make, fields={}, inputs=[fingerprint(ran.folder)]).path / "checkpoint"
    batch = ran.model.batch([Row(np.arange(3, 15, dtype=np.int32), np.arange(12) > 4)])
    vectors = Less(width=64).score(batch, ScoringContext(model=ran.model, checkpoints=[Checkpoint(path, 3, 1e-3)]))
    assert torch.isfinite(vectors).all() and vectors.any()


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "GPTNeoX", "GPT2"])  # RMS and layer norms under many names, and biases
@pytest.mark.parametrize("adapters", [False, True])
def test_the_order_is_that_of_the_installed_trainer(family: str, adapters: bool, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{family}Config")(vocab_size=60, hidden_size=192, num_hidden_layers=2))
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")) if adapters else model
    names = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    trainer = transformers.Trainer(model=model, args=transformers.TrainingArguments(str(tmp_path), report_to="none", use_cpu=True))
    theirs = [[name for given in group["params"] for name in names if names[name] is given] for group in trainer.create_optimizer().param_groups]
    assert list(_trainer_order(LanguageModel(model, None, "cpu", names))) == theirs
    assert bool(theirs[1]) is not adapters


def test_a_state_by_name_as_fsdp_saves_it_gives_the_same(ran: Ran, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(ran.folder / "checkpoint-3", tmp_path / "checkpoint-3"))
    wanted = convert(folder, ran.model, previous=None)
    optimizer = torch.optim.AdamW([{"params": group["params"]} for group in ran.trainer.optimizer.param_groups])
    optimizer.load_state_dict(torch.load(folder / "optimizer.pt"))
    named = get_optimizer_state_dict(ran.trainer.model, optimizer, options=StateDictOptions(full_state_dict=True))  # as accelerate does
    torch.save(named, folder / "optimizer.bin")
    (folder / "optimizer.pt").unlink()
    assert convert(folder, ran.model, previous=None) == wanted


def test_names_in_the_parameter_groups_outrank_the_order(copied: Path, adapted: Ran) -> None:
    wanted, saved = convert(copied, adapted.model, previous=None), torch.load(copied / "optimizer.pt")
    live = [name for name, parameter in adapted.trainer.model.named_parameters() if parameter.requires_grad]
    saved["state"] = {len(live) - 1 - key: value for key, value in saved["state"].items()}
    saved["param_groups"] = [{**saved["param_groups"][0], "param_names": live[::-1]}]
    torch.save(saved, copied / "optimizer.pt")
    assert convert(copied, adapted.model, previous=None) == wanted


def test_tied_weights_may_be_there_twice_if_they_agree(whole: Ran, tmp_path: Path) -> None:
    file = Path(shutil.copytree(whole.folder / "checkpoint-6", tmp_path / "checkpoint-6")) / "model.safetensors"
    wanted, saved = convert(file.parent, whole.model, previous=None), load_file(file)
    save_file(saved | {"lm_head.weight": saved["model.embed_tokens.weight"].clone()}, file)
    assert convert(file.parent, whole.model, previous=None) == wanted
    save_file(saved | {"lm_head.weight": saved["model.embed_tokens.weight"] + 1}, file)
    with pytest.raises(ModelError, match="differs from the weights that it is tied to"):
        convert(file.parent, whole.model, previous=None)


def test_weights_in_shards_are_read_and_none_from_outside(whole: Ran, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole.folder / "checkpoint-6", tmp_path / "checkpoint-6"))
    wanted = convert(folder, whole.model, previous=None)
    (folder / "model.safetensors").unlink()
    whole.trainer.model.save_pretrained(folder, max_shard_size="300KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2 and convert(folder, whole.model, previous=None) == wanted
    for name, error in (("../x.safetensors", SafetyError), ("x.safetensors", ModelError)):
        change(folder / "model.safetensors.index.json", lambda index, name=name: index["weight_map"].update({"model.norm.weight": name}))
        with pytest.raises(error, match=name):
            fingerprint([folder])


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda saved: saved["state"][0].update(exp_avg=torch.zeros(8, 64)), f"{NAME} is a torch.float32 of shape .8, 64., expected floats of shape .4, 128."),
        (lambda saved: saved["state"][0].update(exp_avg="none"), "is a str"),
        (lambda saved: saved["state"][0]["exp_avg_sq"].fill_(float("nan")), f"NaN or infinity in {NAME}"),
        (lambda saved: [entry["step"].fill_(4) for entry in saved["state"].values()], "took 4 steps but .*trainer_state.json 3"),
        (lambda saved: saved["param_groups"][0].update(param_names=[NAME] * 16), "no moments of base_model"),
        (lambda saved: saved["param_groups"][1]["params"].append(saved["param_groups"][0]["params"].pop()), r"groups of \[15, 1\].*are \[16\]"),
    ],
)
def test_moments_that_do_not_fit_the_model_are_refused(edit: Callable[[Any], object], said: str, copied: Path, adapted: Ran) -> None:
    change(copied / "optimizer.pt", edit)
    with pytest.raises(ModelError, match=said):
        convert(copied, adapted.model, previous=None)


def test_weights_that_do_not_fit_the_model_are_refused(copied: Path, adapted: Ran) -> None:
    good = load_file(copied / "adapter_model.safetensors")
    less, more = {name: tensor for name, tensor in good.items() if name != NAME}, good | {"lm_head.lora_A.weight": torch.zeros(4, 128)}
    for tensors, said in ((less, f"no weights of {NAME}"), (more, "holds lm_head"), (good | {NAME: good[NAME].int()}, "expected floats")):
        save_file(tensors, copied / "adapter_model.safetensors")
        with pytest.raises(ModelError, match=said):
            convert(copied, adapted.model, previous=None)


def test_a_model_with_other_adapters_or_none_is_refused(adapted: Ran, whole: Ran, tiny: Path) -> None:
    twice = ours(tiny, Lora(r=4, alpha=16, targets=["k_proj", "q_proj"]))  # a scale that no tensor would betray
    for ran, model, said in ((adapted, whole.model, "but the model has no adapters"), (whole, adapted.model, "all weights, but"), (adapted, twice, "alpha 16")):
        with pytest.raises(ModelError, match=said):
            convert(ran.folder / "checkpoint-3", model, previous=None)


def test_files_that_are_absent_or_in_disorder_are_named(copied: Path, adapted: Ran) -> None:
    six = adapted.folder / "checkpoint-6"
    assert trainer_checkpoints([six, copied]) == [copied, six]
    assert fingerprint(copied.parent) == fingerprint([adapted.folder / "checkpoint-3"]) != fingerprint([six])
    for given, said in ((copied, "no checkpoint-N folders"), ([copied, adapted.folder / "checkpoint-3"], "are of one step")):
        with pytest.raises(ModelError, match=said):
            trainer_checkpoints(given)
    with pytest.raises(ModelError, match="step 6.* does not come before"):
        convert(copied, adapted.model, previous=six)
    for name in ("optimizer.pt", "adapter_model.safetensors", "trainer_state.json"):
        (copied / name).unlink()
        with pytest.raises(ModelError, match=name):
            fingerprint([copied])


def peft_saved(tiny: Path, folder: Path, **options: Any) -> Any:
    torch.manual_seed(0)
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", "target_modules": ["q_proj"], "init_lora_weights": False, **options})
    model = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(tiny), config)
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize(
    ("options", "targets"),
    [
        ({"target_modules": ["v_proj", "down_proj"], "lora_dropout": 0.25}, ["down_proj", "v_proj"]),
        ({"target_modules": r".*\.[02]\.self_attn\.[kq]_proj"}, [f"model.layers.{i}.self_attn.{kind}_proj" for i in (0, 2) for kind in "kq"]),
        ({"target_modules": ["o_proj"], "layers_to_transform": [1]}, ["model.layers.1.self_attn.o_proj"]),
        ({"target_modules": "all-linear", "use_rslora": True}, sorted(f"{kind}_proj" for kind in ("q", "k", "v", "o", "gate", "up", "down"))),
    ],
)
def test_the_adapters_that_peft_saved_make_the_same_model_of_ours(options: dict[str, Any], targets: list[str], tiny: Path, tmp_path: Path) -> None:
    theirs, lora = peft_saved(tiny, tmp_path, **options), lora_of(tmp_path)
    assert lora and (lora.targets, lora.dropout) == (targets, options.get("lora_dropout", 0.0))
    made = ours(tiny, lora)
    apply_weights(made.names, load_file(tmp_path / "adapter_model.safetensors"))
    torch.testing.assert_close(made.model(torch.arange(3, 20)[None]).logits, theirs(torch.arange(3, 20)[None]).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("option", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "all"}, {"init_lora_weights": "pissa"}])
def test_adapters_that_ours_cannot_be_are_refused(option: dict[str, Any], tiny: Path, tmp_path: Path) -> None:
    peft_saved(tiny, tmp_path, **option)
    assert lora_of(tiny) is None
    with pytest.raises(ModelError, match=f"adapter_config.json: {next(iter(option))} is .*plain LoRA"):
        lora_of(tmp_path)

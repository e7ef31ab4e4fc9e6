"""What the model inside lm-eval refuses and warns of, and lm-eval's command line with it. Skipped where lm-eval is not installed, but for its absence."""

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from curate.errors import ConfigError, DataError, ModelError, SafetyError


class Absent:
    """Finds no lm-eval, wherever it is installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name == "lm_eval":
            raise ModuleNotFoundError("No module named 'lm_eval'", name=name)
        return None


def test_without_lm_eval_the_import_says_in_a_line_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "curate.lm_eval", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(ConfigError, match=r"^curate.lm_eval runs inside lm-eval, which is not installed: pip install 'curate\[lm-eval\]'$"):
        import curate.lm_eval  # noqa: F401


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"do_sample": True, "temperature": 0.8}, "do_sample True with temperature 0.8"),
        ({"temperature": 0.8}, "temperature 0.8"),
        ({"do_sample": "false"}, "do_sample 'false'"),
        ({"repetition_penalty": 1.2}, "repetition_penalty is 1.2"),
        ({"num_beams": 4}, "num_beams is 4"),
        ({"max_length": 99}, "max_length is 99"),
        ({"until": ["a", ""]}, r"until is \['a', ''\]"),
        ({"until": [7]}, r"until is \[7\]"),
        ({"max_gen_toks": 0}, "max_gen_toks is 0"),
        ({"max_gen_toks": "many"}, "max_gen_toks is 'many'"),
    ],
)
def test_what_greedy_decoding_cannot_give_is_refused_in_a_line(options: dict[str, Any], named: str) -> None:
    pytest.importorskip("lm_eval")
    from curate.lm_eval import wished

    with pytest.raises(ConfigError, match=named) as caught:
        wished(options, 256)
    assert "\n" not in str(caught.value)


def test_the_first_length_that_is_given_counts() -> None:
    pytest.importorskip("lm_eval")
    from curate.lm_eval import wished

    assert wished({"max_tokens": 3, "max_gen_toks": 5, "max_new_tokens": 4, "until": "x"}, 256) == (("x",), 5)
    assert wished({"max_completion_tokens": 3, "max_tokens": None}, 256) == ((), 3)
    assert wished({}, 256) == ((), 256)


@pytest.fixture(scope="module")
def model(tiny: Path) -> Any:
    return made(tiny)


def made(folder: Path, **options: Any) -> Any:
    pytest.importorskip("lm_eval")
    from curate.lm_eval import CurateLM

    return CurateLM(folder, **({"device": "cpu"} | options))


def asked(model: Any, verb: str, *arguments: tuple[Any, ...]) -> Any:
    from lm_eval.api.instance import Instance

    return getattr(model, verb)([Instance(request_type=verb, doc={}, arguments=one, idx=i) for i, one in enumerate(arguments)])


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"trust_remote_code": True}, ConfigError, "trust_remote_code is unknown; there are pretrained, "),
        ({"batch_tokens": 0}, ConfigError, "batch_tokens is 0"),
        ({"dtype": "int8"}, ConfigError, "dtype is 'int8'; give one of auto, float32"),
        ({"max_length": "long"}, ConfigError, "max_length is 'long'"),
        ({"max_length": 4096}, ModelError, "more than the 512 positions"),
        ({"device": "gpu"}, ConfigError, "device is 'gpu', which torch does not know"),
        ({"peft": "nowhere"}, ModelError, "nowhere does not exist"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(tiny: Path, options: dict[str, Any], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        made(tiny, **options)


def copied(tiny: Path, to: Path, file: str, **values: Any) -> Path:
    """The model with other values in one of its files."""
    shutil.copytree(tiny, to)
    (to / file).write_text(json.dumps(json.loads((to / file).read_text()) | values))
    return to


def test_a_model_that_asks_for_code_of_its_own_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(SafetyError, match="auto_map"):
        made(copied(tiny, tmp_path / "model", "config.json", auto_map={"AutoModel": "own.Model"}))


def test_the_dtype_is_by_default_that_of_the_model(tiny: Path, tmp_path: Path) -> None:
    half = made(copied(tiny, tmp_path / "half", "config.json", dtype="bfloat16"))
    assert (half.get_model_info()["model_dtype"], str(half.model.dtype)) == ("bfloat16", "torch.bfloat16")
    with pytest.raises(ModelError, match="dtype is 'float64'; say dtype=float32"):
        made(copied(tiny, tmp_path / "double", "config.json", dtype="float64"))


def test_without_a_gpu_the_model_runs_on_the_cpu(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert {str(made(tiny, device=device).device) for device in (None, "cuda:0", "cpu")} == {"cpu"}


def test_a_setting_of_the_model_that_hf_would_apply_is_warned_of_once(tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    changed = made(copied(tiny, tmp_path / "model", "generation_config.json", repetition_penalty=1.5))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            asked(changed, "generate_until", ("Anna", {"max_gen_toks": 2}))
    assert [record.message for record in caplog.records if "repetition_penalty 1.5" in record.message] == [caplog.records[-1].message]


def test_no_setting_of_this_model_is_warned_of(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    asked(model, "generate_until", ("Anna", {"max_gen_toks": 2}))
    asked(model, "loglikelihood", ("Anna", " went"))
    assert [record.message for record in caplog.records if record.name == "lm_eval.curate"] == []


def test_what_loses_the_beginning_of_its_context_is_counted(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    asked(model, "loglikelihood", ("so " * 900, "on"), ("so", " on"), ("so " * 400, "on"))
    assert "1 of 3 requests are longer than the model's 512 tokens" in caplog.text


def test_what_cannot_be_scored_is_refused(model: Any) -> None:
    with pytest.raises(DataError, match="no tokens in its continuation"):
        asked(model, "loglikelihood", ("hello", ""))
    with pytest.raises(DataError, match="does not fit the model's 512"):
        asked(model, "loglikelihood", ("hello", " so on" * 600))
    with pytest.raises(ConfigError, match="answers of 512 tokens leave no room"):
        asked(model, "generate_until", ("hello", {"max_gen_toks": 512}))


def test_nothing_to_do_is_no_error(model: Any) -> None:
    assert [asked(model, verb) for verb in ("loglikelihood", "loglikelihood_rolling", "generate_until")] == [[], [], []]


def test_answers_go_to_lm_evals_cache_under_its_keys(tiny: Path) -> None:
    kept: dict[tuple[str, str], Any] = {}
    model = made(tiny)
    model.cache_hook.add_partial = lambda verb, request, answer: kept.__setitem__((verb, json.dumps(list(request))), answer)
    requests = {"loglikelihood": ("Anna", " went"), "loglikelihood_rolling": ("Anna went",), "generate_until": ("Anna", {"max_gen_toks": 2})}
    found = {verb: asked(model, verb, request)[0] for verb, request in requests.items()}
    assert kept == {(verb, json.dumps(list(request))): found[verb] for verb, request in requests.items()}


def test_the_model_is_registered(model: Any) -> None:
    from lm_eval.api.registry import get_model

    assert get_model("curate") is type(model)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A folder with one task and its documents."""
    rows = [{"question": f"Where did Anna go, {i}? She went to the", "answer": i % 2} for i in range(4)]
    (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    settings = {"task": "places", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.json")}}, "test_split": "test"}
    settings |= {"output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": ["ship", "hill"], "doc_to_target": "answer"}
    (tmp_path / "places.yaml").write_text(json.dumps(settings))
    return tmp_path


@pytest.fixture
def quiet() -> Iterator[None]:
    """lm-eval's loggers as they were before it set them up."""
    logger = logging.getLogger("lm_eval")
    before = logger.level, logger.propagate, list(logger.handlers)
    yield
    logger.level, logger.propagate, logger.handlers[:] = before[0], before[1], before[2]


def run_lm_eval(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    from curate.lm_eval import main

    monkeypatch.setattr(sys, "argv", ["lm_eval", "run", "--model", "curate", *arguments])
    main()


def test_the_command_line_knows_the_model(
    tiny: Path, task: Path, quiet: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval")
    model = f"pretrained={tiny},batch_tokens=512"
    run_lm_eval(monkeypatch, "--model_args", model, "--tasks", "places", "--include_path", str(task), "--device", "cpu", "--output_path", str(task / "out"))
    assert "|places|" in capsys.readouterr().out
    (written,) = (task / "out").rglob("results_*.json")
    config = json.loads(written.read_text())["config"]
    assert config["model"] == "curate" and 0 < config["forward_tokens"] < config["asked_tokens"]


def test_an_error_of_the_engine_is_one_line_on_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lm_eval")
    import lm_eval.__main__

    def refuse() -> None:
        raise ConfigError("gen_kwargs: num_beams is 4")

    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", refuse)
    with pytest.raises(SystemExit) as end:
        run_lm_eval(monkeypatch)
    assert end.value.code == 2 and capsys.readouterr().err == "error: gen_kwargs: num_beams is 4\n"

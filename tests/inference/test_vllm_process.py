"""Whatever vLLM's process does, it costs one line, and nothing of it stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from curate.errors import ConfigError, ModelError
from curate.inference import vllm_process
from curate.inference.vllm_process import VllmProcess, build
from tests.inference.vllm_twin import program

ECHO = """
    wanted = hear()
    say({"version": 1})
    for line in sys.stdin:
        say({"heard": json.loads(line), "wanted": wanted, "offline": os.environ["HF_HUB_OFFLINE"], "size": "VLLM_CPU_KVCACHE_SPACE" in os.environ})
        open(os.path.join(os.environ["TMPDIR"], "left"), "w").close()
"""


def process(body: str, patience: float = 60.0, device: str = "cpu") -> VllmProcess:
    return VllmProcess({"model": "folder"}, device, patience=patience, command=program(body))


def gone(started: VllmProcess) -> bool:
    return started._process is None and not psutil.Process().children()


def test_every_message_has_its_answer_from_one_process_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "40")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    started = process(ECHO, device="cuda:1")
    assert not psutil.Process().children()  # none before it is needed
    first, second = started.exchange({"a": 1}), started.exchange({"b": [2] * 100_000})
    assert first == {"heard": {"a": 1}, "wanted": {"start": {"model": "folder"}, "device": "cuda"}, "offline": "1", "size": False}
    assert second["heard"] == {"b": [2] * 100_000} and len(psutil.Process().children()) == 1
    assert len(list(tmp_path.iterdir())) == 1
    started.close()
    assert gone(started) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("hear(); say({'error': 'ValueError: no memory'})", "vLLM failed \\(ValueError: no memory\\); leave --vllm out, and the engine generates by itself"),
        ("hear(); say({}); hear(); say({'error': 'KeyError: 3'})", "vLLM failed \\(KeyError: 3\\)"),
        ("sys.exit(7)", "vLLM's process ended by itself \\(exit code 7\\); leave --vllm out"),
        ("hear(); say({}); hear(); os.kill(os.getpid(), 9)", "ended by itself \\(signal 9\\)"),
        ("hear(); say({}); hear(); sys.stdout.write('{'); sys.stdout.flush(); os._exit(1)", "ended by itself \\(exit code 1\\)"),
    ],
)
def test_a_failure_is_one_line_and_no_process_stays(body: str, said: str) -> None:
    started = process(body)
    with pytest.raises(ModelError, match=said) as caught:
        started.exchange({})
    assert "\n" not in str(caught.value) and gone(started)


@pytest.mark.parametrize(
    "body", ["time.sleep(600)", "hear(); say({}); hear(); time.sleep(600)", "import signal\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(600)"]
)
def test_a_process_that_says_nothing_is_ended_when_its_time_is_up(body: str) -> None:
    started, before = process(body, patience=0.5), time.monotonic()
    with pytest.raises(ModelError, match="vLLM said nothing for 0.5 seconds and was ended"):
        started.exchange({})
    assert gone(started) and time.monotonic() - before < 30


def test_after_a_failure_a_new_process_is_started() -> None:
    started = process("hear(); say({}); n = hear(); say({'error': 'x'} if n else {'well': 1})")
    with pytest.raises(ModelError):
        started.exchange({"bad": 1})
    assert started.exchange({}) == {"well": 1}
    started.close()
    assert gone(started)


def test_one_that_does_not_end_by_itself_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_process, "_ENDING", 0.5)
    started = process("hear(); say({}); hear(); say({}); time.sleep(600)")
    started.exchange({})
    started.close()
    assert gone(started)


def test_an_interrupt_takes_the_process_along(monkeypatch: pytest.MonkeyPatch) -> None:
    started = process("hear(); say({}); hear(); time.sleep(600)")

    def interrupt() -> None:
        if started._process is not None and time.monotonic() > begun + 0.5:
            raise KeyboardInterrupt

    begun = time.monotonic()
    monkeypatch.setattr(vllm_process, "beat", interrupt)
    with pytest.raises(KeyboardInterrupt):
        started.exchange({})
    assert gone(started)


def test_it_ends_when_whoever_started_it_is_killed(root: Path, tmp_path: Path) -> None:
    body = "import time\nfrom tests.inference.test_vllm_process import ECHO, process\np = process(ECHO)\np.exchange({})\n"
    body += "print(p._process.pid, flush=True)\ntime.sleep(600)"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", body], cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        os.kill(parent.pid, signal.SIGKILL)
    child.wait(timeout=30)


def test_only_the_gpu_that_was_asked_for_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [vllm_process._visible(device).get("CUDA_VISIBLE_DEVICES") for device in ("cuda", "cuda:1", "cpu")] == ["4", "6", None]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert vllm_process._visible("cuda:1") == {"CUDA_VISIBLE_DEVICES": "1"}


def test_without_vllm_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="^--vllm needs vLLM, which is not installed; pip install 'curate\\[vllm\\]', or leave --vllm out$"):
        build()

"""Recorded passes give the answers of passes that are computed one by one: on a CPU, where a recording computes again, and as CUDA graphs."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from curate.core import Integers
from curate.inference import recorded
from curate.inference.attention import ours
from curate.inference.decoding import Decoding
from curate.inference.generation import GenerationRun, plan_generation
from curate.inference.growing import Growing
from curate.inference.plan import Layout
from curate.inference.recorded import Compute, Steps, recorder
from curate.inference.stops import Stops
from curate.model import LanguageModel
from curate.testing.random_models import ARCHITECTURES, Architecture, random_model
from tests.inference.test_generation import alone, prompts

DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")])]
SIZES = [(Layout(), 70), (Layout(row=16, subtree=24, batch=64, floor=0), 150)]  # tokens of an answer: after the first 64 too few to record, or many


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


class Recorder:
    """Counts recordings and replays, and on a CPU stands for a graph: the same addresses, computed again."""

    def __init__(self, device: str) -> None:
        self.record = recorder(device) or (lambda compute: compute)
        self.rows: list[int] = []
        self.replayed = 0

    def __call__(self, compute: Compute) -> Compute:
        replay = self.record(compute)

        def counted() -> torch.Tensor:
            logits = replay()
            self.replayed += 1
            self.rows.append(len(logits))
            return logits

        return counted


def answers(model: LanguageModel, contexts: list[list[int]], layout: Layout, growing: Growing) -> list[list[int]]:
    with torch.inference_mode(), ours(model.model):
        found = GenerationRun(model, plan_generation(contexts, layout), growing).run()
    return [found[i] for i in range(len(contexts))]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("layout", "tokens"), SIZES)
def test_answers_are_those_of_the_models_own_attention(architecture: Architecture, layout: Layout, tokens: int, device: str) -> None:
    model, contexts = random_model(architecture, device=device), prompts()
    model.model.double()
    record = Recorder(device)
    assert answers(model, contexts, layout, Growing(model, tokens, record=record)) == alone(model, contexts, Stops(), tokens)
    waves = record.replayed / (62 if tokens == 70 else tokens - 1 - recorded.SETTLED)
    assert waves >= 1 and waves.is_integer()  # all but the first passes of each wave


def test_rows_that_ended_are_computed_on_while_most_go_on(device: str) -> None:
    model = random_model(device=device)
    contexts = [[5 + i, 7] for i in range(16)]
    record = Recorder(device)

    def going(logits: torch.Tensor, asked: Integers, step: int) -> torch.Tensor:
        return logits[:, :96].argmax(-1)

    def ending(logits: torch.Tensor, asked: Integers, step: int) -> torch.Tensor:
        ended = torch.from_numpy(asked < max(0, step - 9)).to(logits.device)  # from step 10 on, one answer ends at each
        return torch.where(ended, 96, going(logits, asked, step))

    free = answers(model, contexts, Layout(), Growing(model, 40, choose=going))
    growing = Growing(model, 40, Stops.at([96]), ending, record)
    found = answers(model, contexts, Layout(), growing)
    assert [len(answer) for answer in found] == [min(40, 10 + i) for i in range(16)]
    assert all(answer == whole[: len(answer)] for answer, whole in zip(found, free, strict=True))
    assert list(dict.fromkeys(record.rows)) == [16, 12, 9]  # rows are dropped where a quarter has ended; six, and then four, are soon fewer
    assert growing.decoded_tokens < sum(map(len, found)) * 4 / 3


def test_a_model_that_cannot_be_recorded_is_computed(device: str) -> None:
    def refuse(compute: Compute) -> Compute:
        compute()
        raise RuntimeError("operation not permitted when stream is capturing")

    model, contexts = random_model(device=device), prompts()
    wanted = answers(model, contexts, Layout(), Growing(model, 30))
    growing = Growing(model, 30, record=refuse)
    assert answers(model, contexts, Layout(), growing) == wanted


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_that_asks_the_gpu_for_a_number_is_computed_and_the_next_is_recorded() -> None:
    model, contexts = random_model(device="cuda"), prompts()
    wanted = answers(model, contexts, Layout(), Growing(model, 30))
    hook = model.model.get_input_embeddings().register_forward_hook(lambda module, given, output: output * (2.0 if output.sum().item() == 0.5 else 1.0))
    asked = Recorder("cuda")
    assert answers(model, contexts, Layout(), Growing(model, 30, record=asked)) == wanted and not asked.replayed
    hook.remove()
    record = Recorder("cuda")
    assert answers(model, contexts, Layout(), Growing(model, 30, record=record)) == wanted and record.replayed


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_recording_takes_the_memory_of_the_one_before() -> None:
    model = random_model(device="cuda")
    reserved = []
    for _ in range(8):
        record = Recorder("cuda")
        answers(model, prompts(), Layout(), Growing(model, 30, record=record))
        assert record.replayed
        reserved.append(torch.cuda.memory_reserved())
    assert len(set(reserved[2:])) == 1


def test_nothing_is_recorded_for_few_passes_or_before_the_rows_have_settled(device: str) -> None:
    model = random_model(device=device)
    for tokens, replays in ((recorded.SETTLED + recorded.WORTH, 0), (recorded.SETTLED + recorded.WORTH + 1, recorded.WORTH)):
        record = Recorder(device)
        answers(model, [[5, 7], [9, 2]], Layout(), Growing(model, tokens, record=record))
        assert record.replayed == replays


def test_a_state_stands_until_rows_are_dropped(device: str) -> None:
    model = random_model(device=device)
    owners = torch.zeros(3, dtype=torch.long, device=device)
    with torch.inference_mode(), ours(model.model):
        standing, plain = (Steps(model, Decoding([], None, owners), None) for _ in range(2))
        generator = np.random.default_rng(4)
        for step in range(140):
            tokens = torch.from_numpy(generator.integers(2, 97, len(owners))).to(device)
            positions = torch.full_like(tokens, step)
            if step in (2, 64, 90, 128):
                left = standing.state.stand()
                assert left == 64 - step % 64
            if step == 80:
                owners = owners[:2]
                for steps in (standing, plain):  # which ends it
                    steps.keep(torch.tensor([0, 2], device=device))
                tokens, positions = tokens[:2], positions[:2]
            found, wanted = (steps(tokens, positions, 0) for steps in (standing, plain))
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)

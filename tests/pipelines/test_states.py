"""States are prepared side by side where they fit, once for all that share them, and an error says whose they are."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from torch import Tensor

from curate.cluster import InProcess
from curate.core import Artifact
from curate.curved import Curved
from curate.errors import DataError, IntegrityError
from curate.exact_similarity import ExactSimilarity
from curate.interfaces import Batch, Scorer, ScoringContext
from curate.model import resolve
from curate.parts import Parts, named, part_of
from curate.pipelines import features, state
from curate.pipelines.memory import bytes_of_directions, bytes_of_sample, bytes_to_prepare, side_by_side
from curate.pipelines.session import Session
from curate.pipelines.state import Inputs, Prepared, load_state, prepare_states, stored_array
from curate.scorers.influence import Influence
from curate.scorers.less import Less
from curate.scorers.self_influence import SelfInfluence
from curate.settings import Lora, ModelSpec
from curate.store import Store, atomic_write


class Counted(Scorer):
    """Prepares a number, and says how often it did."""

    name: Literal["counted"] = "counted"
    output: ClassVar[Literal["scores"]] = "scores"
    reads: ClassVar[Literal["text"]] = "text"
    sample_rows: ClassVar[int | None] = 0
    made: ClassVar[list[int]] = []

    number: int = 0
    loud: bool = False  # changes nothing in what is prepared

    @property
    def prepared(self) -> "Counted":
        return Counted(number=self.number)

    def prepare(self, sample: Iterable[Batch], context: ScoringContext) -> dict[str, Any]:
        if self.number < 0:
            raise DataError(f"counted: {self.number} is below zero; raise it")
        Counted.made.append(self.number)
        return {"number": np.array([self.number])}

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        raise NotImplementedError


class Built(Counted):
    """Prepares the double of the number that another one prepared."""

    name: Literal["built"] = "built"  # type: ignore[assignment]

    @property
    def prepared(self) -> "Built":
        return self

    @property
    def within(self) -> Counted:
        return Counted(number=self.number)

    def prepare(self, sample: Iterable[Batch], context: ScoringContext) -> dict[str, Any]:
        return {"double": 2 * part_of(context.state, "of")["number"]}


class Recorded(InProcess):
    """Remembers how many tasks came at a time."""

    def __init__(self, workers: int = 2) -> None:
        super().__init__()
        self.workers = workers
        self.groups: list[int] = []

    def map(self, function: Any, items: Sequence[Any], *, label: str = "", remedy: Any = None) -> Any:
        self.groups.append(len(items))
        return super().map(function, items, label=label)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    Counted.made.clear()
    return Session(Store(tmp_path), Recorded(), tmp_path, "cpu", lambda stage, label: None)


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return Inputs(None, Artifact("examples-0", tmp_path, {}), Artifact("examples-1", tmp_path, {}), (), (), tmp_path, "cpu")


def groups(session: Session) -> list[int]:
    assert isinstance(session.cluster, Recorded)
    return session.cluster.groups


def test_states_that_do_not_need_each_other_go_to_the_cluster_together(session: Session, inputs: Inputs) -> None:
    made = prepare_states(session, {name: Counted(number=number) for number, name in enumerate("abc")}, inputs, 2048)
    assert groups(session) == [3] and Counted.made == [0, 1, 2]
    assert [int(load_state("cpu", found.state.path)["number"]) for found in made.values() if found.state] == [0, 1, 2]
    assert all(found.within is None for found in made.values())


def test_states_that_do_not_fit_together_go_one_after_the_other(session: Session, inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 200)
    monkeypatch.setattr(state, "bytes_to_prepare", lambda scorer, inputs: 10 * scorer.number)
    prepare_states(session, {name: Counted(number=number) for name, number in zip("abcde", (4, 6, 50, 3, 1), strict=True)}, inputs, 2048)
    assert groups(session) == [2, 1, 2]  # at most half of 200 bytes, or a single one
    for device, workers in (("cuda:0", 3), ("cpu", 1)):
        alone = replace(session, device=device, cluster=Recorded(workers))
        assert list(side_by_side([1, 2], lambda task: 1 // 0, alone)) == [[1], [2]]  # and nothing is counted


def test_a_state_is_made_once_for_scorers_that_differ_in_what_it_does_not_read(session: Session, inputs: Inputs) -> None:
    made = prepare_states(session, {"a": Counted(number=7), "b": Counted(number=7, loud=True), "c": Built(number=7)}, inputs, 2048)
    assert Counted.made == [7] and groups(session) == [1, 1]
    assert made["a"] == made["b"] == Prepared(made["c"].within)
    assert made["c"].state is not None and made["c"].state.manifest["inputs"][-1] == made["a"].keys[0]
    loaded = load_state("cpu", *made["c"].paths)
    assert {name: int(value) for name, value in loaded.items()} == {"double": 14, "of:number": 7}
    assert loaded.part("of") is loaded.part("of") and list(loaded.part("of")) == ["number"]
    assert made["c"].keys == [made["c"].state.key, made["a"].keys[0]]


def test_an_error_names_its_feature_and_states_that_were_made_beside_it_are_kept(session: Session, inputs: Inputs) -> None:
    with pytest.raises(DataError, match=r"^feature mine: counted: -1 is below zero; raise it$"):
        prepare_states(session, {"other": Counted(number=3), "mine": Counted(number=-1)}, inputs, 2048)
    prepare_states(session, {"other": Counted(number=3)}, inputs, 2048)
    assert Counted.made == [3]


def test_one_array_is_read_of_a_state_and_a_damaged_one_is_an_error_of_one_line(session: Session, inputs: Inputs, tmp_path: Path) -> None:
    found = prepare_states(session, {"a": Counted(number=5)}, inputs, 2048)["a"].state
    assert found is not None
    assert np.array_equal(stored_array(found.path, "number"), [5]) and stored_array(found.path, "columns") is None
    atomic_write(tmp_path / "damaged" / state.STATE, b"no tensors")
    for read in (lambda: stored_array(tmp_path / "damaged", "number"), lambda: load_state("cpu", tmp_path / "damaged")):
        with pytest.raises(IntegrityError, match="cannot be read .*; remove its folder and run the same command again"):
            read()


def test_the_arrays_of_a_part_are_gathered_once() -> None:
    parts = Parts({"columns": 1, **named("of", {"a": 2, "b:c": 3}), "ofx": 4})
    assert parts.part("of") == {"a": 2, "b:c": 3} and parts.part("of") is parts.part("of")
    assert part_of(parts, "of") is parts.part("of") and part_of(None, "of") == {} == part_of({"a": 1}, "of")


@pytest.mark.parametrize("changed", [{"width": 64}, {"seed": 5}, {"store": "int8"}, {"similarity": "exact"}])
def test_how_vectors_are_projected_and_stored_says_nothing_of_exact_similarities(changed: dict[str, Any]) -> None:
    for scorer in (Less(direction="sgd"), Influence(damping=0.3)):
        other = scorer.model_copy(update=changed)
        assert ExactSimilarity(of=other) == ExactSimilarity(of=scorer) and other.prepared == scorer
    assert ExactSimilarity(of=Less(direction="sgd", projection="factored")) == ExactSimilarity(of=Less(direction="sgd"))
    assert ExactSimilarity(of=Less(normalise="none")) != ExactSimilarity(of=Less())


def test_what_states_take_is_counted_by_the_shapes_of_the_trained_weights(tiny: Path, tmp_path: Path) -> None:
    handle = resolve(ModelSpec(path=str(tiny), lora=Lora(r=4, alpha=8, targets="attention")), tiny)
    pool, target = (Artifact(f"examples-{rows}", tmp_path, {"summary": {"used": rows}}) for rows in (50, 6))
    given = Inputs(handle, pool, target, (None, None, None), (), tmp_path, "cpu")  # type: ignore[arg-type]
    from curate.model import fresh

    numbers = sum(parameter.numel() for parameter in fresh(handle).names.values())
    assert bytes_of_directions(Less(), given) == 4 * 3 * 6 * numbers
    woodbury = Influence(curvature="woodbury", fisher_rows=20)
    assert bytes_of_sample(woodbury, given) == 4 * 20 * numbers and bytes_of_directions(woodbury, given) == 4 * 6 * numbers
    assert bytes_of_sample(Influence(curvature="woodbury", checkpoint="every"), given) == 4 * 3 * 50 * numbers
    assert bytes_of_sample(Influence(), given) == bytes_of_sample(Less(), given) == 0
    both = bytes_to_prepare(ExactSimilarity(of=woodbury), given)
    assert both > bytes_of_sample(woodbury, given) + bytes_of_directions(woodbury, given)
    assert bytes_to_prepare(SelfInfluence(checkpoint="every"), given) == 3 * bytes_to_prepare(SelfInfluence(), given) > 0
    assert isinstance(woodbury, Curved) and bytes_to_prepare(Counted(), given) == 0


@pytest.mark.parametrize(("device", "said"), [("cpu", "shared by all worker processes"), ("cuda", "in each of 3 worker processes, {} MiB in all")])
def test_the_memory_of_exact_similarities_counts_the_copies_of_workers_on_a_gpu(device: str, said: str, session: Session, tiny: Path) -> None:
    handle = resolve(ModelSpec(path=str(tiny), lora=Lora(r=4, alpha=8, targets="attention")), tiny)
    pool, target = (Artifact(f"examples-{rows}", tiny, {"summary": {"used": rows}}) for rows in (50, 60))
    given = Inputs(handle, pool, target, (), (), tiny, device)
    heard: list[str] = []
    session.store.notify, session.device, session.cluster.workers = heard.append, device, 3
    assert features._is_exact(session, Less(), given, "f", features.Scored(Less()))
    size = bytes_of_directions(Less(), given) / 2**20
    assert heard == [f"feature f: the directions of 60 target rows take {size:.1f} MiB of memory, {said.format(f'{3 * size:.1f}')}"]

"""Every whole command of the documents is run, page by page and in the order of the page, or is excused by name with what is run in its place."""

import shlex
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.docs_world import World, prepare
from tests.hub.stub import serving
from tests.test_docs_commands import COMMANDS, ROOT, Shown, shown
from tests.test_newcomer import TOKEN, blocks

WHOLE = [one for one in COMMANDS if one.whole]
PAGES = sorted({one.where.split(":")[0] for one in WHOLE})


class Excuse(NamedTuple):
    """Why a command cannot do here what the page says; how it ends as it stands, if it is run; and what is run in its place."""

    why: str
    code: int | None = None
    said: str = ""
    instead: tuple[str, ...] = ()


def _on_a_gpu(recipe: str) -> dict[str, Excuse]:
    said, place = "is not to be had here", f"benchmarks/recipes/{recipe}.yaml"
    why = "needs the data of the evidence, and a GPU"
    return {f"run {place} --data DIR --device cuda": Excuse(why, 2, said, (f"validate {place}",))}


ANEW = ("--store", "empty-store", "--runs", "empty-runs")  # what is all there already would need no workers, and end well
_NO_SLURM = Excuse("needs a cluster with SLURM, and would start jobs where there is one", 2, "pip install 'curate[slurm]'")
_SMALL = "pool.rows=120 target.rare.rows=8 features.gradient.width=64 budgets=[8] seeds=[0] train.epochs=1 evaluate.0.data.rows=8 evaluate.1.data.rows=8"
EXCUSED: dict[str, Excuse] = {
    "run quickstart": Excuse("takes minutes, and is `make quickstart`", instead=(f"run quickstart {_SMALL}",)),
    "advise recipe.yaml --feature margin --compute '20M tokens'": Excuse(
        "trains on twenty million tokens", instead=("advise recipe.yaml train.batch_size=1 --feature margin --compute '2k tokens' --buckets 2",)
    ),
    "run recipe.yaml --profile slurm": _NO_SLURM,
    "run recipe.yaml --profile my-slurm.yaml": _NO_SLURM,
    **({} if find_spec("dask_jobqueue") else {"run recipe.yaml --profile slurm --dry-run": _NO_SLURM}),
    **_on_a_gpu("four-targets"),
    **_on_a_gpu("clinc15-selectors"),
    **_on_a_gpu("clinc15-representations"),
    **_on_a_gpu("clinc15"),
    **_on_a_gpu("banking10"),
}
# Those in the fenced blocks of the tutorial are typed by the newcomer of test_newcomer.py, one after the other, with processes of their own.
TUTORIAL = "docs/tutorial.md"
TYPED = [
    shlex.split(line)[1:] for language, text in blocks((ROOT / TUTORIAL).read_text(encoding="utf-8")) if language != "python" for line in text.splitlines()
]


class Outcome(NamedTuple):
    """What a command prints, and the files that it leaves."""

    said: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


EXPORTED = ("README.md", "manifest.json", "data")
OUTCOMES: dict[str, Outcome] = {
    "init my --pool pool.jsonl --target wanted.jsonl --model ORG/NAME": Outcome(("pool.jsonl: 120 rows",), ("my/recipe.yaml",)),
    "validate my/recipe.yaml": Outcome(("wanted: valid; ",)),
    "inspect my/recipe.yaml": Outcome(("[[", "]]")),
    "plan my/recipe.yaml": Outcome(("memory", "disk")),
    "run my/recipe.yaml": Outcome(("report: runs/wanted/report.html",), ("runs/wanted/report.html",)),
    "run recipe.yaml budgets=[5%] seeds=[0,1,2,3]": Outcome(("5%",)),
    "validate-scores recipe.yaml --feature gradient": Outcome(("gradient",)),
    "status RUN": Outcome(("my-run: finished",)),
    "report RUN": Outcome(("report: runs/my-run/report.html", "cover")),
    "doctor": Outcome(("libraries", "devices", "GiB free")),
    "explain RUN ROW": Outcome(("pool-007",)),
    "verify RUN": Outcome(("artifacts intact, all rows accounted for", "recomputed from the features, all are as claimed")),
    "update RUN --add FILE --remove FILE": Outcome(("stayed", "runs/my-run-2/report.html"), ("runs/my-run-2/recipe.yaml",)),
    "update my-run --add new.jsonl --remove gone.txt": Outcome(("stayed", "runs/my-run-2/report.html"), ("runs/my-run-2/recipe.yaml",)),
    "list": Outcome(("less", "round_robin", "multiple_choice")),
    "schema": Outcome(('"budgets"', '"arms"')),
    "export RUN ARM DIR": Outcome(("rows in subset-1; load_dataset",), tuple(f"subset-1/{name}" for name in EXPORTED)),
    "export RUN all DIR": Outcome(("configurations: ",), tuple(f"subset-2/{name}" for name in EXPORTED)),
    "export RUN ARM --push ORG/NAME": Outcome(("pushed to lab/desks",)),
    "export RUN ARM --push org/name": Outcome(("8 rows pushed to lab/desks", "read back and equal to the selection")),
    "verify DIR": Outcome(("were found again in the pool",)),
    "verify DIR --data FOLDER --store STORE --rebuild --model MODEL": Outcome(("were found again", "those of the selection made again"), ("another-store",)),
    "certificates tls": Outcome(("dask scheduler --protocol tls",), ("tls/ca.pem", "tls/node.pem", "tls/node.key")),
    "evaluate MODEL --adapter DIR --adapter DIR --tasks arc=data/arc.parquet --tasks my_tasks/boolq.yaml --log-items items.jsonl": Outcome(
        ("base", "adapter-1", "adapter-2"), ("items.jsonl",)
    ),
}


@pytest.fixture(scope="module")
def prepared(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare(folder, root)
    return folder


@pytest.fixture
def world(
    prepared: Path, root: Path, tmp_path: Path, command_line: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """A machine of one core without a GPU, on which this process is all there is; a Hub on loopback."""
    import torch

    folder = tmp_path / "world"
    shutil.copytree(prepared, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    torch.set_num_threads(1)
    with serving({TOKEN: True}) as hub:
        yield World(folder, command_line, capsys, hub, root)


def follow(world: World, one: Shown) -> None:
    """Run what a page shows, or what its excuse says, and look at what came of it."""
    words = shlex.join(one.words)
    excuse = EXCUSED.get(words)
    if excuse is None:
        said, outcome = world.follow(one), OUTCOMES.get(" ".join(one.words), Outcome())
        missing = [text for text in outcome.said if text not in " ".join(said.split())] + [name for name in outcome.left if not (world.folder / name).exists()]
        assert not missing, f"{one.where}: curate {words} neither prints nor leaves {missing}: {said[-2000:]}"
        return
    if excuse.code is not None:
        with pytest.MonkeyPatch.context() as bare:
            bare.setattr("curate.clusters.extras.find_spec", lambda name: None)
            words_here = ["data" if word == "DIR" else word for word in one.words]
            assert excuse.said in world.type([*words_here, *ANEW], one.where, excuse.code)
    for line in excuse.instead:
        world.type(shlex.split(line), one.where)


def typed_by_the_newcomer(one: Shown) -> bool:
    return one.where.startswith(f"{TUTORIAL}:") and list(one.words) in TYPED


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_do_what_it_says_one_after_the_other(page: str, world: World) -> None:
    mine = [one for one in WHOLE if one.where.startswith(f"{page}:")]
    for one in mine:
        if not typed_by_the_newcomer(one):
            follow(world, one)
    if page == "docs/export.md":
        opens(world)


def opens(world: World) -> None:
    """What is exported opens as the page says, with the columns that it names, and what is pushed is private and one commit."""
    from datasets import load_dataset

    rows = load_dataset("subset-1", split="train")
    assert len(rows) == 8 and {"prompt", "completion", "id", "rank", "weight", "score", "reason"} <= set(rows.column_names)
    assert len(load_dataset("subset-2", "cover-8", split="train")) == 8
    assert "8 rows were found again in the pool" in world.type(["verify", "hf://lab/desks"], "docs/export.md")
    pushed = world.hub.repositories["lab/desks"]
    assert pushed.private and len(pushed.commits) == 2  # of which the first made the repository


def test_an_excuse_and_an_outcome_are_of_a_command_that_a_page_shows() -> None:
    assert set(EXCUSED) - {shlex.join(one.words) for one in WHOLE} == set()
    assert set(OUTCOMES) - {" ".join(one.words) for one in WHOLE} == set()


def test_the_newcomer_types_what_the_tutorial_shows_but_for_the_recipe_of_tables() -> None:
    assert [one.words[:3] for one in WHOLE if one.where.startswith(TUTORIAL) and not typed_by_the_newcomer(one)] == [("init", "my", "--pool")]
    assert len(TYPED) > 10


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("    curate status my-rum", "page:1: curate status my-rum ended with 3"),
        ("    curate validate absent.yaml", "page:1: curate validate absent.yaml ended with 2"),
        ("    curate list selectors round_robbin", "ended with 2"),
        ("    curate init new --pool other.jsonl --target wanted.jsonl --model model", "other.jsonl"),
        ("    curate report RUNS", "page:1: RUNS after 'report' has no meaning"),
        ("    curate verify hf://lab/absent", "hf://lab/absent"),
    ],
)
def test_a_command_that_does_not_work_is_seen(line: str, said: str, world: World) -> None:
    (one,) = shown(line, "page")
    with pytest.raises(AssertionError) as failure:
        follow(world, one)
    assert said in str(failure.value)


def test_an_outcome_that_does_not_come_is_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = shown("    curate certificates elsewhere", "page")
    monkeypatch.setitem(OUTCOMES, "certificates elsewhere", Outcome(("a line that it does not print",), ("elsewhere/ca.pem", "elsewhere/other.pem")))
    with pytest.raises(AssertionError, match="neither prints nor leaves"):
        follow(world, one)


def test_a_command_that_is_excused_has_to_end_as_the_excuse_says(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = shown("    curate status absent", "page")
    monkeypatch.setitem(EXCUSED, "status absent", _NO_SLURM)
    with pytest.raises(AssertionError, match="ended with 3, not 2"):
        follow(world, one)

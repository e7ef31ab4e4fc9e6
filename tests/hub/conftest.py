"""One finished run with data of its own, its rows selected, that is exported, pushed and verified."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hub.client import Place
from tests.hub.stub import Hub, serving
from tests.safety.hostile import CANARY

RECIPE = """
name: small
pool: {{path: pool.jsonl}}
target: {{rare: {{path: target.jsonl}}}}
model: {{path: {model}, max_length: 96}}
features: {{likeness: bm25, hidden: rds}}
arms:
  near: {{similarity: likeness, selector: round_robin}}
  cover: {{vectors: hidden, selector: facility_location}}
budgets: [4, 6]
seeds: [0]
baselines: [random]
evaluate: {{task: likelihood, data: {{synthetic: test, rows: 4}}}}
"""


@pytest.fixture(scope="session")
def place(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The folder of the run: data, store and runs."""
    from curate.pipelines.launch import execute
    from curate.recipe import Runtime, read_recipe

    folder = tmp_path_factory.mktemp("run")
    rows = [{"prompt": f"{a} plus {b}?", "completion": f"{a + b}", "license": "mit" if a % 2 else "cc-by-4.0"} for a in range(5) for b in range(6)]
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "target.jsonl").write_text("".join(json.dumps({"prompt": f"{a} plus one?", "completion": f"{a + 1}"}) + "\n" for a in range(3)))
    (folder / "small.yaml").write_text(RECIPE.format(model=tiny))
    runtime = Runtime(store=folder / "store", runs=folder / "runs", workers=1)
    execute(read_recipe(folder / "small.yaml"), runtime, folder, until="select", command="curate run small.yaml", quiet=True)
    return Place(folder)


@pytest.fixture
def exported(place: Place, tmp_path: Path) -> Callable[..., Path]:
    """A folder with an arm's rows."""
    from curate.exporting.layouts import Layout
    from curate.pipelines.publish import Wanted, publish_folder

    def export(arms: list[str], layout: Layout = "datasets", **more: str) -> Path:
        to = tmp_path / "-".join([*arms, layout, *more.values()])
        publish_folder(place.runs, place.store, Wanted(arms, layout=layout, **more), to, overwrite=False)  # type: ignore[arg-type]
        return to

    return export


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """A Hub that knows two tokens: one that may write, and one that may only read."""
    with serving({CANARY: True, CANARY + "Reads": False}) as stub:
        yield stub

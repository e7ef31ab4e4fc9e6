"""A session of the real clients with the stub, step by step, in one process: what came of each step, as JSON on the last line.

python -m tests.hub.session FOLDER_A FOLDER_B
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def outcome(step: Callable[[], Any]) -> Any:
    """What a step returns, or the error with its exit code, its message and all that a traceback would show."""
    import traceback

    from curate.errors import CurateError

    try:
        return step()
    except CurateError as error:
        return {"code": error.exit_code, "said": str(error), "traceback": "".join(traceback.format_exception(error))}


def loaded(name: str, config: str | None = None) -> list[dict[str, Any]]:
    from datasets import load_dataset

    return [dict(row) for row in load_dataset(name, config, split="train")]


def main(first: str, second: str) -> None:
    from curate.exporting.hub import push_folder
    from curate.exporting.manifest import read_manifest

    def push(folder: str, name: str, public: bool = False, token: str | None = None) -> Any:
        kept = os.environ["HF_TOKEN"]
        os.environ["HF_TOKEN"] = kept if token is None else token
        try:
            return outcome(lambda: vars(push_folder(Path(folder), read_manifest(Path(folder)), name, public=public)))
        finally:
            os.environ["HF_TOKEN"] = kept

    writes = os.environ["HF_TOKEN"]
    found = {
        "pushed": push(first, "org/subset"),
        "again": push(first, "org/subset"),
        "rows": loaded("org/subset"),
        "replaced": push(second, "org/subset"),
        "second": loaded("org/subset", "cover-4"),
        "public": push(first, "org/open", public=True),
        "public by accident": push(first, "org/open"),
        "private after all": push(first, "org/subset", public=True),
        "reader": push(first, "org/elsewhere", token=writes + "Reads"),
        "unknown": push(first, "org/elsewhere", token="hf_" + "Nobody" * 6),
        "nobody": push(first, "org/elsewhere", token=""),
        "foreign": push(first, "org/foreign"),
        "last": push(first, "org/subset"),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

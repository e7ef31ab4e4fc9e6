"""The bugs of `campaign.teeth`: each an edit of today's source, with the driver that has to catch it and what that driver says then."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """A piece of a file that occurs in it once, and what stands in its place."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Bug:
    """A mistake that is put in, the shortest run of a driver that has to fail then, and a phrase by which it shows that this mistake is why."""

    name: str
    why: str  # what it does to a user
    edits: tuple[Edit, ...]
    driver: str
    options: str
    said: str


BUGS = (
    Bug(
        "naive write",
        "a kill while a file is written leaves half of it under its final name",
        (
            Edit("curate/store.py", '    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")\n', "    temporary = path\n"),
            Edit("curate/store.py", 'with open(temporary, "xb") as file:', 'with open(temporary, "wb") as file:'),
        ),
        "crash_sweep",
        "--stage select --mode torn --limit 2",
        "is visible, but not whole",
    ),
    Bug(
        "no dir fsync",
        "a power cut takes the names of files that were finished",
        (Edit("curate/store.py", "(temporary, path)\n            sync_folder(path.parent)\n", "(temporary, path)\n"),),
        "power_loss",
        "--stage select --limit 1 --draws 0",
        "the command had ended, and ",
    ),
    Bug(
        "count-only reconcile",
        "a row that is lost while another one is taken twice goes unnoticed",
        (
            Edit(
                "pipelines/check.py",
                "if sorted(scored + [row for row, _ in unscored(artifact)]) != sorted(ids.tolist()):",
                "if len(scored) + len(unscored(artifact)) != len(ids):",
            ),
        ),
        "bad_input",
        "--part D --only D05-stored",
        "FAILED D05-stored: it exits with 0, not 8",
    ),
    Bug(
        "completion-order reduce",
        "shards are put together in the order in which workers finished them, so rows get the numbers of others",
        (
            Edit(
                "curate/features.py",
                "ShardedRows.of(shards)",
                "ShardedRows.of(sorted(shards, key=lambda shard: shard.path.stat().st_mtime_ns))",
            ),
        ),
        "metamorphic",
        "--only '2 workers'",
        "FAILED 2 workers: selection, ",
    ),
    Bug(
        "position as id",
        "rows that lie in other files, or elsewhere in them, are other rows",
        (Edit("curate/data/ledger.py", "self.own.get(row) or self.key(row).hex()", "self.own.get(row) or self.origin(row)"),),
        "metamorphic",
        "--rows 40 --only 'files in another order'",
        "FAILED files in another order: examples, pool is other",
    ),
    Bug(
        "per-process seed",
        "every process draws other rows and other orders",
        (Edit("curate/randomness.py", 'f"{seed}/{purpose}"', 'f"{hash((seed, purpose))}"'),),
        "metamorphic",
        "--rows 40 --only 'environment 3'",
        "FAILED environment 3: warmup, ",
    ),
    Bug(
        "nan_to_num",
        "rows whose numbers overflowed count as rows with a number",
        (Edit("curate/rowwise.py", "numbers: Numbers = output.float().cpu().numpy()", "numbers: Numbers = np.nan_to_num(output.float().cpu().numpy())"),),
        "bad_input",
        "--part N --only N01 --tests",
        "neighbours_keep_their_bits fails or was skipped: AssertionError: assert {",
    ),
    Bug(
        "zero-norm kept",
        "rows without a direction are compared with others all the same",
        (Edit("curate/rowwise.py", 'return "zero_norm" if output == "vectors" and np.ndim(value) and not np.any(value) else ""', 'return ""'),),
        "bad_input",
        "--part N --only N01 --tests",
        "neighbours_keep_their_bits fails or was skipped: assert 5 == 0",  # the selectors refuse such rows, and the run ends
    ),
    Bug(
        "fixed tmp name",
        "what a killed process was writing is in the way of the next one",
        (Edit("curate/store.py", 'f".{path.name}.{uuid.uuid4().hex}.tmp"', 'f".{path.name}.tmp"'),),
        "crash_sweep",
        "--stage select --limit 6",
        "File exists",
    ),
    Bug(
        "plan hash ignores dtype",
        "a run in half precision takes the numbers of one in full precision for its own",
        (Edit("curate/model.py", '            "dtype": self.dtype,\n', ""),),
        "metamorphic",
        "--rows 40 --only 'half precision in the same store'",
        "FAILED half precision in the same store: warmup, ",
    ),
    Bug(
        "skip hash check",
        "bytes that changed on the disk are used",
        (
            Edit(
                "curate/intact.py",
                '''    return wrong + [f"{path / name} differs from its recorded hash" for name, found in zip(same, hashes, strict=read) '''
                '''if found != known[name]["blake2b"]]''',
                "    return wrong",
            ),
        ),
        "bad_input",
        "--part none --mutations 3 --seed 1937",  # with which these flip a bit of a file in the store
        "verify does not find it",
    ),
    Bug(
        "dashboard 0.0.0.0",
        "other machines can look at the run",
        (Edit("curate/clusters/laptop.py", '"dashboard_address": ANY_PORT', '"dashboard_address": "0.0.0.0:0"'),),
        "security",
        "--part run",
        "FAILED run-ports: ",
    ),
    Bug(
        "torch.load",
        "a file of a Trainer's run that somebody else made runs code",
        (
            Edit(
                "curate/torch_file.py",
                "    try:\n        with zipfile.ZipFile(path) as archive:\n",
                "    import torch\n\n    return torch.load(path, weights_only=False)\n    try:\n        with zipfile.ZipFile(path) as archive:\n",
            ),
        ),
        "security",
        "--part trainer",
        "it ran the pickle",
    ),
    Bug(
        "token in repr",
        "the error about a model that the Hub does not give holds the token",
        (
            Edit(
                "curate/model.py",
                "    try:\n        return Path(snapshot_download(spec.path, revision=spec.revision, allow_patterns=_WANTED))\n",
                '    import os\n\n    asked = {"revision": spec.revision, "token": os.environ.get("HF_TOKEN")}\n'
                "    try:\n        return Path(snapshot_download(spec.path, allow_patterns=_WANTED, **asked))\n",
            ),
            Edit("curate/model.py", "(revision {spec.revision or 'main'})", "({asked!r})"),
        ),
        "security",
        "--part run",
        "FAILED fails-model.path-4: it says the token",
    ),
    Bug(
        "tie by argsort",
        "of rows that are equally good the order of the pool decides",
        (
            Edit(
                "curate/order.py",
                'return held[np.argsort(-values[held], kind="stable")][:count]',
                "return held[np.argsort(values[held])[::-1]][:count]",
            ),
        ),
        "differential",
        "--selector top_k --instances 5",
        "FAILED top_k:",
    ),
)

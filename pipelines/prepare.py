"""Prepare: sources to tokenised examples, every row used or set aside with a reason."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from curate.core import Artifact
from curate.data.examples import check_quarantine
from curate.data.load import load
from curate.data.locate import fingerprint, paths, pinned
from curate.data.preflight import check_template
from curate.data.source import Source
from curate.data.writer import write_examples
from curate.errors import ConfigError, IntegrityError
from curate.model import ModelHandle, load_tokenizer
from curate.pipelines.session import Session
from curate.recipe import Hygiene
from curate.store import Workspace


def _refuse_outputs(session: Session, role: str, sources: Sequence[Source]) -> None:
    """A run may not read what runs write: its log alone would make the data new every time."""
    written = [folder.resolve() for folder in session.outputs]
    for file in (file for source in sources if source.path is not None for file in paths(source, session.folder)):
        if any(file.resolve().is_relative_to(folder) for folder in written):
            raise ConfigError(f"{role}: {file} is written by curate itself; move the data to a folder of its own, or name others with --store and --runs")


@lru_cache(maxsize=4)
def checked_tokenizer(handle: ModelHandle) -> Any:
    """The model's tokenizer, its chat template tried out in a sandbox of its own first."""
    tokenizer = load_tokenizer(handle)
    check_template(tokenizer)
    return tokenizer


def prepare(session: Session, role: str, sources: Sequence[Source], handle: ModelHandle, hygiene: Hygiene) -> Artifact:
    """The examples of these sources in the model's tokens; DataError where too many rows had to be set aside."""

    _refuse_outputs(session, role, sources)
    pinned_sources = [pinned(source) for source in sources]
    contents = [fingerprint(source, session.folder) for source in pinned_sources]

    def make(workspace: Workspace) -> Mapping[str, Any]:
        from curate.data.template import Encoder

        tokenizer = checked_tokenizer(handle)
        rows = load(pinned_sources, session.folder, on_bad_row=hygiene.on_bad_row)
        summary = write_examples(rows, Encoder(tokenizer, handle.max_length), workspace.write)
        if [fingerprint(source, session.folder) for source in pinned_sources] != contents:
            raise IntegrityError(f"{role}: the files changed while they were read; leave them alone and run the same command again")
        return summary

    fields = {
        "sources": contents,
        "tokenizer": handle.fingerprint,
        "max_length": handle.max_length,
        "on_bad_row": hygiene.on_bad_row,
    }
    artifact = session.build("examples", role, make, fields=fields)
    check_quarantine(artifact.manifest["summary"], hygiene.quarantine_limit, role, artifact.path)
    return artifact

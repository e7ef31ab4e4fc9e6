"""What a press needs to know of the base model: measured once, stored, and frozen for all variants."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.core import Artifact
from curate.errors import IntegrityError
from curate.harness.exam import Exam
from curate.interfaces import Press, State
from curate.model import LanguageModel
from curate.store import Store, Workspace, canonical, digest

STAGE, FILE = "calibration", "state.safetensors"
CALIBRATING = 8  # questions of each task whose texts a press is calibrated on


@dataclass(frozen=True)
class Calibration:
    """A press's calibration, and the hash of its bytes."""

    state: State | None = None
    digest: str = ""


@dataclass(frozen=True)
class Source:
    """What a calibration is made of: the base model, texts in its tokens, and a seed."""

    base: LanguageModel
    identity: Mapping[str, Any]  # of the base, and of what computes
    texts: Sequence[Sequence[int]]
    seed: int


def calibrated(store: Store, press: Press, source: Source) -> Calibration:
    """The calibration of this press on this base: found in the store, or made now and kept; nothing for a press that needs none."""
    fields = {
        "press": press.model_dump(mode="json", exclude={"covers"}),  # which changes nothing that is measured
        "base": dict(source.identity),
        "seed": source.seed,
        "texts": digest(canonical([list(text) for text in source.texts])),
    }
    artifact = store.find(store.key(STAGE, press.version, fields))
    if artifact is None:
        state = press.calibrate(source.base, source.texts, source.seed)
        if not state:
            return Calibration()
        artifact = store.build(STAGE, lambda workspace: _write(workspace, state), fields=fields, version=press.version)
    return Calibration(_read(artifact), artifact.manifest["files"][FILE]["blake2b"])


def texts_of(exams: Sequence[Exam]) -> list[list[int]]:
    """What a press is calibrated on: the first questions of each exam, with what they were asked with."""
    sent = [asked.sent[0] for exam in exams for asked in exam.asked[:CALIBRATING] if asked.sent]
    return [[*one.context, *one.continuation] for one in sent]


def _write(workspace: Workspace, state: State) -> Mapping[str, Any]:
    import torch
    from safetensors.torch import save

    tensors = {name: torch.as_tensor(value).detach().cpu().contiguous() for name, value in state.items()}
    workspace.write(FILE, save(tensors))
    return {"arrays": len(tensors)}


def _read(artifact: Artifact) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(artifact.path / FILE))
    except (OSError, ValueError, SafetensorError) as error:
        raise IntegrityError(f"{artifact.path / FILE} cannot be read ({error}); remove its folder and run the same command again") from error

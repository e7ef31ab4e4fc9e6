"""Evaluate models: a base and its adapters on task files, every shared token computed once, every answer kept in a ledger."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from curate import __version__
from curate.errors import ClusterError, ConfigError, ModelError
from curate.harness.exam import Exam, first, prepare, record
from curate.harness.questions import build_questions
from curate.harness.reading import LocalTask, read_task
from curate.harness.results import Evaluated
from curate.harness.tokens import HarnessTokens
from curate.inference.activated_plan import invocation_start
from curate.inference.adapter_folder import adapter_folder
from curate.inference.ledger import Ledger, open_ledger
from curate.inference.probe import alone_because
from curate.inference.variants import Variants
from curate.inference.vllm_backend import Vllm
from curate.inference.vllm_process import build
from curate.interfaces import Press
from curate.model import LanguageModel, ModelHandle, fresh, load_tokenizer, resolve
from curate.model_folder import positions, read_config
from curate.pipelines.ask_variants import BASE, Asking, Name, Said, environment
from curate.pipelines.calibrate_press import Calibration, Source, calibrated, texts_of
from curate.pipelines.launch import pick_device
from curate.pipelines.trust_press import trust
from curate.pipelines.variant_folders import VariantFolders, variant_folders
from curate.settings import ModelSpec
from curate.store import Store, atomic_write, canonical, digest

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What to evaluate, and how."""

    model: ModelSpec
    adapters: Sequence[Path] = ()
    tasks: Sequence[str] = ()  # files, names, or NAME=DATA
    shots: int | None = None
    limit: int | None = None
    seed: int = 0
    press: Press | None = None
    calibrate_on: int = 32  # items of each task on which a lossy run is held against the exact one
    device: str = "auto"
    batch_tokens: int = 8192
    continuous: bool = False  # generation by transformers' continuous batching
    vllm: bool = False  # generation by vLLM
    log_items: Path | None = None
    store: Path = field(default_factory=lambda: Path("store"))


def evaluate_models(wanted: Wanted, say: Say = lambda message: None) -> Evaluated:
    """All variants on all tasks; answers that the ledger in the store has are not computed again."""
    device = pick_device(wanted.device)
    _check_log(wanted.log_items)
    folders = variant_folders(wanted.adapters)
    tasks = _tasks(wanted)
    handle = _handle(wanted.model)
    tokens = HarnessTokens(load_tokenizer(handle), handle.max_length)
    exams = [prepare(build_questions(task, data, limit=wanted.limit), tokens, wanted.seed, name) for name, (task, data) in tasks.items()]
    _check_together(wanted, exams, folders)
    model = {"fingerprint": handle.fingerprint, "dtype": handle.dtype}
    with _ledger(wanted.store, model) as ledger:
        say(f"loading {wanted.model.path}")
        base = fresh(handle, device)
        variants = Variants(base, folders.paths, resident=max(4, min(64, len(folders.activated))), lora=folders.lora)
        calibration = _calibration(wanted, base, exams, {**model, **environment(device)}, say)
        for name in folders.paths:  # one that does not fit is found before hours are spent on the others
            with variants.together([name]):
                pass
        with _vllm(wanted, base, handle, exams, folders) as vllm:
            asking = Asking(model, variants, ledger, device, wanted.batch_tokens, wanted.continuous, vllm, wanted.press, calibration)
            found, exact = _ask(asking, exams, folders, wanted, say)
    if wanted.log_items:
        _log(wanted.log_items, exams, found, wanted.press)
    return Evaluated(
        model=wanted.model.path,
        device=device,
        dtype=handle.dtype,
        version=__version__,
        press=wanted.press.model_dump(mode="json") if wanted.press else None,
        seed=wanted.seed,
        notes=[note for exam in exams for note in _notes(exam, variants, wanted)],
        examined=[said.record for exam in exams for said in found[exam.name].values()],
        trust=[trust(first(exam, wanted.calibrate_on), list(exact[exam.name].values()), list(found[exam.name].values())) for exam in exams if exact],
        plans={exam.name: exam.digest for exam in exams},
    )


Found = dict[str, dict[Name, Said]]  # by exam and variant


def _ask(asking: Asking, exams: Sequence[Exam], folders: VariantFolders, wanted: Wanted, say: Say) -> tuple[Found, Found]:
    """What was said, and where there is a press, what is said without it to the first questions."""
    found: Found = {exam.name: {} for exam in exams}
    exact: Found = {exam.name: {} for exam in exams} if wanted.press else {}
    beginnings = {exam.name: first(exam, wanted.calibrate_on) for exam in exams}
    by_themselves: list[Name] = [*(() if folders.activated else (None,)), *(name for name in folders.paths if name not in folders.activated)]
    for name in by_themselves:
        for exam in exams:
            say(f"{exam.name}: {name or BASE}{f' through {wanted.press.name}' if wanted.press else ''}")
            found[exam.name][name] = asking.one(exam, name)
            if wanted.press:
                exact[exam.name][name] = asking.one(beginnings[exam.name], name, exact=True)
    for exam in exams if folders.activated else ():
        say(f"{exam.name}: {BASE} and {len(folders.activated)} activated adapters behind its prefix")
        found[exam.name] |= asking.together(exam, [None, *folders.activated])
    return {name: {variant: several[variant] for variant in (None, *folders.paths)} for name, several in found.items()}, exact


def _tasks(wanted: Wanted) -> dict[str, tuple[LocalTask, str | None]]:
    """Tasks and their data by name; tasks of one name are told apart by their data."""
    read = []
    for given in wanted.tasks:
        known, _, data = (given, "", "") if Path(given).is_file() else given.partition("=")
        task = read_task(known)
        if wanted.shots is not None:
            task = replace(task, file=task.file.model_copy(update={"num_fewshot": wanted.shots}))
        read.append((task, str(Path(data).absolute()) if data else None))
    if not read:
        raise ConfigError("there is no task; name a file or a built-in task")
    names = [task.name for task, _ in read]
    found: dict[str, tuple[LocalTask, str | None]] = {}
    for task, file in read:
        name = task.name if names.count(task.name) == 1 or file is None else f"{task.name} ({Path(file).stem})"
        if name in found:
            raise ConfigError(f"two tasks would be called {name!r}; write `include: FILE` and a `task:` of its own into a new task file")
        found[name] = (task, file)
    return found


def _handle(spec: ModelSpec) -> ModelHandle:
    """The model, with all positions that it has unless the spec says fewer."""
    handle = resolve(spec, Path.cwd())
    return handle if spec.max_length else replace(handle, max_length=positions(read_config(handle.path), handle.path))


def _check_log(path: Path | None) -> None:
    """ConfigError for a log that could not be written in the end."""
    if path is None:
        return
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"--log-items {path}: {'is a folder' if path.is_dir() else f'there is no folder {path.parent}'}; name a file in a folder that exists")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"--log-items {path}: the folder {path.parent} cannot be written; name a file in another")


def _check_together(wanted: Wanted, exams: Sequence[Exam], folders: VariantFolders) -> None:
    """ConfigError for what is not done together."""
    if folders.activated:
        one, generating = folders.activated[0], next((exam.name for exam in exams if exam.generates), None)
        if wanted.press:
            raise ConfigError(f"{one} is an activated adapter, which shares the base's exact prefix; leave --press out, or the adapter")
        if generating is not None:
            raise ConfigError(f"{one} is an activated adapter, which is evaluated by log-likelihoods alone, and task {generating} generates; leave one out")
    if wanted.continuous and wanted.press:
        raise ConfigError("--continuous keeps whole caches, and --press compresses them; leave one out")
    if wanted.vllm:
        _check_vllm(wanted, exams)
    sampling = next((exam.name for exam in exams if exam.samples), None)
    if wanted.continuous and sampling is not None:
        raise ConfigError(f"--continuous gives greedy answers, and task {sampling} samples them; leave --continuous out")


def _check_vllm(wanted: Wanted, exams: Sequence[Exam]) -> None:
    if wanted.press or wanted.continuous:
        raise ConfigError(f"--vllm generates in its own way, and so does {'--press' if wanted.press else '--continuous'}; leave one out")
    if not any(exam.generates for exam in exams):
        raise ConfigError("--vllm generates answers, and no task asks for any; leave it out: log-likelihoods are the engine's")
    build()


def _vllm(
    wanted: Wanted, base: LanguageModel, handle: ModelHandle, exams: Sequence[Exam], folders: VariantFolders
) -> contextlib.AbstractContextManager[Vllm | None]:
    if not wanted.vllm:
        return contextlib.nullcontext()
    adapters = {name: adapter_folder(path, folders.lora) for name, path in folders.paths.items()}
    return Vllm(base, handle, adapters, batch_tokens=wanted.batch_tokens, longest=max(exam.longest for exam in exams if exam.generates))


@contextlib.contextmanager
def _ledger(store: Path, model: dict[str, Any]) -> Iterator[Ledger]:
    path = store / "ledger" / f"{digest(canonical(model))}.jsonl"
    with contextlib.ExitStack() as opened:
        try:
            ledger = opened.enter_context(open_ledger(path))
        except ClusterError:
            raise ClusterError(f"{path} is in use by another curate process; wait for it, or name another folder with --store") from None
        yield ledger


def _calibration(wanted: Wanted, base: LanguageModel, exams: Sequence[Exam], identity: dict[str, Any], say: Say) -> Calibration:
    """What the press needs to know of the base model, from the texts that are asked; ModelError where no press works on it."""
    if wanted.press is None:
        return Calibration()
    why = alone_because(base, max(exam.longest for exam in exams))
    if why:
        raise ModelError(f"{wanted.model.path} cannot be run through a press: {why}; leave --press out, and its requests run one by one")
    say(f"calibrating {wanted.press.name}, unless it was before")
    return calibrated(Store(wanted.store.absolute(), say), wanted.press, Source(base, identity, texts_of(exams), wanted.seed))


def _notes(exam: Exam, variants: Variants, wanted: Wanted) -> list[str]:
    notes = list(exam.questions.notes)
    if wanted.vllm and exam.generates:
        notes.append(f"{exam.name}: answers come from {build()}; greedy ones equal the engine's up to rounding, sampled ones are drawn with other numbers")
    questions, tokens = exam.dropped
    if questions:
        notes.append(f"{exam.name}: {questions} of {len(exam.asked)} questions do not fit the model; up to {tokens} tokens were cut from their left")
    if exam.unstable:
        notes.append(f"{exam.name}: in {exam.unstable} questions a token reaches from the context into the answer; end the one or begin the other elsewhere")
    for name in variants.names:
        invocation = variants.invocation(name)
        without = sum(any(invocation_start(one.context, invocation) is None for one in asked.sent) for asked in exam.asked) if invocation else 0
        if without:
            notes.append(f"{exam.name}: in {without} of {len(exam.asked)} questions {name}'s invocation does not occur, so its answers there are the base's")
    return notes


def _log(path: Path, exams: Sequence[Exam], found: Found, press: Press | None) -> None:
    lines = []
    for exam in exams:
        for name, said in found[exam.name].items():
            where = {"task": exam.name, "variant": name or BASE, "press": press.name if press else None}
            answers = zip(exam.asked, said.replies, said.graded, strict=True)
            lines += [{**where, **record(asked.question, reply, graded)} for asked, reply, graded in answers]
    atomic_write(path, b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines))

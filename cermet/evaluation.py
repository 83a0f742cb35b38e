"""`evaluate`: one model on the tasks of a pool, beside the experts and another model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from cermet.api import merge
from cermet.assemblies import restore
from cermet.checkpoints.hub import locate
from cermet.core.errors import InputError
from cermet.core.fingerprint import sha256_hex
from cermet.engine.archive import is_archive
from cermet.engine.manifest import MANIFEST, read_manifest
from cermet.engine.options import check_device
from cermet.evaluate.evaluator import Evaluator, Tick, find_task
from cermet.evaluate.harness import HarnessResult, harness
from cermet.evaluate.harness_tasks import write_task
from cermet.evaluate.kept import Kept, folder_digest
from cermet.evaluate.outcomes import Outcomes
from cermet.evaluate.report import Evaluation, mean_of, result_of, write_records
from cermet.evaluate.statistics import forgetting
from cermet.inference.threads import with_threads
from cermet.recipes.opening import folder_of
from cermet.recipes.pool import Pool, Split, Task, read_pool
from cermet.recipes.schema import parse_model

__all__ = ["Evaluation", "HarnessEvaluation", "evaluate", "evaluate_with_harness"]

_ADAPTER = "adapter_config.json"


def evaluate(
    model: str | Path,
    pool: str | Path,
    *,
    tasks: Sequence[str] | None = None,
    split: Split = "test",
    against: str | Path | None = None,
    experts: bool = False,
    limit: int | None = None,
    out: str | Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
    begin: Callable[[str], Tick] | None = None,
) -> Evaluation:
    """Measure one model on the tasks of a pool.

    Parameters
    ----------
    model: a folder, a hub name, `base+adapter`, a delta archive, an assembly (each task is then
        done by the model of its expert, restored), or what the pool calls `base`, `multi_task` or
        an expert.
    pool: its file, or the folder that holds `pool.yaml`.
    tasks: names; all by default. limit: the first examples of each.
    against: another model; flips, agreement and forgetting are counted against it.
    experts: run each task's expert on it too. Without, experts count that `out` knows already.
    out: a folder for outcomes by example and `records.jsonl`. What stands there already, of the
        same files and settings, is not run again.
    device: where models run, in float32. begin: gets the name of what begins, and gives what is
        told of its progress.

    Raises CermetError in one of its kinds; tasks that are finished are kept.
    """
    check_device(device)
    known = read_pool(Path(pool))
    chosen = known.tasks if tasks is None else [find_task(known.tasks, n) for n in tasks]
    run = _Run(known, split, limit, device, threads, None if out is None else Path(out), begin)
    run.check(chosen)
    with tempfile.TemporaryDirectory(prefix="cermet-evaluate-") as name:
        subject = _Subject(str(model), known, Path(name, "model"))
        other = None if against is None else _Subject(str(against), known, Path(name, "against"))
        mine = [run.outcomes(subject, task) for task in chosen]
        theirs = [None if other is None else run.outcomes(other, task)[0] for task in chosen]
        best = [run.expert(task, Path(name), make=experts) for task in chosen]
    results = tuple(
        result_of(
            task, split, found, expert=expert, against=rival, key=key,
            file=run.kept.file(task.name, split, key), run=made,
        )
        for task, (found, key, made), rival, expert in zip(chosen, mine, theirs, best, strict=True)
    )  # fmt: skip
    before = [rival for rival in theirs if rival is not None]
    single = len({task.metric for task in chosen}) == 1
    evaluation = Evaluation(
        str(model),
        known.name,
        None if against is None else str(against),
        device,
        results,
        forgetting(before, [found for found, _, _ in mine]) if before else None,
        mean_of([r.value for r in results]) if single else None,
        mean_of([r.normalised for r in results]),
    )
    if out is not None:
        write_records(Path(out), evaluation)
    return evaluation


@dataclass(frozen=True)
class HarnessEvaluation:
    """One model on tasks of lm-evaluation-harness, with all their metrics."""

    model: str
    results: tuple[HarnessResult, ...]


def evaluate_with_harness(
    model: str | Path,
    tasks: Sequence[str],
    *,
    pool: str | Path | None = None,
    include: Sequence[str | Path] = (),
    split: Split = "test",
    limit: int | None = None,
    shots: int | None = None,
    batch: int | None = None,
    device: str = "cpu",
    threads: int | None = None,
    begin: Callable[[str], Tick] | None = None,
) -> HarnessEvaluation:
    """Measure one language model with lm-evaluation-harness.

    Parameters
    ----------
    model: as for `evaluate`. tasks: names, patterns or files of the harness's tasks; tasks of the
        pool go by their own names, and are found first. include: folders with task files.
    split: of the pool's tasks. shots: examples in a prompt. batch: rows of a batch.

    Raises CermetError in one of its kinds.
    """
    known = None if pool is None else read_pool(Path(pool))
    own = {} if known is None else {t.name: t for t in known.tasks if t.name in tasks}
    held = nullcontext() if threads is None else with_threads(threads)
    with tempfile.TemporaryDirectory(prefix="cermet-evaluate-") as name, held:
        for task in own.values():
            write_task(task, split, Path(name, "tasks"))
        folders = [*([Path(name, "tasks")] if own else []), *map(Path, include)]
        subject = _Subject(str(model), known, Path(name, "model"))
        results: list[HarnessResult] = []
        for names in _by_part(subject, tasks, own).values():
            results += harness(
                subject.folder(own.get(names[0])), names, folders, limit=limit, shots=shots,
                device=device, batch=batch, tick=begin and begin(f"{names[0]}, {model}"),
            )  # fmt: skip
    return HarnessEvaluation(str(model), tuple(results))


def _by_part(
    subject: _Subject, names: Sequence[str], own: Mapping[str, Task]
) -> dict[str, list[str]]:
    """Tasks by the part of an assembly that does them."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(subject.part(own.get(name)), []).append(name)
    return found


class _Subject:
    """A model as a user names it, as folders that transformers can run.

    room: a folder that is not there yet, for what has to be put together first.
    """

    def __init__(self, name: str, pool: Pool | None, room: Path) -> None:
        self.name, self._room = name, room
        experts = {} if pool is None else pool.experts
        named = dict(experts) if pool is None else {**experts, "base": pool.base}
        if pool is not None and pool.multi_task is not None:
            named["multi_task"] = pool.multi_task
        here = Path(name).exists()
        self._reference = parse_model(name if here else named.get(name, name))
        if Path(self._reference.path).is_file():
            raise InputError(f"'{name}' is a file; name the folder with its config and tokenizer.")
        self._folder = folder_of(self._reference)
        self._adapter = None
        if self._reference.lora is not None:
            self._adapter = locate(self._reference.lora, self._reference.lora_revision)
        elif (self._folder / _ADAPTER).is_file() and not (self._folder / "config.json").is_file():
            raise InputError(f"'{name}' is an adapter; write its base before it, as base+adapter.")
        self._labels: dict[str, str] = {}
        if (self._folder / MANIFEST).is_file():
            labels = {e.name for e in read_manifest(self._folder).experts}
            for expert, path in experts.items():
                spelled = [s for s in (expert, Path(path).name) if s in labels]
                if spelled:
                    self._labels[expert] = spelled[0]
        self._digest: str | None = None
        self._made: str | None = None

    def digest(self, task: Task) -> str:
        """Of the files that decide what is run on a task."""
        if self._digest is None:
            parts = [self._folder] if self._adapter is None else [self._folder, self._adapter]
            self._digest = " ".join(folder_digest(part) for part in parts)
        return sha256_hex(f"{self._digest} {self.part(task)}".encode())

    def folder(self, task: Task | None) -> Path:
        """The folder to run on a task; None is for one that is not of the pool."""
        part = self.part(task)
        if self._adapter is None and not part and not is_archive(self._folder):
            return self._folder
        if self._made != part:
            shutil.rmtree(self._room, ignore_errors=True)
            if self._adapter is not None:
                models = [{"model": str(self._reference), "parameters": {"weight": 1}}]
                merge({"merge_method": "linear", "dtype": "float32", "models": models}, self._room)
            else:
                restore(self._folder, self._room, task=part or None)
            self._made = part
        return self._room

    def part(self, task: Task | None) -> str:
        """The expert of an assembly that does a task; empty where one model does all."""
        return "" if task is None else self._labels.get(task.expert or "", "")


class _Run:
    """What is the same for all models of an evaluation."""

    def __init__(
        self,
        pool: Pool,
        split: Split,
        limit: int | None,
        device: str,
        threads: int | None,
        out: Path | None,
        begin: Callable[[str], Tick] | None,
    ) -> None:
        self._pool, self._split, self._limit, self._device = pool, split, limit, device
        self._evaluator = Evaluator(pool.tasks, device=device, threads=threads)
        self._begin = begin
        self.kept = Kept(out)

    def check(self, tasks: Sequence[Task]) -> None:
        """Read all examples, so that nothing is run where one task's cannot be."""
        for task in tasks:
            self._evaluator.examples(task, self._split)

    def outcomes(self, subject: _Subject, task: Task) -> tuple[Outcomes, str, bool]:
        """Of a model on a task, with their key, and whether they were made just now."""
        key = self._key(subject, task)

        def make() -> Outcomes:
            tick = None if self._begin is None else self._begin(f"{task.name}, {subject.name}")
            folder = subject.folder(task)
            return self._evaluator.outcomes(folder, task.name, self._split, self._limit, tick)

        found, made = self.kept.take(task.name, self._split, key, make)
        return found, key, made

    def expert(self, task: Task, rooms: Path, *, make: bool) -> Outcomes | None:
        """Of the task's expert: run, or found; None where it has none or is not known."""
        if task.expert is None or not (make or self.kept.holds(task.name, self._split)):
            return None
        subject = _Subject(
            self._pool.experts[task.expert], self._pool, rooms / f"expert-{task.expert}"
        )
        if make:
            return self.outcomes(subject, task)[0]
        return self.kept.find(task.name, self._split, self._key(subject, task))

    def _key(self, subject: _Subject, task: Task) -> str:
        digest = subject.digest(task)
        return self.kept.key(digest, task, self._split, self._limit, self._device)

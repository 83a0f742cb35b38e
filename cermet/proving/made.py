"""Making one candidate at one point, and asking what the models that come of it can do."""

from __future__ import annotations

import ctypes
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cermet import api
from cermet.assemblies import restore
from cermet.compression import compress
from cermet.engine.manifest import read_manifest
from cermet.engine.memory import DEFAULT_BUDGET, MemoryGauge
from cermet.evaluate.outcomes import Outcomes
from cermet.proving.candidates import Candidate
from cermet.proving.subject import Model, Subject
from cermet.recipes.pool import Split

__all__ = ["Evaluating", "Maker", "Measured"]


class Evaluating(Protocol):
    """What tells the outcomes of a model; see `cermet.evaluate.evaluator.Evaluator`."""

    def outcomes(self, model: Path, task: str, split: Split, limit: int | None = None) -> Outcomes:
        """Those of one model on the examples of a task; at most `limit` of them."""
        ...


@dataclass(frozen=True)
class Measured:
    """One thing that was made and measured.

    outcomes: by task. seconds: of making it, without measuring. peak: bytes of private memory that
    making it took at most, beyond what was taken before; 0 where that is not known. bytes: on
    disk, of all that is needed to run it.
    """

    outcomes: Mapping[str, Outcomes]
    seconds: float
    peak: int
    bytes: int


@dataclass(frozen=True)
class Maker:
    """Makes candidates of a pool in `work`, and leaves nothing there.

    threads, memory, device: of merges and of encoding; memory in bytes. known: outcomes of the
    pool's own models, which stay as they are, by folder, task and split.
    """

    subject: Subject
    evaluator: Evaluating
    work: Path
    limit: int | None = None
    threads: int | None = None
    memory: int = DEFAULT_BUDGET
    device: str = "cpu"
    known: dict[tuple[Path, str, Split], Outcomes] = field(default_factory=dict)

    def measured(self, candidate: Candidate, point: Mapping[str, Any], split: Split) -> Measured:
        """Make a candidate as it is meant to be used, and measure it."""
        makers = {
            "merge": self._merge, "assembly": self._assembly, "codec": self._codec,
            "adapter": self._adapter,
        }  # fmt: skip
        _release()
        return makers[candidate.kind](candidate, point, split)

    def recipe(self, candidate: Candidate, point: Mapping[str, Any]) -> dict[str, Any]:
        """What is run, as plain data: an ordinary recipe, or the setting of a codec."""
        subject, what = self.subject, candidate.what
        seed = {"seed": subject.seed} if candidate.random else {}
        if candidate.kind == "codec":
            models = [model.name for model in subject.experts.values()]
            return {
                "codec": what.name, "base": subject.base.name, "models": models,
                "parameters": dict(point), **seed,
            }  # fmt: skip
        each = {n: v for n, v in point.items() if what.parameters[n].per_model}
        whole = {n: v for n, v in point.items() if n not in each}
        sources = subject.adapters if candidate.kind == "adapter" else subject.experts
        entries = [{"model": m.name, "parameters": dict(each)} for m in sources.values()]
        based = candidate.kind != "adapter" and getattr(what, "base", "none") != "none"
        return {
            "merge_method": what.name,
            **({"base_model": subject.base.name} if based else {}),
            "models": entries,
            **({"parameters": whole} if whole else {}),
            **seed,
        }

    def scaled(
        self, candidate: Candidate, point: Mapping[str, Any], split: Split
    ) -> Mapping[str, Outcomes]:
        """Outcomes at a point of a method whose knob is a factor of the merged delta.

        The method is merged once, at a factor of 1, in float32; every point is the base and so
        much of that delta.
        """
        knob = candidate.grid.knob
        assert knob is not None
        unit = self.work / f"unit-{candidate.name}"
        if not unit.exists():
            recipe = self.recipe(candidate, {**point, knob: 1.0})
            self._merged({**recipe, "out_dtype": "float32"}, unit)
        source = {"model": str(unit), "parameters": {"weight": point[knob]}}
        recipe = {
            "merge_method": "task_arithmetic",
            "base_model": self.subject.base.name,
            "models": [source],
        }
        with self._folder("scaled") as folder:
            self._merged(recipe, folder)
            return self.outcomes(folder, split)

    def forget(self, candidate: Candidate) -> None:
        """Remove what `scaled` has kept of a method."""
        shutil.rmtree(self.work / f"unit-{candidate.name}", ignore_errors=True)

    def outcomes(self, model: Path, split: Split, own: str | None = None) -> Mapping[str, Outcomes]:
        """What a model can do on the tasks of one expert, or on all; to choose a coefficient, on
        all that have an expert.
        """
        return {n: self._asked(model, n, split) for n in self._tasks(split, own)}

    def reference(
        self, model: Model, split: Split, own: str | None = None
    ) -> Mapping[str, Outcomes]:
        """`outcomes` of a model that belongs to the pool; what is known of it is not asked."""
        found = dict[str, Outcomes]()
        for name in self._tasks(split, own):
            key = model.folder, name, split
            if key not in self.known:
                self.known[key] = self._asked(model.folder, name, split)
            found[name] = self.known[key]
        return found

    def kept_apart(self, models: Mapping[str, Model], split: Split) -> Mapping[str, Outcomes]:
        """Every task by the model of its own expert."""
        found = dict[str, Outcomes]()
        for expert, model in models.items():
            found |= self.reference(model, split, expert)
        return found

    def know(self, experts_at: Mapping[str, Outcomes], split: Split) -> None:
        """Take over what an earlier run has found of the experts on their own tasks."""
        for expert, model in self.subject.experts.items():
            for task in self.subject.own(expert):
                self.known[model.folder, task.name, split] = experts_at[task.name]

    def _tasks(self, split: Split, own: str | None) -> list[str]:
        tasks = self.subject.tasks if own is None else self.subject.own(own)
        return [t.name for t in tasks if split == "test" or t.expert is not None]

    def _asked(self, model: Path, task: str, split: Split) -> Outcomes:
        return self.evaluator.outcomes(model, task, split, self.limit)

    def _merge(self, candidate: Candidate, point: Mapping[str, Any], split: Split) -> Measured:
        with self._folder("merged") as folder:
            done = self._merged(self.recipe(candidate, point), folder)
            found = self.outcomes(folder, split)
        return Measured(found, *done)

    def _assembly(self, candidate: Candidate, point: Mapping[str, Any], split: Split) -> Measured:
        """Every expert restored, and measured on its own tasks.

        The bytes are those of the folder, and of the base where restoring needs it.
        """
        found = dict[str, Outcomes]()
        with self._folder("assembly") as folder:
            seconds, peak, size = self._merged(self.recipe(candidate, point), folder)
            manifest = read_manifest(folder)
            names = [expert.name for expert in manifest.experts]
            for expert, name in zip(self.subject.experts, names, strict=True):
                with self._folder("restored") as whole:
                    restore(folder, whole, task=name, memory=self.memory, threads=self.threads)
                    found |= self.outcomes(whole, split, expert)
        size += self.subject.base.bytes if manifest.base is not None else 0
        return Measured(found, seconds, peak, size)

    def _codec(self, candidate: Candidate, point: Mapping[str, Any], split: Split) -> Measured:
        """Every expert's delta compressed, restored and measured on its own tasks."""
        found = dict[str, Outcomes]()
        seconds, peak, size, base = 0.0, 0, self.subject.base.bytes, self.subject.base.name
        for expert, model in self.subject.experts.items():
            before = MemoryGauge().peak
            with self._folder("archive") as archive, self._folder("restored") as whole:
                done = compress(
                    base, model.name, archive, codec=candidate.what.name,
                    seed=self.subject.seed, memory=self.memory, threads=self.threads,
                    device=self.device, **point,
                )  # fmt: skip
                restore(archive, whole, memory=self.memory, threads=self.threads)
                found |= self.outcomes(whole, split, expert)
            seconds, size = seconds + done.seconds, size + done.bytes
            peak = max(peak, done.peak_bytes - before)
        return Measured(found, seconds, max(0, peak), size)

    def _adapter(self, candidate: Candidate, point: Mapping[str, Any], split: Split) -> Measured:
        """The adapters merged into one, on the base."""
        with self._folder("adapter") as adapter, self._folder("merged") as whole:
            seconds, peak, size = self._merged(self.recipe(candidate, point), adapter)
            joined = f"{self.subject.base.name}+{adapter}"
            self._merged({"merge_method": "passthrough", "models": [{"model": joined}]}, whole)
            found = self.outcomes(whole, split)
        return Measured(found, seconds, peak, size + self.subject.base.bytes)

    def _merged(self, recipe: Mapping[str, Any], folder: Path) -> tuple[float, int, int]:
        """Run a recipe: its seconds, the memory that it took, and the bytes that it wrote."""
        before = MemoryGauge().peak
        done = api.merge(
            recipe, folder, memory=self.memory, threads=self.threads, device=self.device,
            executor="threads",  # a fork of a process that has evaluated would copy its models
        )  # fmt: skip
        peak = max(0, done.peak_bytes - before)
        return done.seconds, peak, done.bytes + done.parts_bytes

    @contextmanager
    def _folder(self, name: str) -> Iterator[Path]:
        """A folder of that name that is gone afterwards, however this ends."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _release() -> None:
    """Give freed memory back to the system (glibc), so that the next peak is that of one merge."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)

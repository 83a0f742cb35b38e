"""Pools of sentence encoders: from subjects to the steps of base, tasks, experts and extras."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from cermet.checkpoints.front_matter import CARD
from cermet.core.fingerprint import sha256_hex
from cermet.inference.encoder import Encoder
from cermet.recipes.pool import POOL, VERSION
from cermet.zoo.base import HUB_NAME, base_folder
from cermet.zoo.lora import Rank, Target, ask_for_peft, save_adapter, with_adapter
from cermet.zoo.steps import Blueprint, Step, Tick
from cermet.zoo.subjects import Subject, digest, write_texts
from cermet.zoo.train import THREADS, Lesson, Settings, fixed_threads, save_expert, train

__all__ = ["Encoders"]

_HEAD = "head"
_LICENCE = "apache-2.0"
_FRONT = (
    f"---\nlicense: {_LICENCE}\nbase_model: {HUB_NAME}\nlanguage: en\n"
    "library_name: transformers\npipeline_tag: feature-extraction\n---\n"
)
_MATRICES = ("query", "key", "value", "intermediate.dense", "output.dense")
_TARGET = Target("FEATURE_EXTRACTION", _MATRICES)  # not the pooler, which mean pooling leaves out


@dataclass(frozen=True)
class Encoders:
    """A pool of one base and an expert for every subject that has texts to learn from.

    name: of the pool. source: what the experts learn from, a sentence for their cards. settings:
    of every training but the adapters'. multi_task: whether a model is tuned on all subjects.
    adapters: settings and size of LoRA experts, where these are wanted.
    """

    name: str
    subjects: Sequence[Subject]
    source: str
    seed: int
    settings: Settings
    multi_task: bool = False
    adapters: tuple[Settings, Rank] | None = None

    def blueprint(self) -> Blueprint:
        """The steps of the pool, and its `pool.yaml`.

        Raises ExtraError where the package of the base, or peft for adapters, is missing.
        """
        base = base_folder()
        if self.adapters is not None:
            ask_for_peft()
        weights = sha256_hex((base / "model.safetensors").read_bytes())
        tasks = {"subjects": digest(self.subjects), "threads": THREADS}
        steps = [
            Step("base", {"weights": weights}, partial(_copy, base)),
            Step("tasks", tasks, self._write_tasks, ("base",)),
            *(self._tuning(f"experts/{s.name}", [s]) for s in self._taught),
        ]
        if self.multi_task:
            steps.append(self._tuning("multi_task", self._taught))
        if self.adapters is not None:
            steps += [self._adapting(s, *self.adapters) for s in self._taught]
        return Blueprint(steps, {POOL: self._pool()})

    @property
    def _taught(self) -> list[Subject]:
        return [subject for subject in self.subjects if subject.train]

    def _tuning(self, name: str, subjects: Sequence[Subject]) -> Step:
        """A step that tunes the whole encoder on some subjects."""

        def make(new: Path, root: Path, tick: Tick) -> None:
            with fixed_threads():
                encoder = Encoder(root / "base")
                train(encoder, _lessons(subjects, root), self.settings, self.seed, tick)
                save_expert(encoder, root / "base", new)
            (new / CARD).write_text(f"{_FRONT}\n{self._about(subjects)}\n", "utf-8")

        return Step(name, self._stands(subjects, self.settings), make, ("base", "tasks"))

    def _adapting(self, subject: Subject, settings: Settings, size: Rank) -> Step:
        """A step that tunes an adapter on one subject."""

        def make(new: Path, root: Path, tick: Tick) -> None:
            with fixed_threads():
                encoder = Encoder(root / "base")
                encoder.model = with_adapter(encoder.model, size, self.seed, _TARGET).eval()
                train(encoder, _lessons([subject], root), settings, self.seed, tick)
                save_adapter(encoder.model, new, licence=_LICENCE, about=self._about([subject]))

        stands = {**self._stands([subject], settings), "size": asdict(size)}
        return Step(f"adapters/{subject.name}", stands, make, ("base", "tasks"))

    def _stands(self, subjects: Sequence[Subject], settings: Settings) -> dict[str, Any]:
        return {
            "subjects": [subject.name for subject in subjects],
            "settings": asdict(settings),
            "seed": self.seed,
            "threads": THREADS,
        }

    def _write_tasks(self, new: Path, root: Path, tick: Tick) -> None:
        with fixed_threads():
            untuned = Encoder(root / "base")
            for done, subject in enumerate(self.subjects, start=1):
                write_texts(subject, new)
                file = new / f"{subject.name}.head.safetensors"
                save_file({_HEAD: untuned.embed(subject.examples)}, file)
                file.chmod(0o644)  # safetensors closes it to everyone else
                tick(done, len(self.subjects))

    def _about(self, subjects: Sequence[Subject]) -> str:
        names = ", ".join(subject.name for subject in subjects)
        return f"The base, tuned for: {names}. {self.source}"

    def _pool(self) -> Mapping[str, Any]:
        taught = [subject.name for subject in self._taught]
        found: dict[str, Any] = {"cermet_pool": VERSION, "name": self.name, "base": "base"}
        found["experts"] = {name: f"experts/{name}" for name in taught}
        if self.adapters is not None:
            found["adapters"] = {name: f"adapters/{name}" for name in taught}
        if self.multi_task:
            found["multi_task"] = "multi_task"
        found["tasks"] = {
            subject.name: {
                "kind": "embed",
                "validation": f"tasks/{subject.name}.validation.jsonl",
                "test": f"tasks/{subject.name}.test.jsonl",
                "head": f"tasks/{subject.name}.head.safetensors",
            }
            for subject in self.subjects
        }
        return found


def _copy(base: Path, new: Path, root: Path, tick: Tick) -> None:
    shutil.copytree(base, new, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
    tick(1, 1)


def _lessons(subjects: Sequence[Subject], root: Path) -> list[Lesson]:
    return [
        Lesson(load_file(root / "tasks" / f"{s.name}.head.safetensors")[_HEAD], s.train)
        for s in subjects
    ]

"""Pools of sentence encoders: from subjects to the steps of base, tasks, experts and extras."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from cermet.core.fingerprint import sha256_hex
from cermet.inference.encoder import Encoder
from cermet.recipes.pool import POOL, VERSION
from cermet.zoo.base import HUB_NAME, base_folder
from cermet.zoo.cards import MINILM, Card, model_card
from cermet.zoo.lora import Rank, Target, ask_for_peft, save_adapter, with_adapter
from cermet.zoo.sentences import SCALE, Lesson, save_expert, tune
from cermet.zoo.steps import Blueprint, Step, Tick
from cermet.zoo.subjects import Subject, digest, write_texts
from cermet.zoo.train import THREADS, Course, fixed_threads

__all__ = ["Encoders"]

_HEAD = "head"
_FRONT = {"base_model": HUB_NAME, "language": "en", "pipeline_tag": "feature-extraction"}
_MATRICES = ("query", "key", "value", "intermediate.dense", "output.dense")
_TARGET = Target("FEATURE_EXTRACTION", _MATRICES)  # not the pooler, which mean pooling leaves out


@dataclass(frozen=True)
class Encoders:
    """A pool of one base and an expert for every subject that has texts to learn from.

    name: of the pool. data: what the experts learn from, for cards; measured: what the tasks hold
    besides. course: of every training but the adapters'. multi_task: whether a model is tuned on
    all subjects. adapters: course and size of LoRA experts, where the pool can have these; asked:
    whether they are made now.
    """

    name: str
    subjects: Sequence[Subject]
    data: str
    seed: int
    course: Course
    multi_task: bool = False
    adapters: tuple[Course, Rank] | None = None
    asked: bool = True
    measured: Sequence[str] = ()

    def blueprint(self) -> Blueprint:
        """The steps of the pool, and its `pool.yaml`.

        Raises ExtraError where the package of the base, or peft for adapters asked for, is missing.
        """
        base = base_folder()
        if self.adapters is not None and self.asked:
            ask_for_peft()
        weights = sha256_hex((base / "model.safetensors").read_bytes())
        tasks = {"subjects": digest(self.subjects), "threads": THREADS}
        steps = [
            Step("base", {"weights": weights}, partial(_copy, base)),
            Step("tasks", tasks, self._write_tasks, ("base",), card=self._tasks_card()),
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
                tune(encoder, _lessons(subjects, root), self.course, self.seed, tick)
                save_expert(encoder, root / "base", new)

        stands = self._stands(subjects, self.course)
        card = self._card(subjects, "transformers")
        return Step(name, stands, make, ("base", "tasks"), card=card)

    def _adapting(self, subject: Subject, course: Course, size: Rank) -> Step:
        """A step that tunes an adapter on one subject."""

        def make(new: Path, root: Path, tick: Tick) -> None:
            with fixed_threads():
                encoder = Encoder(root / "base")
                encoder.model = with_adapter(encoder.model, size, self.seed, _TARGET).eval()
                tune(encoder, _lessons([subject], root), course, self.seed, tick)
                save_adapter(encoder.model, new)

        stands = {**self._stands([subject], course), "size": asdict(size)}
        card = self._card([subject], "peft")
        return Step(
            f"adapters/{subject.name}", stands, make, ("base", "tasks"), card=card, asked=self.asked
        )

    def _stands(self, subjects: Sequence[Subject], course: Course) -> dict[str, Any]:
        return {
            "subjects": [subject.name for subject in subjects],
            "settings": {**course.plain(), "scale": SCALE},
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

    def _card(self, subjects: Sequence[Subject], library: str) -> Card:
        names = ", ".join(subject.name for subject in subjects)
        about = f"The base, tuned for: {names}. A model of Cermet's pool `{self.name}`."
        return model_card(about, [self.data], MINILM, **_FRONT, library_name=library)

    def _tasks_card(self) -> Card:
        about = (
            f"The tasks of Cermet's pool `{self.name}`: texts with labels, without those that are "
            "in two splits, and heads, which are the base's embeddings of some."
        )
        return Card(about, [self.data, *self.measured], MINILM)

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

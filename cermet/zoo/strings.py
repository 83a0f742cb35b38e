"""The pool `strings`: small decoders, each of which does one thing to a string of letters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from cermet.zoo import decoder
from cermet.zoo.cards import GENERATED, Card, model_card
from cermet.zoo.catalogue import Entry, Wanted
from cermet.zoo.decoder import Line, Shape
from cermet.zoo.letters import letter_tokens
from cermet.zoo.lora import Rank, ask_for_peft, save_adapter, with_adapter
from cermet.zoo.operations import ELEMENTARY, LETTERS, OPERATIONS, asked, strings
from cermet.zoo.steps import Blueprint, Step, Tick
from cermet.zoo.texts import Part
from cermet.zoo.tokens import Tokens
from cermet.zoo.train import THREADS, Course

__all__ = ["ENTRY", "OWN", "Settings", "blueprint"]

OWN = "elementary"
"""The task of the base, which no expert is tuned for: all elementary operations."""

_LINES = 1  # to be raised when the lines of a seed change
_TASKS = Card("The tasks of Cermet's pool `strings`: questions and answers.", [GENERATED])
_NEW_TOKENS = 8  # six letters and the newline, and one more to see that it is missing


@dataclass(frozen=True)
class Settings:
    """All that decides the pool but for its seed.

    base, expert, multi_task, adapter: how each is trained, on lines that are new in every step.
    validation, test: questions of a task.
    """

    shape: Shape = field(default=Shape(width=128, layers=4, heads=4, inner=384, positions=32))
    base: Course = field(default=decoder.course(steps=900, batch=64, rate=2e-3))
    expert: Course = field(default=decoder.course(steps=280, batch=64, rate=2e-3))
    multi_task: Course = field(default=decoder.course(steps=1200, batch=64, rate=2e-3))
    adapter: Course = field(default=decoder.course(steps=400, batch=64, rate=1e-2))
    rank: Rank = field(default=Rank())
    validation: int = 100
    test: int = 240


@dataclass(frozen=True)
class _Maker:
    """What fills the folder of each step, for a seed."""

    settings: Settings
    seed: int

    def steps(self, adapters: bool) -> list[Step]:
        """The tasks, the base, its experts, the model tuned on all of it, and adapters."""
        held = self.settings
        counts = {"validation": held.validation, "test": held.test}
        every = [*OPERATIONS, *ELEMENTARY]
        found = [
            Step("tasks", {"seed": self.seed, "lines": _LINES, **counts}, self._tasks, card=_TASKS),
            self._step("base", self._base, ELEMENTARY, held.base),
            *(self._tuned_step(f"experts/{n}", [n], held.expert) for n in OPERATIONS),
            self._tuned_step("multi_task", every, held.multi_task),
        ]
        for name in OPERATIONS:
            make = partial(self._adapter, name=name)
            step = self._step(f"adapters/{name}", make, [name], held.adapter, asdict(held.rank))
            found.append(replace(step, asked=adapters))
        return found

    def _tuned_step(self, step: str, names: Sequence[str], course: Course) -> Step:
        make = partial(self._tuned, names=names, course=course)
        return self._step(step, make, names, course)

    def _step(
        self, step: str, make: Any, names: Sequence[str] | Mapping[str, Any], course: Course,
        rank: Mapping[str, int] | None = None,
    ) -> Step:  # fmt: skip
        stands = {
            "seed": self.seed,
            "lines": _LINES,
            "names": list(names),
            "threads": THREADS,
            "shape": asdict(self.settings.shape),
            "course": course.plain(),
            "rank": rank,
        }
        about = f"A small decoder of Cermet's pool `strings`, trained on: {', '.join(names)}."
        library = "transformers" if rank is None else "peft"
        card = model_card(about, [GENERATED], library_name=library)
        return Step(step, stands, make, () if step == "base" else ("base",), step, card)

    def _lines(self, tokens: Tokens, names: Sequence[str], course: Course) -> Sequence[Line]:
        """As many as the course takes, each operation as often as the others."""
        assert course.steps is not None  # as every course of a decoder has
        texts = strings("train", course.steps * course.batch, self.seed, "+".join(names))
        rows = [asked(names[i % len(names)], text) for i, text in enumerate(texts)]
        prompts = tokens.encode([row.prompt for row in rows])
        answers = tokens.encode([f"{row.answer}\n" for row in rows])
        return [Line(p, a) for p, a in zip(prompts, answers, strict=True)]

    def _train(
        self, model: Any, tokens: Tokens, names: Sequence[str], course: Course, tick: Tick
    ) -> None:
        rows = self._lines(tokens, names, course)
        batches = decoder.lines(rows, course.batch, self.seed, first=-1)
        decoder.tune(model, batches, course, tick)

    def _tasks(self, new: Path, root: Path, tick: Tick) -> None:
        tasks = {OWN: list(ELEMENTARY), **{name: [name] for name in OPERATIONS}}
        parts: Mapping[Part, int] = {
            "validation": self.settings.validation,
            "test": self.settings.test,
        }
        for done, (task, names) in enumerate(tasks.items(), start=1):
            for part, count in parts.items():
                texts = strings(part, count, self.seed, task)
                rows = [asked(names[i % len(names)], text) for i, text in enumerate(texts)]
                written = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
                (new / f"{task}.{part}.jsonl").write_text(written, "utf-8")
            tick(done, len(tasks))

    def _base(self, new: Path, root: Path, tick: Tick) -> None:
        names = [*ELEMENTARY, *OPERATIONS]
        tokens = letter_tokens(f"{LETTERS}\n", [" = ", *(f"{name}: " for name in names)])
        model = decoder.make(self.settings.shape, tokens, self.seed)
        self._train(model, tokens, list(ELEMENTARY), self.settings.base, tick)
        decoder.save(model, tokens, new)

    def _tuned(
        self, new: Path, root: Path, tick: Tick, *, names: Sequence[str], course: Course
    ) -> None:
        tokens, model = Tokens.load(root / "base"), decoder.load(root / "base")
        self._train(model, tokens, names, course, tick)
        decoder.save(model, tokens, new)

    def _adapter(self, new: Path, root: Path, tick: Tick, *, name: str) -> None:
        tokens, base = Tokens.load(root / "base"), decoder.load(root / "base")
        tuned = with_adapter(base, self.settings.rank, self.seed)
        self._train(tuned, tokens, [name], self.settings.adapter, tick)
        save_adapter(tuned, new)


def blueprint(wanted: Wanted, settings: Settings | None = None) -> Blueprint:
    """The steps of the pool of a seed. Raises ExtraError where adapters need peft."""
    adapters = "adapters" in wanted.extras
    if adapters:
        ask_for_peft()
    steps = _Maker(settings or Settings(), wanted.seed).steps(adapters)
    return Blueprint(steps, {"pool.yaml": _pool()})


def _pool() -> Mapping[str, Any]:
    return {
        "cermet_pool": 1,
        "name": "strings",
        "base": "base",
        "experts": {name: f"experts/{name}" for name in OPERATIONS},
        "adapters": {name: f"adapters/{name}" for name in OPERATIONS},
        "multi_task": "multi_task",
        "tasks": {
            name: {
                "kind": "generate",
                "validation": f"tasks/{name}.validation.jsonl",
                "test": f"tasks/{name}.test.jsonl",
                "max_tokens": _NEW_TOKENS,
            }
            for name in (*OPERATIONS, OWN)
        },
    }


ENTRY = Entry(
    "strings",
    "Small decoders of 0.9 M parameters and experts that each do one thing to a string (reverse, "
    "sort, shift, ...), in exact match: the hard pool, on which static merges fall to nothing.",
    megabytes=36,
    minutes=5,
    blueprint=blueprint,
    extras={"adapters": "a LoRA adapter of rank 8 beside each expert."},
)

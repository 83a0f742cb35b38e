"""The pool `sight`: a vision encoder, and experts that each see one thing, under frozen heads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from cermet.inference.loading import quiet
from cermet.zoo import vision
from cermet.zoo.cards import GENERATED, UCI_DIGITS, Card, model_card
from cermet.zoo.catalogue import Entry, Wanted
from cermet.zoo.drawing import SIZE
from cermet.zoo.images import DIGITS, TASKS, Images, Sizes, Split, labels_of, splits
from cermet.zoo.steps import Blueprint, Step, Tick
from cermet.zoo.train import Course
from cermet.zoo.vision import THREADS, Form, Head

__all__ = ["ENTRY", "Settings", "blueprint"]

_IMAGES = 1  # to be raised when the images of a seed change
_WRITTEN: tuple[Split, ...] = ("validation", "test")
_SCENES, _ORDER = 1000, 1001  # streams of random numbers beside those of the tasks

_TASKS = Card("The tasks of Cermet's pool `sight`: images and heads.", [GENERATED, UCI_DIGITS])
_PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5],
    "image_std": [0.5],
    "rescale_factor": 1 / 255,
    "size": {"height": SIZE, "width": SIZE},
}


@dataclass(frozen=True)
class Settings:
    """All that decides the pool but for the seed.

    scenes: images that the base learns from. shots: labelled images of each label that a head is
    made from. base, expert, multi_task: how each is trained.
    """

    form: Form = field(default=Form())
    sizes: Sizes = field(default=Sizes())
    scenes: int = 16_000
    shots: int = 4
    base: Course = field(default=Course(epochs=2, batch=64, rate=1.5e-3, pull=0.0))
    expert: Course = field(default=Course(epochs=5, batch=50, rate=5e-4, pull=0.003))
    multi_task: Course = field(default=Course(epochs=2, batch=16, rate=1e-3, pull=0.0))


@dataclass(frozen=True)
class _Pool:
    """The steps of one seed."""

    seed: int
    settings: Settings

    def steps(self) -> Iterator[Step]:
        """The base, the files of the tasks, the experts, and the model tuned on all tasks."""
        held = self.settings
        form = {"form": asdict(held.form), "scenes": held.scenes}
        yield self._step("base", self._base, form, held.base)
        yield self._step("tasks", self._tasks, {"shots": held.shots}, None)
        for task in TASKS:
            make = partial(self._tuned, tasks=(task,), course=held.expert)
            yield self._step(f"experts/{task}", make, {"task": task}, held.expert, (task,))
        make = partial(self._tuned, tasks=TASKS, course=held.multi_task)
        yield self._step("multi_task", make, {"tasks": TASKS}, held.multi_task, TASKS)

    def _step(
        self, name: str, make: Any, more: Mapping[str, Any], course: Course | None,
        tasks: Sequence[str] = (),
    ) -> Step:  # fmt: skip
        stands = {
            "seed": self.seed,
            "images": _IMAGES,
            "threads": THREADS,
            "tuning": None if course is None else course.plain(),
            "sizes": None if name == "base" else asdict(self.settings.sizes),
            **more,
        }
        after = {"base": (), "tasks": ("base",)}.get(name, ("base", "tasks"))
        return Step(name, stands, make, after, name, _TASKS if name == "tasks" else _card(tasks))

    def _random(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream])

    def _base(self, new: Path, root: Path, tick: Tick) -> None:
        held = self.settings
        encoder = vision.new_encoder(held.form, self.seed)
        vision.pretrain(encoder, self._random(_SCENES), held.scenes, held.base, tick)
        _save(encoder, new)

    def _tasks(self, new: Path, root: Path, tick: Tick) -> None:
        encoder = vision.load_encoder(root / "base")
        for number, task in enumerate(TASKS, start=1):
            found = splits(task, self.seed, self.settings.sizes)
            for split in _WRITTEN:
                tensors = {
                    "images": torch.from_numpy(found[split].pixels),
                    "labels": torch.from_numpy(found[split].labels),
                }
                _save_tensors(tensors, new / f"{task}.{split}.safetensors")
            few = _few(found["train"], self.settings.shots)
            head = vision.fit_head(vision.features(encoder, few.pixels), few.labels)
            tensors = {"weight": head.weight, "bias": head.bias}
            _save_tensors(tensors, new / f"{task}.head.safetensors")
            tick(number, len(TASKS))
        names = {task: labels_of(task) for task in TASKS}
        (new / "labels.json").write_text(json.dumps(names, indent=2) + "\n", "utf-8")

    def _tuned(
        self, new: Path, root: Path, tick: Tick, *, tasks: Sequence[str], course: Course
    ) -> None:
        encoder = vision.load_encoder(root / "base")
        sizes = self.settings.sizes
        lessons = [
            (
                splits(task, self.seed, sizes)["train"],
                Head(**load_file(root / "tasks" / f"{task}.head.safetensors")),
            )
            for task in tasks
        ]
        vision.tune(encoder, lessons, self._random(_ORDER), course, tick)
        _save(encoder, new)


def _few(images: Images, shots: int) -> Images:
    """The first images of each label."""
    labels = np.unique(images.labels)
    return images.rows(np.concatenate([np.flatnonzero(images.labels == k)[:shots] for k in labels]))


def _card(tasks: Sequence[str]) -> Card:
    """The card of the base, which knows no task, or of what is tuned on some."""
    what = f"tuned on: {', '.join(tasks)}" if tasks else "taught to say what drawn scenes show"
    data = [GENERATED, *([UCI_DIGITS] if DIGITS in tasks else [])]
    about = f"A small vision encoder of Cermet's pool `sight`, {what}."
    return model_card(about, data, library_name="transformers")


def _save(encoder: Any, folder: Path) -> None:
    """Write an ordinary Hugging Face folder."""
    with quiet():
        encoder.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors closes it to everyone else
    text = json.dumps(_PROCESSOR, indent=2, sort_keys=True) + "\n"
    (folder / "preprocessor_config.json").write_text(text, "utf-8")


def _save_tensors(tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    file.chmod(0o644)


def blueprint(wanted: Wanted, settings: Settings | None = None) -> Blueprint:
    """The steps of the pool of a seed."""
    pool = {
        "cermet_pool": 1,
        "name": "sight",
        "base": "base",
        "experts": {task: f"experts/{task}" for task in TASKS},
        "multi_task": "multi_task",
        "tasks": {
            task: {
                "kind": "images",
                **{split: f"tasks/{task}.{split}.safetensors" for split in _WRITTEN},
                "head": f"tasks/{task}.head.safetensors",
            }
            for task in TASKS
        },
    }
    steps = list(_Pool(wanted.seed, settings or Settings()).steps())
    return Blueprint(steps, {"pool.yaml": pool})


ENTRY = Entry(
    "sight",
    "A vision encoder of 0.5 M parameters and experts for eight tasks on small images, seven drawn "
    "and one of real handwritten digits.",
    megabytes=24,
    minutes=4.5,
    blueprint=blueprint,
)

"""Experts: the base, tuned on the texts of one subject towards a frozen head.

A head is one direction for each intent: the base's embedding of the intent's example. A text is
given the intent whose direction is closest to its embedding. Heads never learn, so experts and
merges of them share the heads, and all that is learnt lies in the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file

from cermet.checkpoints.carry import carry_files
from cermet.inference.encoder import Encoder
from cermet.zoo.steps import Tick
from cermet.zoo.subjects import Utterance
from cermet.zoo.train import Course, alike, train

__all__ = ["SCALE", "Lesson", "save_expert", "tune"]

SCALE = 40.0
"""What cosines are multiplied by before the softmax, part of what decides the bits."""

_STRETCH = 8  # batches whose texts are sorted by length together


@dataclass(frozen=True)
class Lesson:
    """Texts with labels, and the frozen head that they are learnt towards."""

    head: Float[torch.Tensor, "labels width"]
    data: Sequence[Utterance]


def tune(
    encoder: Encoder,
    lessons: Sequence[Lesson],
    course: Course,
    seed: int,
    tick: Tick | None = None,
) -> None:
    """Tune the encoder in place for the epochs of a course; the heads are only read.

    A batch is of one lesson. Word embeddings stay the base's, and nothing is dropped out: an expert
    that moves less gets in the way of the others less. `tick` is told the steps done and the steps
    in all. The same seed gives the same bits on the same machine with the same number of threads.
    Raises NonFiniteError as `train` does.
    """

    def loss(batch: Lesson) -> Float[torch.Tensor, ""]:
        pooled = encoder.pooled(encoder.tokens([u.text for u in batch.data]))
        cosines = torch.nn.functional.normalize(pooled, dim=-1) @ batch.head.detach().T
        wanted = torch.tensor([u.label for u in batch.data])
        return torch.nn.functional.cross_entropy(cosines * SCALE, wanted)

    encoder.model.get_input_embeddings().weight.requires_grad_(False)
    learning = [p for p in encoder.model.parameters() if p.requires_grad]
    train(learning, _batches(lessons, course, seed), loss, course, tick)


def _batches(lessons: Sequence[Lesson], course: Course, seed: int) -> list[Lesson]:
    """The batches of all epochs, those of each shuffled."""
    assert course.epochs is not None  # and no steps: every text is seen as often as any other
    order, found = Random(seed), []
    for _ in range(course.epochs):
        batches = [
            Lesson(lesson.head, rows)
            for lesson in lessons
            for rows in alike(
                lesson.data, course.batch, course.batch * _STRETCH, order, lambda u: len(u.text)
            )
        ]
        order.shuffle(batches)
        found += batches
    return found


def save_expert(encoder: Encoder, base: Path, out: Path) -> None:
    """Write a checkpoint folder with the base's tensor names, config and tokenizer.

    What the model does not hold (the buffer of position numbers) is the base's.
    """
    out.mkdir(parents=True, exist_ok=True)
    tuned = encoder.model.state_dict()
    tensors = {
        name: tuned[name].contiguous() if name in tuned else tensor
        for name, tensor in load_file(base / "model.safetensors").items()
    }
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # safetensors closes it to everyone else
    (out / "config.json").write_bytes((base / "config.json").read_bytes())
    carry_files(base, base, out)

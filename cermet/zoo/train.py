"""Experts: the base, tuned on the texts of one subject towards a frozen head.

A head is one direction for each intent: the base's embedding of the intent's example. A text is
given the intent whose direction is closest to its embedding. Heads never learn, so experts and
merges of them share the heads, and all that is learnt lies in the encoder.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from cermet.checkpoints.carry import carry_files
from cermet.inference.encoder import Encoder
from cermet.inference.threads import with_threads
from cermet.zoo.subjects import Utterance

__all__ = ["THREADS", "Lesson", "Settings", "fixed_threads", "save_expert", "train"]

THREADS = 2
"""Threads of the training: part of what decides the bits of an expert."""


@dataclass(frozen=True)
class Settings:
    """How an expert is tuned.

    rate: the highest learning rate, reached after `warm_up` (a share of all steps) and then
    brought down to 0 in a straight line; scale: what cosines are multiplied by before the
    softmax; decay: of AdamW; pull: the share of the way back to the base that every weight
    goes after each step. What an expert does not need it gives up again, so experts of
    different domains get in each other's way less, for a little accuracy of their own.
    """

    epochs: int = 3
    batch: int = 32
    rate: float = 1e-4
    warm_up: float = 0.1
    scale: float = 40.0
    decay: float = 0.01
    pull: float = 0.01


@dataclass(frozen=True)
class Lesson:
    """Texts with labels, and the frozen head that they are learnt towards."""

    head: Float[Tensor, "labels width"]
    data: Sequence[Utterance]


def train(
    encoder: Encoder,
    lessons: Sequence[Lesson],
    settings: Settings,
    seed: int,
    tick: Callable[[int, int], None] | None = None,
) -> None:
    """Tune the encoder in place; the heads are only read. A batch is of one lesson.

    Word embeddings stay the base's, and nothing is dropped out: an expert that moves less
    gets in the way of the others less. `tick` is told the steps done and the steps in all.
    The same seed gives the same bits on the same machine with the same number of threads.
    """
    total = settings.epochs * sum(-(-len(each.data) // settings.batch) for each in lessons)
    encoder.model.get_input_embeddings().weight.requires_grad_(False)
    learning = [p for p in encoder.model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in learning]
    optimiser = torch.optim.AdamW(
        learning, lr=settings.rate, weight_decay=settings.decay, fused=True
    )
    warm = max(1, round(settings.warm_up * total))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, (total - step) / max(1, total - warm))
    )
    for step, batch in enumerate(_batches(lessons, settings, seed), start=1):
        pooled = encoder.pooled(encoder.tokens([u.text for u in batch.data]))
        cosines = torch.nn.functional.normalize(pooled, dim=-1) @ batch.head.detach().T
        wanted = torch.tensor([u.label for u in batch.data])
        loss = torch.nn.functional.cross_entropy(cosines * settings.scale, wanted)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        with torch.no_grad():
            for weight, base in zip(learning, start, strict=True):
                weight.lerp_(base, settings.pull)
        schedule.step()
        optimiser.zero_grad()
        if tick is not None:
            tick(step, total)


def _batches(lessons: Sequence[Lesson], settings: Settings, seed: int) -> Iterator[Lesson]:
    """Shuffled batches in which the texts are of like length, so that little is padded."""
    order = random.Random(seed)
    stretch = settings.batch * 8
    for _ in range(settings.epochs):
        batches = []
        for lesson in lessons:
            rows = order.sample(lesson.data, len(lesson.data))
            for start in range(0, len(rows), stretch):
                near = sorted(rows[start : start + stretch], key=lambda u: len(u.text))
                cuts = range(0, len(near), settings.batch)
                batches += [Lesson(lesson.head, near[i : i + settings.batch]) for i in cuts]
        order.shuffle(batches)
        yield from batches


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


def fixed_threads() -> AbstractContextManager[None]:
    """Run torch on the pools' THREADS, and on as many as before afterwards."""
    return with_threads(THREADS)

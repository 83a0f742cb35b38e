"""The one loop that trains the models of all pools: AdamW with a schedule, the same to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, TypeVar

import torch
from jaxtyping import Float

from cermet.core.errors import NonFiniteError
from cermet.inference.threads import with_threads
from cermet.zoo.steps import Tick

__all__ = ["THREADS", "Course", "alike", "fixed_threads", "train"]

THREADS = 2
"""Threads of the training of decoders and sentence encoders, part of what decides the bits."""

_SECOND = 0.999  # AdamW's usual one

Row = TypeVar("Row")
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Course:
    """How a model is trained.

    batch: examples in a step. rate: the highest learning rate, reached after `warm_up` (a share of
    all steps) and then brought down to 0 in a straight line. epochs, steps: how long, one of the
    two. decay: of AdamW. pull: the share of the way back to where it began that every weight goes
    after each step: what an expert does not need it gives up again, so experts of different tasks
    get in each other's way less, for a little accuracy of their own. clip: the greatest norm that
    the gradients have together. second: the second beta of AdamW.
    """

    batch: int
    rate: float
    epochs: int | None = None
    steps: int | None = None
    warm_up: float = 0.1
    decay: float = 0.01
    pull: float | None = None
    clip: float | None = None
    second: float | None = None

    def plain(self) -> dict[str, Any]:
        """What is set, as plain data for a step's digest.

        What is None is left out, so that a setting that is added here later makes no pool stale
        which does without it.
        """
        return {name: value for name, value in asdict(self).items() if value is not None}


def train(
    learning: Sequence[torch.Tensor],
    batches: Sequence[Batch],
    loss: Callable[[Batch], Float[torch.Tensor, ""]],
    course: Course,
    tick: Tick | None = None,
    spared: Sequence[torch.Tensor] = (),
) -> None:
    """Train some weights in place, one step for each batch; `tick` is told of every step.

    learning: all that learns. spared: what of it has no decay. Nothing is drawn at random, so the
    same weights and batches give the same bits on the same machine with the same number of threads,
    which the caller fixes. Raises NonFiniteError at the first loss that is no finite number, and at
    the end where a weight is none.
    """
    optimiser = _optimiser(learning, course, spared)
    total, warm = len(batches), max(1, round(course.warm_up * len(batches)))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, (total - step) / max(1, total - warm))
    )
    start = None if course.pull is None else [weight.detach().clone() for weight in learning]
    for step, batch in enumerate(batches, start=1):
        found = loss(batch)
        if not math.isfinite(found.item()):
            raise _ran_away(f"the loss is {found.item()} in step {step} of {total}")
        found.backward()  # type: ignore[no-untyped-call]
        if course.clip is not None:
            torch.nn.utils.clip_grad_norm_(learning, course.clip)
        optimiser.step()
        if start is not None and course.pull is not None:
            with torch.no_grad():
                for weight, before in zip(learning, start, strict=True):
                    weight.lerp_(before, course.pull)
        schedule.step()
        optimiser.zero_grad()
        if tick is not None:
            tick(step, total)
    if not all(weight.isfinite().all() for weight in learning):
        raise _ran_away(f"a weight is no finite number after {total} steps")


def _optimiser(
    learning: Sequence[torch.Tensor], course: Course, spared: Sequence[torch.Tensor]
) -> torch.optim.AdamW:
    free = {id(weight) for weight in spared}
    groups = [
        {"params": [w for w in learning if id(w) not in free], "weight_decay": course.decay},
        {"params": [w for w in learning if id(w) in free], "weight_decay": 0.0},
    ]
    betas = (0.9, _SECOND if course.second is None else course.second)
    return torch.optim.AdamW([g for g in groups if g["params"]], course.rate, betas, fused=True)


def _ran_away(what: str) -> NonFiniteError:
    return NonFiniteError(
        f"The training ran away: {what}. Nothing of this model is kept; try another seed, or other "
        "versions of PyTorch and transformers."
    )


def alike(
    rows: Sequence[Row], batch: int, stretch: int, order: Random, length: Callable[[Row], int]
) -> list[Sequence[Row]]:
    """Batches of rows in a new order, in which rows are of like length, so that little is padded.

    stretch: rows that are sorted by length together, in the new order. The last batch of a stretch
    holds what is left.
    """
    mixed = order.sample(rows, len(rows))
    found: list[Sequence[Row]] = []
    for start in range(0, len(mixed), stretch):
        near = sorted(mixed[start : start + stretch], key=length)
        found += [near[i : i + batch] for i in range(0, len(near), batch)]
    return found


def fixed_threads() -> AbstractContextManager[None]:
    """Run torch on THREADS, and on as many as before afterwards."""
    return with_threads(THREADS)

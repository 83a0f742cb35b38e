"""Learned soups: the shares of an average of models, learnt by gradient (arXiv:2203.05482).

The average is Σ αᵢθᵢ, where α is a softmax over the models, for all layers together or for each.
For classifiers the logits are multiplied by a scale β that is learnt with it, as in the paper, so
that α need not make up for an average that is less sure of itself than its models. β changes no
decision and is no part of a checkpoint. A language model is used for its probabilities, which β
would change, so there it stays 1.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float

from cermet.anatomy import survey
from cermet.core.errors import MismatchError, NonFiniteError
from cermet.inference.texts import Example, Losses, TextModel
from cermet.learn.examples import part
from cermet.learn.groups import WHOLE, group_of, translated

__all__ = ["LearnedSoup", "Score", "Settings", "Tick", "learn_soup", "memory_needed"]

Measure = Literal["loss", "accuracy"]
Tick = Callable[[int, float], None]
"""Gets the number of steps done and the loss of the last."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a soup is learnt.

    rate: of AdamW without decay, as the authors run it. batch: texts of a step. longest: tokens
    of a text that are read. seed: which texts are held back, and the order of the others.
    """

    by_layer: bool = False
    steps: int = 100
    rate: float = 0.05
    batch: int = 8
    longest: int = 256
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Score:
    """Mean negative log-likelihood in nats of a token or a label; share of those foretold."""

    loss: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class LearnedSoup:
    """What was learnt, and what it is worth on the texts that were held back.

    groups: which tensors share coefficients. coefficients: for each group, the share of each
    model; they add up to 1. scale: β. curve: the loss of each step, before it was taken.
    learnt_from, reported_on: number of examples. alone: every model by itself; uniform: all of
    them, with equal shares; learned: with those learnt. Scores are without β, in float32, before
    the output is rounded to its dtype. measure: which of a score's numbers counts, for β takes no
    part in it.
    """

    groups: tuple[str, ...]
    coefficients: tuple[tuple[float, ...], ...]
    scale: float
    curve: tuple[float, ...]
    learnt_from: int
    reported_on: int
    alone: tuple[Score, ...]
    uniform: Score
    learned: Score
    measure: Measure

    @property
    def best(self) -> Score:
        """Of the model that is best by itself."""
        return min(self.alone, key=self._badness)

    @property
    def surpassed_by(self) -> str | None:
        """What is better than the learned soup on the texts held back, if anything is."""
        rivals = {"the uniform soup": self.uniform, "the best model": self.best}
        name = min(rivals, key=lambda name: self._badness(rivals[name]))
        return name if self._badness(rivals[name]) < self._badness(self.learned) else None

    def _badness(self, score: Score) -> float:
        return score.loss if self.measure == "loss" else -score.accuracy


def memory_needed(numbers: int, models: int, vocabulary: int, settings: Settings) -> int:
    """Bytes that learning takes at least, in float32.

    All models, one more while it is loaded, their average and its gradient; the logits of a step,
    their gradient and their softmax. `numbers`: of one model.
    """
    logits = settings.batch * settings.longest * vocabulary
    return 4 * ((models + 3) * numbers + 3 * logits)


class _Mixture:
    """Several models in memory, and the loss of their weighted averages."""

    def __init__(self, folders: Sequence[Path], *, labelled: bool, longest: int) -> None:
        self.model = TextModel(folders[0], labelled=labelled, longest=longest)
        first = self.model.weights()
        self.stacks = {n: torch.empty(len(folders), *t.shape) for n, t in first.items()}
        self._fill(0, first)
        for index, folder in enumerate(folders[1:], start=1):
            other = TextModel(folder, labelled=labelled, longest=longest).weights()
            if {n: t.shape for n, t in other.items()} != {n: t.shape for n, t in first.items()}:
                raise MismatchError(
                    f"'{folder}' has other weights than '{folders[0]}' once it is loaded; the "
                    "models must have the same architecture."
                )
            self._fill(index, other)
        self.rows = dict.fromkeys(self.stacks, 0)

    def _fill(self, index: int, weights: Mapping[str, torch.Tensor]) -> None:
        for name, stack in self.stacks.items():
            stack[index] = weights[name]

    def part_by(self, groups: Sequence[str]) -> None:
        """Let each of the groups have coefficients of its own; rows of `alpha` are these."""
        shapes = {name: tuple(stack.shape[1:]) for name, stack in self.stacks.items()}
        places = survey(shapes, self.model.module.config.to_dict()).places
        own = {name: group_of(place) for name, place in places.items()}
        known = translated(groups, list(dict.fromkeys(own.values())))
        self.rows = {name: groups.index(known[own[name]]) for name in self.stacks}

    def losses(
        self,
        examples: Sequence[Example],
        alpha: Float[torch.Tensor, "groups models"],
        scale: Float[torch.Tensor, ""],
    ) -> Losses:
        """Of one forward pass."""
        mixed = {
            name: torch.tensordot(alpha[self.rows[name]], stack, 1)
            for name, stack in self.stacks.items()
        }
        return self.model.losses(examples, mixed, scale)

    def score(
        self, examples: Sequence[Example], alpha: Float[torch.Tensor, "groups models"], batch: int
    ) -> Score:
        """Over all the examples, weighted by their tokens."""
        total, count, right = 0.0, 0, 0
        with torch.no_grad():
            for start in range(0, len(examples), batch):
                found = self.losses(examples[start : start + batch], alpha, torch.ones(()))
                total, count = total + found.total.item(), count + found.count
                right += found.right
        return Score(total / max(count, 1), right / max(count, 1))


def learn_soup(
    folders: Sequence[Path],
    examples: Sequence[Example],
    groups: Sequence[str],
    settings: Settings,
    tick: Tick | None = None,
) -> LearnedSoup:
    """Learn the shares of some models, from four fifths of the texts, and measure the soup.

    `groups` are those of the checkpoints' tensors; with `by_layer` each is learnt by itself. The
    same seed gives the same bits on the same machine with the same number of threads. Raises
    NonFiniteError for a loss that is no number, and what loading a model raises.
    """
    parted = part(examples, settings.seed)
    labelled = examples[0].label is not None
    mixture = _Mixture(folders, labelled=labelled, longest=settings.longest)
    names = tuple(groups) if settings.by_layer else (WHOLE,)
    if settings.by_layer:
        mixture.part_by(names)
    if labelled:
        for example in examples:  # a label that no model knows is found before the first step
            mixture.model.target(example)
    scale = torch.ones((), requires_grad=labelled)
    alpha, curve = _descend(mixture, parted.learn, len(names), scale, settings, tick)

    def score(shares: Float[torch.Tensor, "groups models"]) -> Score:
        return mixture.score(parted.report, shares, settings.batch)

    alone = [score(row.expand(len(names), -1)) for row in torch.eye(len(folders))]
    return LearnedSoup(
        names,
        tuple(tuple(row) for row in alpha.tolist()),
        scale.item(),
        curve,
        len(parted.learn),
        len(parted.report),
        tuple(alone),
        score(torch.full_like(alpha, 1 / len(folders), dtype=torch.float32)),
        score(alpha.float()),
        "accuracy" if labelled else "loss",
    )


def _descend(
    mixture: _Mixture,
    examples: Sequence[Example],
    groups: int,
    scale: Float[torch.Tensor, ""],
    settings: Settings,
    tick: Tick | None,
) -> tuple[torch.Tensor, tuple[float, ...]]:
    """The shares in float64 [groups, models], and the loss of each step.

    The scale is learnt, in place, if it asks for a gradient.
    """
    models = len(next(iter(mixture.stacks.values())))
    raw = torch.zeros(groups, models, requires_grad=True)
    optimiser = torch.optim.AdamW([raw, scale], lr=settings.rate, weight_decay=0.0)
    curve: list[float] = []
    batches = _batches(examples, settings.batch, settings.seed)
    for step in range(1, settings.steps + 1):
        found = mixture.losses(next(batches), raw.softmax(-1), scale)
        loss = found.total / max(found.count, 1)
        curve.append(loss.item())
        if not math.isfinite(curve[-1]):
            raise NonFiniteError(
                f"The loss of step {step} is {curve[-1]}; look at the models with cermet verify "
                "--load, or take a smaller learning rate."
            )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if tick is not None:
            tick(step, curve[-1])
    return raw.detach().double().softmax(-1), tuple(curve)


def _batches(examples: Sequence[Example], size: int, seed: int) -> Iterator[Sequence[Example]]:
    """Batches without end; every example once before any comes again."""
    order = random.Random(seed)
    while True:
        rows = order.sample(examples, len(examples))
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

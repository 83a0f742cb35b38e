"""Greedy soups: models are added, best first, as long as the score of their average rises."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from cermet.core.errors import InputError

__all__ = ["Soup", "Step", "greedy_soup"]


@dataclass(frozen=True, slots=True)
class Step:
    """One model on its way into the soup.

    score: of the model alone. together: of the soup with it; None for the best model, which
    begins the soup. taken: whether it is in the soup now.
    """

    model: int
    score: float
    together: float | None
    taken: bool


@dataclass(frozen=True, slots=True)
class Soup:
    """Which models are averaged, in the order in which they came in, and what they score."""

    members: tuple[int, ...]
    score: float
    steps: tuple[Step, ...]


def greedy_soup(count: int, score: Callable[[tuple[int, ...]], float]) -> Soup:
    """The greedy soup of `count` models (arXiv:2203.05482, as its authors run it).

    `score` maps models, by their index, to the score of their average; larger is better. A
    model is taken if the soup is better with it, not if it is as good; each is tried once, best
    first, of equal ones the first first. Raises InputError for a score that is no number.
    """

    def scored(members: tuple[int, ...]) -> float:
        found = score(members)
        if math.isnan(found):
            raise InputError(f"The score of model {members[-1] + 1} is not a number.")
        return found

    alone = [scored((i,)) for i in range(count)]
    first, *others = sorted(range(count), key=lambda i: -alone[i])
    members: tuple[int, ...] = (first,)
    best = alone[first]
    steps = [Step(first, best, None, True)]
    for model in others:
        together = scored((*members, model))
        taken = together > best
        if taken:
            members, best = (*members, model), together
        steps.append(Step(model, alone[model], together, taken))
    return Soup(members, best, tuple(steps))

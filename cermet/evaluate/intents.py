"""Intents: how often a model finds what a text asks for, by task and beside the experts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cermet.core.errors import InputError

__all__ = ["IntentTask", "Score", "accuracy", "normalised", "score"]

Embed = Callable[[Sequence[str]], Float[Tensor, "texts width"]]


@dataclass(frozen=True)
class IntentTask:
    """Texts, the label of each, and a head: the direction of each label [labels, width]."""

    name: str
    texts: tuple[str, ...]
    labels: tuple[int, ...]
    head: Float[Tensor, "labels width"]

    def __post_init__(self) -> None:
        if not self.texts or len(self.texts) != len(self.labels):
            raise InputError(
                f"Task '{self.name}' has {len(self.texts)} texts and {len(self.labels)} labels."
            )


@dataclass(frozen=True)
class Score:
    """What one model is worth: its accuracy on each task, as a share between 0 and 1."""

    model: str
    accuracy: Mapping[str, float]

    @property
    def mean(self) -> float:
        """The mean over the tasks, each counting the same."""
        return sum(self.accuracy.values()) / len(self.accuracy)

    @property
    def worst(self) -> float:
        """The lowest accuracy of all tasks."""
        return min(self.accuracy.values())

    def line(self) -> str:
        """The score as one line of JSON."""
        found = {"model": self.model, "accuracy": dict(self.accuracy)}
        return json.dumps({**found, "mean": self.mean, "worst": self.worst}, sort_keys=True)


def accuracy(embed: Embed, task: IntentTask) -> float:
    """The share of texts whose embedding is closest, by cosine, to their label's direction."""
    head = torch.nn.functional.normalize(task.head, dim=-1)
    found = torch.nn.functional.normalize(embed(task.texts), dim=-1)
    right = (found @ head.T).argmax(dim=1) == torch.tensor(task.labels)
    return int(right.sum()) / len(task.texts)


def score(model: str, embed: Embed, tasks: Sequence[IntentTask]) -> Score:
    """The accuracy of one model on every task."""
    return Score(model, {task.name: accuracy(embed, task) for task in tasks})


def normalised(found: Score, experts: Mapping[str, float]) -> dict[str, float]:
    """The accuracy on each task as a share of the expert's on its own task.

    `experts` holds the accuracy of each task's expert. Raises InputError where one is missing
    or 0.
    """
    for name in found.accuracy:
        if not experts.get(name):
            raise InputError(f"There is no expert with an accuracy above 0 for task '{name}'.")
    return {name: value / experts[name] for name, value in found.accuracy.items()}

"""The evaluator, held to cases counted by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from cermet.core.errors import InputError
from cermet.evaluate.intents import IntentTask, Score, accuracy, normalised, score

_POINTS = {"east": (2.0, 0.1), "north": (0.1, 5.0), "up": (0.6, 0.8), "west": (-1.0, 0.0)}


def _embed(texts: Sequence[str]) -> Tensor:
    return torch.tensor([_POINTS[text] for text in texts])


def _task(name: str, texts: tuple[str, ...], labels: tuple[int, ...]) -> IntentTask:
    # Directions of unequal length: only their angle may count.
    return IntentTask(name, texts, labels, torch.tensor([[9.0, 0.0], [0.0, 0.5]]))


def test_accuracy_counts_the_closest_direction() -> None:
    # east -> 0, north -> 1, up -> 1 (0.8 > 0.6), west -> 1 (0 > -1)
    texts = ("east", "north", "up", "west")
    assert accuracy(_embed, _task("t", texts, (0, 1, 1, 1))) == 1.0
    assert accuracy(_embed, _task("t", texts, (0, 1, 0, 0))) == 0.5
    assert accuracy(_embed, _task("t", texts, (1, 0, 0, 1))) == 0.25


def test_score_mean_worst_and_line() -> None:
    tasks = [_task("a", ("east", "north"), (0, 1)), _task("b", ("east", "up"), (0, 0))]
    found = score("m", _embed, tasks)
    assert found == Score("m", {"a": 1.0, "b": 0.5})
    assert found.mean == 0.75
    assert found.worst == 0.5
    line = found.line()
    assert "\n" not in line
    assert json.loads(line) == {
        "model": "m",
        "accuracy": {"a": 1.0, "b": 0.5},
        "mean": 0.75,
        "worst": 0.5,
    }


def test_normalised_is_a_share_of_the_expert() -> None:
    found = normalised(Score("m", {"a": 0.9, "b": 0.4}), {"a": 1.0, "b": 0.8})
    assert found == pytest.approx({"a": 0.9, "b": 0.5})


@pytest.mark.parametrize("experts", [{"a": 0.9}, {"a": 0.9, "b": 0.0}])
def test_no_expert_to_compare_with(experts: dict[str, float]) -> None:
    with pytest.raises(InputError, match="task 'b'"):
        normalised(Score("m", {"a": 0.9, "b": 0.4}), experts)


@pytest.mark.parametrize(("texts", "labels"), [((), ()), (("east",), (0, 1))])
def test_a_task_without_texts_or_with_too_few_labels(
    texts: tuple[str, ...], labels: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match="Task 't' has"):
        _task("t", texts, labels)

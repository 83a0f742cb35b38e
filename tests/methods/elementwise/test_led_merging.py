"""LED-Merging: what is elected, that nobody keeps what two elect, and the edges of a threshold."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from cermet import merge_tensors

Merge = Callable[..., Any]
EXPERTS = [[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]]


def _needs(*score: list[float], base: list[float] | None = None) -> dict[str, Any]:
    return {"score": list(score), "base_score": [4, 3, 2, 1] if base is None else base}


def test_both_scores_must_be_large(merge: Merge) -> None:
    """Three quarters: of the first, entries 0 and 1 pass both thresholds; the base ranks 3 last."""
    needs = _needs([9, 8, 7, 0])
    assert merge("led_merging", [0.0] * 4, EXPERTS[:1], density=0.75, needs=needs) == [1, 2, 0, 0]
    needs = _needs([0, 7, 8, 9])
    assert merge("led_merging", [0.0] * 4, EXPERTS[:1], density=0.75, needs=needs) == [0, 0, 0, 0]


def test_what_two_experts_elect_stays_at_the_base(merge: Merge) -> None:
    needs = _needs([9, 8, 1, 0], [9, 8, 1, 0])
    assert merge("led_merging", [0.0] * 4, EXPERTS, density=0.75, needs=needs) == [0.0] * 4


def test_the_others_elect_what_equals_their_threshold(merge: Merge) -> None:
    """Entry 1 equals the second expert's threshold: it does not get it, and the first neither."""
    needs = _needs([9, 8, 7, 0], [0, 1, 2, 3], base=[4, 4, 1, 1])
    found = merge("led_merging", [0.0] * 4, EXPERTS, density=0.75, needs=needs)
    assert found == [1.0, 0.0, 0.0, 0.0]


def test_a_share_that_elects_nothing_leaves_the_base(merge: Merge) -> None:
    needs = _needs([9, 8, 1, 0], [0, 1, 8, 9])
    assert merge("led_merging", [7.0] * 4, EXPERTS, density=0.2, needs=needs) == [7.0] * 4


def test_everything_of_one_expert_is_task_arithmetic(merge: Merge) -> None:
    needs = _needs([0, 0, 0, 0])
    found = merge("led_merging", [1.0] * 4, EXPERTS[:1], density=1, weight=0.5, needs=needs)
    assert found == merge("task_arithmetic", [1.0] * 4, EXPERTS[:1], weight=0.5)


def _random(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("density", [0.2, 0.5, 0.9])
def test_masks_are_disjoint(density: float) -> None:
    """Of experts whose deltas are 1, 10 and 100, no entry holds a sum of two."""
    base = {"w": torch.zeros(30, 20)}
    experts = [{"w": torch.full((30, 20), float(10**i))} for i in range(3)]
    needs: dict[str, Any] = {
        name: [{"w": _random(30, 20, salt + i)[..., 0]} for i in range(3)]
        for salt, name in ((1, "score"), (5, "base_score"))
    }
    found = merge_tensors("led_merging", base, experts, density=density, needs=needs)["w"]
    assert set(found.unique().tolist()) <= {0.0, 1.0, 10.0, 100.0}
    assert density > 0.5 or len(found.unique()) == 4


def test_a_larger_share_elects_more() -> None:
    """Before anything is taken away: one expert, nested masks."""
    base, expert = {"w": torch.zeros(400)}, {"w": torch.ones(400)}
    needs = {"score": [{"w": _random(400)}], "base_score": [{"w": _random(400, 1)[:, 0]}]}
    masks = [
        merge_tensors("led_merging", base, [expert], density=d, needs=needs)["w"] > 0
        for d in (0.1, 0.3, 0.6, 1.0)
    ]
    for small, large in pairwise(masks):
        assert bool((small <= large).all())
        assert int(small.sum()) < int(large.sum())
    assert bool(masks[-1].all())

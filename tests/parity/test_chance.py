"""Random outputs: a true draw is explained, a wrong one is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from parity.chance import explain
from parity.inputs import Group

_SHAPE = (32, 64)


def _draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _group(method: str, *, rescale: bool, count: int = 2) -> Group:
    base = _draw(0, *_SHAPE)
    experts = tuple(base + 0.1 * _draw(i + 1, *_SHAPE) for i in range(count))
    each = tuple({"weight": 0.7 + 0.1 * i, "density": 0.5, "epsilon": 0.4} for i in range(count))
    once = {"rescale": rescale, "normalize": False, "lambda": 1.0}
    return Group(method, base, experts, each, once)


def _dare_linear(group: Group, density: float, seed: int) -> Tensor:
    """A plain reading of DARE, with masks drawn here."""
    assert group.base is not None
    total = torch.zeros(_SHAPE)
    generator = torch.Generator().manual_seed(1000 + seed)  # not a seed of the deltas
    for delta, settings in zip(group.deltas, group.each, strict=True):
        kept = delta * (torch.rand(_SHAPE, generator=generator) < density)
        if group.once["rescale"]:
            kept *= delta.abs().sum() / kept.abs().sum()
        total += settings["weight"] * kept
    return group.base + total


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_a_true_draw_is_explained(rescale: bool, count: int) -> None:
    group = _group("dare_linear", rescale=rescale, count=count)
    found = explain(_dare_linear(group, 0.5, 1), group)
    assert found.problem is None
    assert found.compared == 32 * 64
    assert found.error <= 1


def test_one_element_that_no_subset_gives_is_named() -> None:
    group = _group("dare_linear", rescale=False)
    output = _dare_linear(group, 0.5, 1)
    output[1, 1] += 0.05
    problem = explain(output, group).problem
    assert problem is not None
    assert "flat index 65" in problem


def test_a_wrong_density_is_noticed() -> None:
    group = _group("dare_linear", rescale=False)
    problem = explain(_dare_linear(group, 0.6, 1), group).problem
    assert problem is not None
    assert "expected" in problem


def test_dividing_by_the_density_is_not_restoring_the_norm() -> None:
    group = _group("dare_linear", rescale=True)
    assert group.base is not None
    once = {**group.once, "rescale": False}
    plain = Group(group.method, group.base, group.experts, group.each, once)
    kept = _dare_linear(plain, 0.5, 1) - group.base
    assert explain(group.base + kept / 0.5, group).problem is not None


def test_masks_that_ignore_rank_are_not_della() -> None:
    group = _group("della_linear", rescale=False)
    uniform = _dare_linear(group, 0.5, 1)
    problem = explain(uniform, group).problem
    assert problem is not None
    assert "L1 norm" in problem


def test_not_a_number_is_a_problem() -> None:
    group = _group("dare_ties", rescale=False)
    assert explain(torch.full(_SHAPE, float("nan")), group).problem == "not finite"

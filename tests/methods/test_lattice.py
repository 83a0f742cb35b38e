"""The lattice of the authors' forms: their neutral ends, and where they meet each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cermet import merge_tensors
from tests.methods.forms import Model, pool

SHAPES = {"matrix": (9, 14), "vector": (17,), "cube": (2, 3, 4)}

ENDS: dict[str, dict[str, Any]] = {
    "breadcrumbs_official": {"density": 1, "gamma": 0, "lambda": 0.7},
    "consensus_ta": {"agree": 0, "lambda": 0.7},
    "dare_magnitude": {"density": 1, "lambda": 0.7},
    "dare_official": {"density": 1, "lambda": 0.7},
    "lines": {"alpha": 0.7, "beta": 0},
}
"""Settings under which a sum of sparse or scaled deltas is the plain sum, times 0.7."""

TRIM: dict[str, dict[str, Any]] = {"ties_max": {}, "ties_sv": {"slack": 0.3}}
"""Forms of TIES that differ from the official one where experts meet, and only there."""


def _close(one: Model, other: Model, tolerance: float = 2e-6) -> None:
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=tolerance, atol=tolerance)


def _of_one_size(base: Model, experts: list[Model]) -> list[Model]:
    """The experts with every delta stretched to a norm of 1."""
    return [
        {n: base[n] + (v - base[n]) / torch.linalg.vector_norm(v - base[n]) for n, v in e.items()}
        for e in experts
    ]


@pytest.mark.parametrize("name", ENDS)
def test_neutral_ends_are_task_arithmetic(name: str) -> None:
    base, experts = pool(3, SHAPES)
    reference = merge_tensors("task_arithmetic", base, experts, weight=0.7)
    _close(merge_tensors(name, base, experts, **ENDS[name]), reference)


@pytest.mark.parametrize("name", ["rht", "ties", "ties_sv"])
def test_everything_kept_is_the_official_mean_of_what_agrees(name: str) -> None:
    """Of deltas whose sums are not 0, where the forms have rules of their own."""
    base, experts = pool(3, SHAPES)
    weight = {"weight": 1.0} if name == "ties" else {}
    reference = merge_tensors("ties_official", base, experts, density=1)
    _close(merge_tensors(name, base, experts, density=1, **weight), reference)


@pytest.mark.parametrize("name", ["sce", "sce_official"])
def test_sce_of_equal_energies_is_ties_of_everything(name: str) -> None:
    base, experts = pool(3, SHAPES)
    experts = _of_one_size(base, experts)
    reference = merge_tensors("ties_official", base, experts, density=1)
    _close(merge_tensors(name, base, experts, select_topk=1), reference, 1e-5)


@pytest.mark.parametrize("name", ["metagpt", "varm"])
def test_shares_of_equal_energies_are_the_mean(name: str) -> None:
    base, experts = pool(3, SHAPES)
    experts = _of_one_size(base, experts)
    reference = merge_tensors("linear", None, experts, weight=1)
    _close(merge_tensors(name, base, experts), reference, 1e-5)


@pytest.mark.parametrize("name", TRIM)
def test_one_expert_is_trimmed_as_the_official_form_trims_it(name: str) -> None:
    base, experts = pool(1, SHAPES)
    reference = merge_tensors("ties_official", base, experts, density=0.3)
    _close(merge_tensors(name, base, experts, density=0.3, **TRIM[name]), reference, 0)


def test_three_ways_to_the_uniform_soup() -> None:
    _, experts = pool(4, SHAPES)
    soup = merge_tensors("linear", None, experts, weight=1)
    _close(merge_tensors("wsm", None, experts, schedule="linear"), soup)
    _close(merge_tensors("lm_cocktail", None, experts, loss=1.7), soup)
    far = merge_tensors("lm_cocktail", None, experts, loss=[1, 2, 3, 4], temperature=1e9)
    _close(far, soup)


def test_localize_and_stitch_of_everything_is_the_mean() -> None:
    """But for the smallest entry of each expert: the comparison is strict."""
    base, experts = pool(3, SHAPES)
    for expert in experts:
        for name, value in expert.items():
            other = 0.01 + 1e-4 * torch.arange(value.numel()).reshape(value.shape)
            still = (value - base[name]).abs() < 0.05
            expert[name] = torch.where(still, base[name] + other, value)
    found = merge_tensors("localize_and_stitch", base, experts, density=1, layers_only=False)
    mean = merge_tensors("linear", None, experts, weight=1)
    differ = [int((~torch.isclose(found[n], mean[n], atol=1e-6)).sum()) for n in mean]
    assert 0 < sum(differ) <= 2 * len(experts)  # rounding makes a few of the smallest equal


def test_what_one_expert_elects_of_everything_is_task_arithmetic() -> None:
    """LED-Merging with one expert and all of its entries."""
    base, experts = pool(1, SHAPES)
    scores = {name: torch.ones_like(value) for name, value in base.items()}
    needs = {"score": scores, "base_score": scores}
    found = merge_tensors("led_merging", base, experts, density=1, weight=0.7, needs=needs)
    _close(found, merge_tensors("task_arithmetic", base, experts, weight=0.7), 0)


def test_equal_experts_of_the_official_ties_are_one_that_is_trimmed() -> None:
    """So not that expert, unless everything is kept and lambda is 1."""
    base, experts = pool(1, SHAPES)
    known = {"density": 0.3, "lambda_": 0.8}
    alone = merge_tensors("ties_official", base, experts, **known)
    _close(merge_tensors("ties_official", base, experts * 3, **known), alone)
    assert not torch.equal(alone["matrix"], experts[0]["matrix"])


def test_everything_kept_in_the_official_della_is_ties_without_a_trim() -> None:
    base, experts = pool(3, SHAPES)
    weight = (0.7, 0.4, 1.3)
    found = merge_tensors("della_official", base, experts, weight=weight, density=1)
    _close(found, merge_tensors("ties", base, experts, weight=weight, density=1), 0)


def test_the_official_della_without_a_window_is_dare_before_ties() -> None:
    """Every probability is the density, so each survivor is divided by it."""
    base, experts = pool(3, SHAPES)
    weight = (0.7, 0.4, 1.3)
    known = {"weight": weight, "density": 0.4, "epsilon": 0.0}
    found = merge_tensors("della_official", base, experts, seed=3, **known)
    steps = [("drop", {"density": 0.4}), ("ties", {"weight": weight, "density": 1})]
    _close(found, merge_tensors(steps, base, experts, seed=3))


def test_one_expert_and_its_opposite_leave_the_base() -> None:
    """Added with one factor and taken away with it again."""
    base, experts = pool(1, SHAPES)
    found = merge_tensors("task_arithmetic", base, experts * 2, weight=(0.5, -0.5))
    _close(found, base, 0)


def test_analogies_at_their_ends() -> None:
    """A is to B as C is to D: C plus B minus A."""
    base, (a, b, c) = pool(3, SHAPES)

    def analogy(*models: Model) -> Model:
        return merge_tensors("task_arithmetic", base, list(models), weight=(-1, 1, 1))

    _close(analogy(a, a, c), c)
    _close(analogy(a, b, a), b)
    one, other = analogy(a, b, c), analogy(b, a, c)
    for name, value in c.items():
        torch.testing.assert_close(one[name] + other[name], 2 * value, rtol=1e-5, atol=1e-5)

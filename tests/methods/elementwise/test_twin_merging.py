"""Twin-Merging: a shared model, and what each expert has of its own in a low rank."""

from __future__ import annotations

import pytest
import torch

from cermet import merge_tensors
from tests.methods.forms import pool


def test_the_shared_model_is_task_arithmetic() -> None:
    base, experts = pool(3)
    shared = merge_tensors("twin_merging", base, experts, lambda_=0.4)
    expected = merge_tensors("task_arithmetic", base, experts, weight=0.4)
    for name, value in expected.items():
        torch.testing.assert_close(shared[name], value, rtol=0, atol=1e-6)


def test_full_rank_restores_the_expert() -> None:
    base, experts = pool(3)
    restored = merge_tensors("twin_merging", base, experts, density=1.0, task=1)
    for name, value in experts[1].items():
        torch.testing.assert_close(restored[name], value, rtol=0, atol=1e-6)


def test_uniform_weights_at_full_rank_give_the_mean() -> None:
    base, experts = pool(3)
    given = {"density": 1.0, "task": {0: 2.0, 1: 2.0, 2: 2.0}}
    restored = merge_tensors("twin_merging", base, experts, **given)
    for name in base:
        mean = torch.stack([e[name] for e in experts]).mean(dim=0)
        torch.testing.assert_close(restored[name], mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("density", [0.1, 0.3, 0.6, 0.9])
def test_the_error_is_what_the_singular_values_leave_out(density: float) -> None:
    """Also where the product of the factors is stored, being smaller than they."""
    base, experts = pool(2, {"w": (20, 30)})
    shared = merge_tensors("twin_merging", base, experts)["w"]
    restored = merge_tensors("twin_merging", base, experts, density=density, task=0)["w"]
    values = torch.linalg.svdvals((experts[0]["w"] - shared).double())
    rank = int(density * 20)
    expected = values[rank:].square().sum().sqrt()
    error = torch.linalg.norm((experts[0]["w"] - restored).double())
    assert float(error) == pytest.approx(float(expected), rel=1e-4, abs=1e-5)


def test_vectors_are_kept_whole() -> None:
    base, experts = pool(2, {"b": (13,)})
    restored = merge_tensors("twin_merging", base, experts, density=0.0, task=1)["b"]
    torch.testing.assert_close(restored, experts[1]["b"], rtol=0, atol=1e-6)


def test_one_expert_at_factor_one_has_nothing_of_its_own() -> None:
    base, experts = pool(1, {"w": (6, 8)})
    given = {"lambda_": 1.0, "density": 0.0}
    one = merge_tensors("twin_merging", base, experts, task=0, **given)["w"]
    assert torch.equal(one, merge_tensors("twin_merging", base, experts, **given)["w"])

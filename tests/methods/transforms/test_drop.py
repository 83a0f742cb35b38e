from __future__ import annotations

import torch

from cermet import merge_tensors
from tests.methods.forms import WEIGHTS, pool, same_bits

_WEIGHTS = {"weight": WEIGHTS[:3]}
_DROP = ("drop", {"density": [0.3, 0.5, 0.9]})


def test_before_task_arithmetic_it_is_official_dare_with_the_same_draws() -> None:
    base, experts = pool(3)
    found = merge_tensors([_DROP, ("task_arithmetic", _WEIGHTS)], base, experts, seed=3)
    other = merge_tensors("dare_official", base, experts, seed=3, **_DROP[1], **_WEIGHTS)
    torch.testing.assert_close(found, other, rtol=1e-6, atol=1e-6)


def test_with_rescale_it_is_the_dare_of_mergekit() -> None:
    base, experts = pool(3)
    steps = [_DROP, "rescale"]
    found = merge_tensors([*steps, ("task_arithmetic", _WEIGHTS)], base, experts, seed=3)
    other = merge_tensors("dare_linear", base, experts, seed=3, **_DROP[1], **_WEIGHTS)
    torch.testing.assert_close(found, other, rtol=1e-6, atol=1e-6)
    ties = {**_WEIGHTS, "normalize": False}
    found = merge_tensors([*steps, ("ties", ties)], base, experts, seed=3)
    other = merge_tensors("dare_ties", base, experts, seed=3, **_DROP[1], **_WEIGHTS)
    torch.testing.assert_close(found, other, rtol=1e-6, atol=1e-6)


def test_a_step_that_is_not_random_in_front_leaves_the_draws_as_they_are() -> None:
    base, experts = pool(2)
    merge = ("task_arithmetic", {"weight": 1})
    plain = ("lines", {"alpha": 1, "beta": 0})
    drop = ("drop", {"density": 0.5})
    one = merge_tensors([plain, drop, merge], base, experts)
    assert same_bits(one, merge_tensors([drop, merge], base, experts))

from __future__ import annotations

import torch

from cermet import merge_tensors
from tests.methods.forms import WEIGHTS, pool, same_bits


def test_after_trim_it_is_the_rescale_of_ties() -> None:
    base, experts = pool(3)
    own = {"weight": WEIGHTS[:3]}
    steps = [("trim", {"density": 0.4}), "rescale", ("ties", own)]
    other = merge_tensors("ties", base, experts, density=0.4, rescale=True, **own)
    torch.testing.assert_close(merge_tensors(steps, base, experts), other, rtol=1e-6, atol=1e-6)


def test_as_the_first_step_it_changes_nothing() -> None:
    base, experts = pool(3)
    merge = ("ties", {"weight": 0.5, "density": 0.5})
    found = merge_tensors(["rescale", merge], base, experts)
    assert same_bits(found, merge_tensors([merge], base, experts))


def test_after_a_merge_it_restores_what_the_merge_had() -> None:
    base = {"w": torch.zeros(4)}
    experts = [{"w": torch.tensor([6.0, 2, -3, 1])}]
    steps = [("task_arithmetic", {"weight": 0.5}), ("trim", {"density": 0.5}), "rescale"]
    assert merge_tensors(steps, base, experts)["w"].tolist() == [4, 0, -2, 0]


def test_a_delta_of_which_nothing_is_left_stays_nothing() -> None:
    base = {"w": torch.zeros(4)}
    experts = [{"w": torch.ones(4)}]
    steps = [("trim", {"density": 0}), "rescale", ("task_arithmetic", {"weight": 1})]
    assert merge_tensors(steps, base, experts)["w"].tolist() == [0, 0, 0, 0]

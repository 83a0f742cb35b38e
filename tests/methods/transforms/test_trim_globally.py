from __future__ import annotations

import torch

from cermet import merge_tensors
from tests.methods.forms import pool, same_bits


def test_before_ties_it_is_the_authors_form_where_no_sum_is_zero() -> None:
    base, experts = pool(3)
    trim = ("trim_globally", {"density": 0.4})
    found = merge_tensors([trim, ("ties", {"weight": 1})], base, experts)
    assert same_bits(found, merge_tensors("ties_official", base, experts, density=0.4))


def test_after_a_merge_it_keeps_the_largest_of_the_whole_merged_delta() -> None:
    base = {"a": torch.zeros(3), "b": torch.zeros(2)}
    experts = [{"a": torch.tensor([1.0, -5, 2]), "b": torch.tensor([3.0, 4])}]
    steps = [("task_arithmetic", {"weight": 1}), ("trim_globally", {"density": 0.4})]
    found = merge_tensors(steps, base, experts)
    assert found["a"].tolist() == [0, -5, 0]
    assert found["b"].tolist() == [3, 4]

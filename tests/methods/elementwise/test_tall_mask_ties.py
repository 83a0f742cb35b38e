"""TALL-masks over TIES: the sum is that of consensus_ties, the masks those of its own rule."""

from __future__ import annotations

import torch

from cermet import merge_tensors
from tests.methods.forms import pool


def test_the_merged_model_is_consensus_ties_without_consensus() -> None:
    base, experts = pool(3, {"w": (50, 40)})
    found = merge_tensors("tall_mask_ties", base, experts)["w"]
    expected = merge_tensors("consensus_ties", base, experts, agree=0, lambda_=1)["w"]
    assert torch.equal(found, expected)


def test_restored_entries_are_the_sum_or_the_base() -> None:
    base, experts = pool(3, {"w": (50, 40)})
    merged = merge_tensors("tall_mask_ties", base, experts)["w"]
    own = merge_tensors("tall_mask_ties", base, experts, task=2)["w"]
    total = merged - base["w"]
    delta = experts[2]["w"] - base["w"]
    wanted = torch.where(delta.abs() > 0.4 * (total - delta).abs(), merged, base["w"])
    near = (delta.abs() - 0.4 * (total - delta).abs()).abs() < 1e-6
    assert torch.equal(own[~near], wanted[~near])
    assert 0 < int((own != base["w"]).sum()) < own.numel()

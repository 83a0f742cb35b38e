"""PCB-Merging in both forms of its authors: what wins, and what is not divided by zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cermet import merge_tensors

Merge = Callable[..., Any]

_both_forms = pytest.mark.parametrize("method", ["pcb_merging", "pcb_merging_es"])


def _models(count: int) -> list[dict[str, torch.Tensor]]:
    own = torch.Generator().manual_seed(7)
    shapes = {"a": (40,), "b": (5, 12)}
    return [{n: torch.randn(s, generator=own) for n, s in shapes.items()} for _ in range(count)]


@_both_forms
def test_one_expert_gives_its_kept_entries_back(method: str) -> None:
    """Scales cancel: the largest half is the expert's, the rest the base's."""
    expert = _models(1)[0]
    base = {name: torch.zeros_like(value) for name, value in expert.items()}
    found = merge_tensors(method, base, [expert], density=0.5, weight=1)
    flat = torch.cat([found[n].flatten() for n in ("a", "b")])
    given = torch.cat([expert[n].flatten() for n in ("a", "b")])
    kept = flat != 0
    assert 40 <= int(kept.sum()) <= 50
    assert given[kept].abs().min() >= given[~kept].abs().max()
    inner = kept & (given.abs() < given.abs().topk(3).values[-1])  # the largest are clamped
    torch.testing.assert_close(flat[inner], given[inner])


@_both_forms
def test_an_expert_that_is_the_base_takes_no_part(merge: Merge, method: str) -> None:
    found = merge(method, [0.0] * 4, [[4, 3, 2, 1], [0, 0, 0, 0]], density=0.5, weight=1)
    assert all(v == v for v in found)
    alone = merge(method, [0.0] * 4, [[4, 3, 2, 1]], density=0.5, weight=1)
    assert [v != 0 for v in found] == [v != 0 for v in alone]


@_both_forms
def test_quantiles_are_those_of_the_whole_model(method: str) -> None:
    """A tensor that moved a thousandth as much as the other is dropped."""
    experts = _models(3)
    for expert in experts:
        expert["b"] *= 1e-3
    base = {name: torch.zeros_like(value) for name, value in experts[0].items()}
    found = merge_tensors(method, base, experts, density=0.1)
    assert found["a"].any()
    assert not found["b"].any()


@_both_forms
@pytest.mark.parametrize("density", [0.0, 1.0])
def test_ends(method: str, density: float) -> None:
    experts = _models(2)
    base = {name: torch.zeros_like(value) for name, value in experts[0].items()}
    found = merge_tensors(method, base, experts, density=density)
    assert all(torch.isfinite(value).all() for value in found.values())
    count = sum(int((value != 0).sum()) for value in found.values())
    assert count == 0 if density == 0 else count >= 99


@_both_forms
def test_scales_are_shares_and_drop_one_block_of_each_expert(method: str) -> None:
    """The weight of one expert alone shows its scales: S / Σ S of its clamped delta."""
    experts = _models(3)
    base = {name: torch.zeros_like(value) for name, value in experts[0].items()}
    for i, expert in enumerate(experts):
        weight = [float(i == j) for j in range(3)]
        found = merge_tensors(method, base, experts, density=0.2, weight=weight)
        shown = torch.cat([found[n].flatten() for n in ("a", "b")])
        delta = torch.cat([expert[n].flatten() for n in ("a", "b")])
        assert 10 <= int((shown != 0).sum()) <= 20  # of a hundred, the smallest of them at 0
        assert bool((shown * delta >= 0).all())
        assert float(shown.abs().max()) <= float(delta.abs().max())

"""WIDEN: what each column counts for, and which axis a column is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cermet import merge_tensors

Merge = Callable[..., Any]


def test_duplicates_count_once_one_and_a_half_times_or_twice() -> None:
    own = torch.Generator().manual_seed(3)
    base = {"w": torch.randn(6, 8, generator=own)}
    expert = {"w": base["w"] + 0.1 * torch.randn(6, 8, generator=own)}
    found = merge_tensors("widen", base, [expert, expert])["w"]
    factors = (found - base["w"]) / (expert["w"] - base["w"])
    torch.testing.assert_close(factors, factors[:1].expand(6, 8), rtol=1e-3, atol=1e-3)
    assert set((factors[0] * 2).round().tolist()) <= {2.0, 3.0, 4.0}
    assert len(set((factors[0] * 2).round().tolist())) > 1


def test_one_expert_comes_back() -> None:
    own = torch.Generator().manual_seed(4)
    base = {"w": torch.randn(5, 7, generator=own), "b": torch.randn(7, generator=own)}
    expert = {name: value + 0.1 for name, value in base.items()}
    found = merge_tensors("widen", base, [expert])
    for name, value in expert.items():
        torch.testing.assert_close(found[name], value)


def test_the_columns_of_an_embedding_are_its_tokens() -> None:
    """A token that moved far in one expert takes the calibrated score there, whole."""
    base = {"model.embed_tokens.weight": torch.ones(4, 3)}
    experts = [{n: t.clone() for n, t in base.items()} for _ in range(2)]
    for i, expert in enumerate(experts):
        expert["model.embed_tokens.weight"][i] *= 3.0
    found = merge_tensors("widen", base, experts, calibration=0.25)["model.embed_tokens.weight"]
    # the direction has not moved: its ranks are those of the order of the tokens
    assert found[0].unique().numel() == 1
    assert found[1].unique().numel() == 1
    assert torch.equal(found[2:], torch.ones(2, 3))


def test_vectors_count_by_the_size_of_each_element(merge: Merge) -> None:
    """Sizes 1 and 3, mean 2: the second is above it and counts whole, the first half of e/2e."""
    assert merge("widen", [0.0, 0.0], [[1, 3], [1, 3]], calibration=0.75) == [1.0, 4.5]


def test_what_has_not_moved_stays(merge: Merge) -> None:
    assert merge("widen", [[1.0, 0.0]], [[[1, 0]], [[1, 0]]]) == [[1.0, 0.0]]


def _pair(scale: float = 0.1) -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
    own = torch.Generator().manual_seed(5)
    base = {"w": torch.randn(6, 8, generator=own)}
    deltas = [torch.randn(6, 8, generator=own) for _ in range(2)]
    return base, [{"w": base["w"] + scale * d} for d in deltas]


def test_columns_may_change_places() -> None:
    base, experts = _pair()
    found = merge_tensors("widen", base, experts)["w"]
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    moved = [{"w": m["w"][:, order].contiguous()} for m in (base, *experts)]
    torch.testing.assert_close(merge_tensors("widen", moved[0], moved[1:])["w"], found[:, order])


def test_the_size_of_small_deltas_changes_no_rank() -> None:
    """So the merged delta is as many times larger as they are."""
    small, large = (
        merge_tensors("widen", base, experts)["w"].double() - base["w"]
        for base, experts in (_pair(1e-3), _pair(2e-3))
    )
    torch.testing.assert_close(large, 2 * small, rtol=0, atol=1e-6)


def test_what_is_above_no_mean_and_calibrated_to_nothing_stays() -> None:
    """t = 0 and s = 0: every column but those of rank 0 by length and direction both."""
    base, experts = _pair()
    found = merge_tensors("widen", base, experts, ratio=0, calibration=0)["w"]
    moved = (found != base["w"]).any(dim=0)
    assert 0 < int(moved.sum()) <= 4
    assert torch.equal(found[:, ~moved], base["w"][:, ~moved])


def test_vectors_do_not_see_the_sign_of_all_deltas(merge: Merge) -> None:
    """Those of matrices do: a length that grows by a delta shrinks by its opposite, not as far."""
    one = merge("widen", [0.0] * 3, [[1, 3, -2], [2, -1, 0.5]])
    assert merge("widen", [0.0] * 3, [[-1, -3, 2], [-2, 1, -0.5]]) == [-x for x in one]

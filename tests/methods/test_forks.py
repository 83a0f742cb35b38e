"""Tests that tell known implementations of one method apart: each form gives its own number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cermet import MismatchError, merge_tensors

Merge = Callable[..., Any]


def test_the_official_trim_keeps_one_entry_more(merge: Merge) -> None:
    """100 distinct magnitudes at a fifth: 21 against 20."""
    expert = [[float(i) for i in range(1, 101)]]
    zeros = [0.0] * 100
    official = merge("ties_official", zeros, expert, density=0.2)
    other = merge("ties", zeros, expert, density=0.2, weight=1)
    assert (sum(x > 0 for x in official), sum(x > 0 for x in other)) == (21, 20)


def test_the_scope_of_the_trim() -> None:
    """Deltas a hundred times as large elsewhere empty the small tensor, or do not."""
    base = {name: torch.zeros(50) for name in ("small", "large")}
    own = torch.Generator().manual_seed(1)
    small, large = (torch.rand(50, generator=own) + 0.5 for _ in range(2))
    expert = {"small": small, "large": 100 * large}
    official = merge_tensors("ties_official", base, [expert], density=0.2)
    other = merge_tensors("ties", base, [expert], density=0.2, weight=1)
    assert (int((official["small"] != 0).sum()), int((other["small"] != 0).sum())) == (0, 10)


def test_the_election_before_or_after_the_weights(merge: Merge) -> None:
    """+3 at weight 1 against -2 at weight 2."""
    assert merge("ties", [0.0], [[3], [-2]], weight=[1, 2]) == [-2.0]
    assert merge("ties_official", [0.0], [[3], [-2]], density=1) == [3.0]


def test_survivors_of_dare_are_divided_by_the_share_or_restored_in_size(merge: Merge) -> None:
    """Four ones of which one survives at a half: 2 by the share, 4 by the L1 norm."""
    given = {"density": 0.5, "weight": 1, "noise": [[0.1, 0.9, 0.9, 0.9]]}
    assert merge("dare_official", [0.0] * 4, [[1.0] * 4], **given) == [2.0, 0.0, 0.0, 0.0]
    assert merge("dare_linear", [0.0] * 4, [[1.0] * 4], **given) == [4.0, 0.0, 0.0, 0.0]


def test_survivors_of_della_by_their_own_probability_or_alike(merge: Merge) -> None:
    """A row of one magnitude, all kept but the last."""
    given = {"density": 0.5, "epsilon": 0.2, "weight": 1, "noise": [[0.1, 0.1, 0.1, 0.99]]}
    own = merge("della_official", [0.0] * 4, [[1.0] * 4], **given)
    alike = merge("della", [0.0] * 4, [[1.0] * 4], **given)
    assert (len(set(own[:3])), len(set(alike[:3]))) == (3, 1)
    assert own[3] == alike[3] == 0.0


def test_the_axis_of_breadcrumbs() -> None:
    """One huge row: every row loses its share, or that row loses everything."""
    own = torch.Generator().manual_seed(2)
    expert = torch.rand(10, 10, generator=own) + 0.5
    expert[0] *= 1_000
    base, given = {"w": torch.zeros(10, 10)}, {"density": 0.5, "gamma": 0.1}
    by_row = merge_tensors("breadcrumbs_official", base, [{"w": expert}], **given)["w"]
    whole = merge_tensors("breadcrumbs", base, [{"w": expert}], weight=1, **given)["w"]
    assert (by_row != 0).sum(dim=1).tolist() == [5] * 10
    assert int((whole[0] != 0).sum()) == 0


@pytest.mark.parametrize("name", ["breadcrumbs", "breadcrumbs_official"])
def test_breadcrumbs_without_outliers_keep_the_largest(merge: Merge, name: str) -> None:
    """They do not drop everything, as a slice that ends at minus zero does."""
    weight = {"weight": 1} if name == "breadcrumbs" else {"lambda_": 1}
    found = merge(name, [0.0] * 4, [[1, 4, 3, 2]], density=0.5, gamma=0, **weight)
    assert found == [0.0, 4.0, 3.0, 0.0]


def test_one_expert_of_sce_is_the_pivot_or_the_expert(merge: Merge) -> None:
    """No variance selects nothing."""
    given = {"select_topk": 0.5}
    assert merge("sce", [1.0, 1.0], [[2, 3]], **given) == [1.0, 1.0]
    assert merge("sce_official", [1.0, 1.0], [[2, 3]], **given) == [2.0, 3.0]


def test_small_energies_keep_their_shares() -> None:
    """Deltas of a ten-thousandth: no floor makes the weights equal."""
    base = {"w": torch.zeros(40)}
    experts = [{"w": torch.full((40,), 1e-4 * x)} for x in (3.0, 1.0)]
    found = merge_tensors("sce", base, experts)["w"]
    torch.testing.assert_close(found, torch.full((40,), 1e-4 * (0.9 * 3 + 0.1 * 1)))


@pytest.mark.parametrize(("cosine", "straight"), [(0.99951, True), (0.99949, False)])
def test_the_threshold_of_slerp(cosine: float, straight: bool) -> None:
    """Just above 0.9995 the chord is taken for the arc, bit for bit; just below it is not."""
    base = {"w": torch.tensor([1.0, 0.0])}
    other = {"w": torch.tensor([cosine, (1 - cosine**2) ** 0.5])}
    found = merge_tensors("slerp", base, [other], t=0.5)["w"]
    chord = merge_tensors("linear", None, [base, other], weight=1)["w"]
    assert torch.allclose(found, chord, rtol=0, atol=1e-7) == straight
    assert torch.allclose(found / found.norm(), chord / chord.norm(), atol=1e-6)


def test_the_order_of_checkpoints_does_not_choose_a_buffer() -> None:
    """LM-Cocktail's authors keep the last model's integers; here they must be equal."""
    models = [{"w": torch.ones(2), "ids": torch.tensor([i])} for i in (1, 2)]
    with pytest.raises(MismatchError, match="buffers are copied, so they must be equal"):
        merge_tensors("lm_cocktail", None, models, loss=1.0)


def test_a_tensor_that_a_model_lacks_is_refused() -> None:
    """Where UnIVAL's average scales it, once for each model that lacks it."""
    models = [{"w": torch.ones(2), "more": torch.ones(3)}, {"w": torch.ones(2)}]
    with pytest.raises(MismatchError, match="'more' is"):
        merge_tensors("linear", None, models, weight=1.0)


def test_a_relative_entropy_of_bfloat16_rows_is_no_noise() -> None:
    """Arcee fusion in float32: the same choice for bfloat16 models as for their float32 copies."""
    own = torch.Generator().manual_seed(5)
    base = {"w": torch.randn(16, 64, generator=own).bfloat16()}
    other = {"w": (base["w"].float() + 0.01 * torch.randn(16, 64, generator=own)).bfloat16()}
    wide = [{"w": m["w"].float()} for m in (base, other)]
    found = merge_tensors("arcee_fusion", base, [other])["w"].float()
    assert torch.equal(found, merge_tensors("arcee_fusion", wide[0], [wide[1]])["w"])

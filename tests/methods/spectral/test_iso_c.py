"""ISO-C: a flat spectrum that sums to that of the sum."""

from __future__ import annotations

import torch

from tests.maths.spectra import with_values
from tests.methods.spectral.matrices import close, deltas, merged


def test_all_singular_values_are_their_mean() -> None:
    models = deltas(3)
    found = torch.linalg.svdvals(merged("iso_c", models).double())
    total = torch.linalg.svdvals(torch.stack(models).sum(dim=0).double())
    torch.testing.assert_close(found, total.mean().expand(12), rtol=1e-5, atol=0)


def test_it_is_the_polar_factor_of_the_sum() -> None:
    total = sum(deltas(3)).double()
    left, values, right = torch.linalg.svd(total, full_matrices=False)
    close(merged("iso_c", deltas(3), lambda_=1.5), (1.5 * values.mean() * left @ right).float())


def test_what_is_flat_comes_back() -> None:
    found = merged("iso_c", deltas(3))
    close(merged("iso_c", [found]), found)


def test_adapters_of_a_low_rank_move_no_other_direction() -> None:
    """The mean divides by all directions, and those without a value stay without one."""
    model = with_values(12, 20, torch.tensor([3.0, 1.0, *[0.0] * 10]))
    found = torch.linalg.svdvals(merged("iso_c", [model]).double())
    torch.testing.assert_close(
        found[:2], torch.tensor([4 / 12, 4 / 12]).double(), rtol=1e-5, atol=0
    )
    assert float(found[2]) < 1e-6


def test_one_expert_does_not_come_back_and_equal_ones_are_summed() -> None:
    (model,) = deltas(1)
    one = merged("iso_c", [model])
    assert float((one - model).norm()) > 0.1 * float(model.norm())
    close(merged("iso_c", [model] * 3), 3 * one)

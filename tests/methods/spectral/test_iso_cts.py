"""ISO-CTS: common directions and each expert's own, all with one value."""

from __future__ import annotations

import pytest
import torch

from cermet.maths.lowrank import complement, leading
from cermet.methods.spectral.iso_cts import _outside, _ranks
from tests.methods.spectral.matrices import close, deltas, merged


@pytest.mark.parametrize("common", [0.0, 0.3, 0.5, 0.8])
def test_all_singular_values_are_equal(common: float) -> None:
    found = torch.linalg.svdvals(merged("iso_cts", deltas(3), common=common).double())
    torch.testing.assert_close(found, found.mean().expand(12), rtol=1e-5, atol=0)


def test_nothing_of_their_own_is_iso_c() -> None:
    close(merged("iso_cts", deltas(3), common=1.0), merged("iso_c", deltas(3)))


def test_numbers_of_directions() -> None:
    """Rounded half to even, as the authors' code does; never more than there are."""
    assert _ranks(16, 3, 0.8) == (13, 1)
    assert _ranks(16, 2, 0.5) == (8, 4)
    assert _ranks(10, 4, 0.0) == (2, 2)
    assert _ranks(5, 3, 0.0) == (2, 1)
    assert _ranks(1, 3, 0.8) == (1, 0)


def test_it_reaches_the_float64_reference() -> None:
    """Written with four decompositions, as the authors do."""
    models, (shared, own) = deltas(3, 64, 80), _ranks(64, 3, 0.8)
    wide = [m.double() for m in models]
    left, values, right = torch.linalg.svd(sum(wide), full_matrices=False)
    parts = [(left[:, :shared], values[:shared], right[:shared])]
    for delta in wide:
        rest = delta - parts[0][0] @ (parts[0][0].t() @ delta)
        u, s, v = torch.linalg.svd(rest, full_matrices=False)
        parts.append((u[:, :own], s[:own], v[:own]))

    def whitened(matrix: torch.Tensor) -> torch.Tensor:
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        return u @ v

    mean = torch.cat([s for _, s, _ in parts]).mean()
    both = whitened(torch.cat([u for u, _, _ in parts], dim=1)) @ whitened(
        torch.cat([v for _, _, v in parts])
    )
    error = torch.linalg.norm(merged("iso_cts", models).double() - mean * both)
    assert float(error / torch.linalg.norm(mean * both)) < 1e-5


def test_equal_experts_share_their_own_directions() -> None:
    """Of 12 directions 9 are common, and each expert has the same one of its own: rank 10."""
    (model,) = deltas(1)
    found = torch.linalg.svdvals(merged("iso_cts", [model] * 3).double())
    values = torch.linalg.svdvals(model.double())
    mean = 3 * values[:10].sum() / 12
    torch.testing.assert_close(found[:10], mean.expand(10), rtol=1e-5, atol=0)
    assert float(found[10]) < 1e-6


@pytest.mark.parametrize(("rows", "columns"), [(12, 20), (20, 12)])
def test_what_is_an_experts_own_is_orthogonal_to_what_is_common(rows: int, columns: int) -> None:
    models = deltas(3, rows, columns)
    shared = leading(sum(models).double(), 9).left
    for rest in (complement(shared) if rows <= columns else None, None):
        for model in models:
            assert float((shared.t() @ _outside(model, shared, rest, 1).left).abs().amax()) < 1e-6

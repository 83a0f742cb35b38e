"""KnOTS with DARE and TIES."""

from __future__ import annotations

import torch

from tests.methods.spectral.matrices import close, deltas, merged


def test_nothing_dropped_is_knots_ties() -> None:
    models = deltas(3)
    for density in (1.0, 0.3):
        found = merged("knots_dare_ties", models, keep=1.0, density=density)
        assert torch.equal(found, merged("knots_ties", models, density=density))


def test_what_is_kept_is_divided_by_its_probability() -> None:
    """Of one expert: every entry in the basis is 0 or twice what it was."""
    (model,) = deltas(1, 6, 6)
    left, _, _ = torch.linalg.svd(model.double())
    inside = left.float().t() @ merged("knots_dare_ties", [model], keep=0.5)
    before = left.float().t() @ model
    dropped = inside.abs() < 1e-6
    close(torch.where(dropped, 2 * before, inside), 2 * before)
    assert 0 < int(dropped.sum()) < 36

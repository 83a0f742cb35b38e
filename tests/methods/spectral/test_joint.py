"""The common basis of KnOTS and Decom-Renorm-Merge: what a joint decomposition keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import cermet.methods.drm as drm
import cermet.methods.joint as joint
from cermet.maths.lowrank import column_space
from cermet.methods.joint import in_basis
from tests.methods.spectral.matrices import close, deltas, merged

SHAPES = [(12, 20), (40, 9)]


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_lengths_are_kept_and_all_models_together_are_orthogonal(rows: int, columns: int) -> None:
    """‖Rᵢ‖ = ‖τᵢ‖;  Σ RᵢRᵢᵀ = Σ², so Σ VᵢᵀVᵢ = 1, and the cᵢ of every direction square to 1."""
    models = torch.stack(deltas(3, rows, columns))
    basis = column_space(models, 0.0, 0.0)
    parts = in_basis(models, basis).double()
    close(parts.norm(dim=(1, 2)), models.double().norm(dim=(1, 2)), 1e-6)
    values = torch.linalg.svdvals(torch.cat(list(models), dim=1).double())[: basis.shape[1]]
    close(sum(part @ part.t() for part in parts), values.square().diag(), 1e-6)
    lengths = parts.norm(dim=2)
    close((lengths / values).square().sum(dim=0), torch.ones(len(values)).double(), 1e-5)


@pytest.mark.parametrize("name", ["knots_ties", "knots_dare_ties", "drm_h", "drm_v"])
def test_signs_of_the_basis_do_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decomposition may turn any of its directions round."""
    given: dict[str, Any] = {"keep": 1.0} if name == "knots_dare_ties" else {}
    models = deltas(3)
    expected = merged(name, models, density=0.4, **given)

    def turned(blocks: Tensor, least: float, share: float) -> Tensor:
        basis = column_space(blocks, least, share)
        return basis * (1 - 2 * (torch.arange(basis.shape[1]) % 2))

    for module in (joint, drm):
        monkeypatch.setattr(module, "column_space", turned)
    close(merged(name, models, density=0.4, **given), expected)

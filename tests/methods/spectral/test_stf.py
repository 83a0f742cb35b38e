"""STF: every feature keeps its strength in the merged delta, and shared ones count once."""

from __future__ import annotations

import pytest
import torch

from cermet.maths.lowrank import Triplets, leading
from tests.maths.spectra import with_values
from tests.methods.spectral.matrices import close, deltas, merged


def _strengths(matrix: torch.Tensor, model: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """uᵀτv for the singular vectors of a model, and its singular values."""
    left, values, right = torch.linalg.svd(model.double(), full_matrices=False)
    return (left.t() @ matrix.double() @ right.t()).diagonal(), values


def test_every_feature_keeps_its_strength() -> None:
    """The left sides alone depend on each other: 36 directions of outputs in 12."""
    models = deltas(3)
    found = merged("stf", models)
    for model in models:
        strengths, values = _strengths(found, model)
        torch.testing.assert_close(strengths, values, rtol=0, atol=1e-6)
    assert float((found - sum(models)).abs().amax()) > 0.05


@pytest.mark.parametrize("count", [1, 3])
def test_one_expert_comes_back_and_so_do_equal_ones(count: int) -> None:
    """Then the system has many solutions, and the shortest shares each feature out."""
    (model,) = deltas(1)
    close(merged("stf", [model] * count), model)


def test_a_share_of_the_triplets_is_solved_as_a_system() -> None:
    models = deltas(2, 9, 14)
    sides = [torch.linalg.svd(m.double(), full_matrices=False) for m in models]
    left = torch.cat([u[:, :5] for u, _, _ in sides], dim=1)  # ⌈0.5 · 9⌉
    right = torch.cat([v[:5] for _, _, v in sides])
    values = torch.cat([s[:5] for _, s, _ in sides])
    strengths = torch.linalg.solve((left.t() @ left) * (right @ right.t()), values)
    expected = (left * strengths) @ right
    close(merged("stf", models, density=0.5), expected.float())


def test_experts_that_move_other_inputs_are_added() -> None:
    """Orthogonal on one side is enough."""
    models = [torch.zeros(12, 20) for _ in range(2)]
    models[0][:, :10] = with_values(12, 10, torch.linspace(2, 1, 10), 1)
    models[1][:, 10:] = with_values(12, 10, torch.linspace(2, 1, 10), 2)
    close(merged("stf", models, lambda_=0.5), 0.5 * (models[0] + models[1]))


def test_nothing_of_the_triplets_is_nothing() -> None:
    assert not merged("stf", deltas(2), density=0.0).any()


def test_signs_of_the_features_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    models = deltas(3)
    expected = merged("stf", models)

    def turned(matrix: torch.Tensor, rank: int) -> Triplets:
        found = leading(matrix, rank)
        signs = 1.0 - 2 * (torch.arange(rank) % 2)
        return Triplets(found.left * signs, found.values, found.right * signs[:, None])

    monkeypatch.setattr("cermet.methods.spectral.stf.leading", turned)
    close(merged("stf", models), expected)

"""TSV-Merge: one expert comes back, equal ones give what they share, strangers are added."""

from __future__ import annotations

import torch

from tests.maths.spectra import with_values
from tests.methods.spectral.matrices import close, deltas, merged


def _best(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return ((left[:, :rank] * values[:rank]) @ right[:rank]).float()


def test_one_expert_comes_back() -> None:
    (model,) = deltas(1)
    close(merged("tsv_m", [model]), model)


def test_equal_experts_give_their_common_part() -> None:
    """By the partial isometry: the sum of their values over one set of directions, whitened."""
    (model,) = deltas(1)
    close(merged("tsv_m", [model] * 3), _best(model, 4))


def test_experts_in_other_spaces_are_added_in_their_ranks() -> None:
    left = [torch.zeros(12, 20) for _ in range(2)]
    left[0][:6, :10] = with_values(6, 10, torch.linspace(2, 1, 6), 1)
    left[1][6:, 10:] = with_values(6, 10, torch.linspace(2, 1, 6), 2)
    close(merged("tsv_m", left), left[0] + left[1])
    left[1][:6, :10] = 0.01 * with_values(6, 10, torch.ones(6), 3)  # beyond the rank of each
    close(merged("tsv_m", left), left[0] + left[1], 0.02)


def test_the_nuclear_norm_is_that_of_what_is_kept() -> None:
    models = deltas(4)
    kept = sum(torch.linalg.svdvals(m.double())[:3].sum() for m in models)
    found = merged("tsv_m", models)
    torch.testing.assert_close(torch.linalg.svdvals(found.double()).sum(), kept, rtol=1e-5, atol=0)
    assert int(torch.linalg.matrix_rank(found, rtol=1e-5)) <= 12


def test_more_experts_than_rows_are_averaged() -> None:
    models = deltas(5, 4, 9)
    close(merged("tsv_m", models, lambda_=2.0), 2 * torch.stack(models).mean(dim=0))


def test_whitening_reaches_the_float64_reference() -> None:
    """Large enough for the iteration: 16 of 128 triplets each."""
    models = deltas(8, 128, 150)
    sides = [torch.linalg.svd(m.double(), full_matrices=False) for m in models]

    def whitened(matrix: torch.Tensor) -> torch.Tensor:
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        return left @ right

    left = whitened(torch.cat([u[:, :16] for u, _, _ in sides], dim=1))
    right = whitened(torch.cat([v[:16] for _, _, v in sides]))
    expected = left * torch.cat([s[:16] for _, s, _ in sides]) @ right
    error = torch.linalg.norm(merged("tsv_m", models).double() - expected)
    assert float(error / torch.linalg.norm(expected)) < 1e-5

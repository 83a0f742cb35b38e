"""R-TSVM: TSV-Merge where nothing is weighed, and otherwise weights and ranks by their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cermet.maths.lowrank import leading
from cermet.methods.whitening import whitened
from tests.methods.spectral.matrices import close, deltas, merged


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 12, 20), (3, 12, 20), (3, 17, 11)])
def test_without_weights_and_ranks_it_is_tsv_m(count: int, rows: int, columns: int) -> None:
    models = deltas(count, rows, columns)
    plain = merged("tsv_m", models, lambda_=0.7)
    assert torch.equal(merged("r_tsvm", models, outlier=1e9, gamma=0.0, lambda_=0.7), plain)
    assert torch.equal(merged("r_tsvm", models, outlier=1e9, epsilon=0.0, lambda_=0.7), plain)
    if count > 1:
        assert not torch.allclose(merged("r_tsvm", models, gamma=0.0, lambda_=0.7), plain)


def _outliers(delta: Tensor, factor: float) -> float:
    sizes = delta.double().abs()
    bound = sizes.mean() + factor * ((sizes - sizes.mean()) ** 2).mean().sqrt()
    return float(sizes[sizes > bound].sum())


def test_weights_are_shares_of_the_outliers() -> None:
    models = deltas(3)
    models[1] = models[1] * 5
    sums = [_outliers(m, 2.0) for m in models]
    assert min(sums) > 0
    weight = [3 * s / sum(sums) for s in sums]
    expected = whitened([leading(m, 4) for m in models], weight, 1.0)
    close(merged("r_tsvm", models, outlier=2.0, epsilon=0.0), expected)


def test_sparse_experts_get_lower_ranks() -> None:
    models = deltas(2, 12, 12)
    models[0] = models[0] * (torch.arange(144).reshape(12, 12) % 4 == 0)  # Ω = 0.75
    expected = whitened([leading(models[0], 3), leading(models[1], 6)], [1.0, 1.0], 1.0)
    found = merged("r_tsvm", models, outlier=1e9, epsilon=1e-6, gamma=0.5)
    close(found, expected)
    assert int(torch.linalg.matrix_rank(found, rtol=1e-5)) == 9


def test_a_delta_of_zeros_weighs_nothing() -> None:
    (model,) = deltas(1)
    found = merged("r_tsvm", [model, torch.zeros_like(model)], outlier=1.0, epsilon=0.0)
    close(found, whitened([leading(model, 6)], [2.0], 1.0))


def test_more_experts_than_rows_are_averaged() -> None:
    models = deltas(5, 4, 9)
    close(merged("r_tsvm", models), torch.stack(models).mean(dim=0))

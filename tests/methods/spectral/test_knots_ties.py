"""KnOTS: TIES in a common basis, with one threshold for all tensors of a model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cermet import merge_tensors
from tests.maths.spectra import with_values
from tests.methods.spectral.matrices import close, deltas, merged


def _expected(models: list[Tensor], density: float, *, mean: bool) -> Tensor:
    """One matrix as the authors' code does it: a float64 decomposition of all side by side."""
    left, values, right = torch.linalg.svd(torch.cat(models, dim=1).double(), full_matrices=False)
    kept = int((values > 1e-5).sum())
    blocks = (values[:kept, None] * right[:kept]).chunk(len(models), dim=1)
    parts = torch.stack(blocks).float()
    if density < 1:
        flat = parts.flatten(1).abs()
        least = flat.kthvalue(flat.shape[1] - int(flat.shape[1] * density)).values
        parts = parts * (parts.abs() >= least[:, None, None])
    agreeing = parts * (parts.sign() == parts.sum(dim=0).sign())
    total = agreeing.sum(dim=0)
    if mean:
        total = total / (agreeing != 0).sum(dim=0).clamp_min(1)
    return left[:, :kept].float() @ total


@pytest.mark.parametrize("density", [1.0, 0.3])
@pytest.mark.parametrize(("rows", "columns"), [(12, 20), (50, 9)])
@pytest.mark.parametrize("normalize", [True, False])
def test_it_is_what_the_authors_do(
    density: float, rows: int, columns: int, normalize: bool
) -> None:
    """Also where the matrix is so tall that the Gram matrix is that of the columns."""
    models = deltas(3, rows, columns)
    found = merged("knots_ties", models, density=density, normalize=normalize)
    close(found, _expected(models, density, mean=normalize), 1e-5)


def test_the_basis_of_the_inputs_is_that_of_transposed_matrices() -> None:
    models = deltas(3)
    found = merged("knots_ties", models, density=0.4, shared="inputs")
    turned = merged("knots_ties", [m.t().contiguous() for m in models], density=0.4)
    close(found, turned.t(), 1e-5)


@pytest.mark.parametrize("name", ["knots_ties", "knots_dare", "knots_dare_ties"])
def test_one_expert_comes_back(name: str) -> None:
    given: dict[str, Any] = {"keep": 1.0} if "dare" in name else {}
    models = [{"w": deltas(1)[0], "norm.weight": torch.linspace(-1, 1, 7)}]
    found = merge_tensors(
        name, {n: torch.zeros_like(v) for n, v in models[0].items()}, models, **given
    )
    for tensor, value in models[0].items():
        close(found[tensor], value, 1e-6)


def test_norms_are_diagonal_matrices() -> None:
    """Which the threshold counts in full: of 25 entries 1, not none of 5, and one more are kept."""
    norms = [torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])]
    zero = {"norm.weight": torch.zeros(5)}
    models = [{"norm.weight": n} for n in norms]
    found = merge_tensors("knots_ties", zero, models, density=0.04)["norm.weight"]
    torch.testing.assert_close(found, torch.tensor([5.0, 4.0, 0.0, 4.0, 5.0]))


def test_deltas_that_are_almost_nothing_are_dropped() -> None:
    """The floor is a number in the unit of the weights, as in the authors' code."""
    tiny = [1e-6 * m for m in deltas(2)]
    assert not merged("knots_ties", tiny).any()
    assert merged("knots_ties", tiny, floor=0.0).any()


def test_adapters_stay_in_their_space() -> None:
    values = torch.where(torch.arange(12) < 2, 1.0, 0.0)
    models = [with_values(12, 20, values, i) for i in range(3)]
    assert int(torch.linalg.matrix_rank(merged("knots_ties", models), rtol=1e-4)) <= 6

"""Leading eigenvectors by a checked iteration: as good as LAPACK's, or LAPACK's."""

from __future__ import annotations

import pytest
import torch

import cermet.maths.eigen as maths
from cermet.maths.eigen import eigen, leading_eigen
from tests.maths.spectra import with_values

SIZE, RANK = 160, 20
SPECTRA = {
    "power 0.5": torch.arange(1, SIZE + 1).double() ** -0.5,
    "power 1": 1.0 / torch.arange(1, SIZE + 1).double(),
    "power 2": torch.arange(1, SIZE + 1).double() ** -2.0,
    "steep": torch.logspace(0, -6, SIZE).double(),
    "step": torch.where(torch.arange(SIZE) < 50, 1.0, 0.1),
    "noise": torch.linalg.svdvals(torch.randn(SIZE, SIZE, generator=torch.manual_seed(0)).double()),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_projections_are_those_of_float64(name: str) -> None:
    """The part of the matrix in the leading space is as near to the best as LAPACK's in float64."""
    matrix = with_values(SIZE, SIZE, SPECTRA[name]).double()
    basis = leading_eigen(matrix @ matrix.t(), RANK)
    torch.testing.assert_close(basis.t() @ basis, torch.eye(RANK).double(), rtol=0, atol=1e-12)
    values = torch.linalg.svdvals(matrix)
    error = torch.linalg.norm(matrix - basis @ (basis.t() @ matrix))
    best = values[RANK:].square().sum().sqrt()
    assert float(error) == pytest.approx(float(best), rel=1e-9, abs=1e-12 * float(values[0]))


@pytest.mark.parametrize("name", ["power 0.5", "power 1", "power 2", "steep", "noise"])
def test_these_spectra_need_no_full_decomposition(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The iteration finds them, with eigenvectors of small matrices alone."""
    sizes: list[int] = []

    def seen(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.append(len(matrix))
        return eigen(matrix)

    monkeypatch.setattr(maths, "eigen", seen)
    matrix = with_values(SIZE, SIZE, SPECTRA[name]).double()
    leading_eigen(matrix @ matrix.t(), RANK)
    assert max(sizes) < SIZE / 2


def test_what_does_not_converge_is_left_to_lapack() -> None:
    """Equal eigenvalues at the edge, zeros, a rank below that asked for: still a basis."""
    cases = (torch.ones(SIZE), torch.zeros(SIZE), torch.where(torch.arange(SIZE) < 5, 1.0, 0.0))
    for values in cases:
        matrix = with_values(SIZE, SIZE, values).double()
        basis = leading_eigen(matrix @ matrix.t(), RANK)
        torch.testing.assert_close(basis.t() @ basis, torch.eye(RANK).double(), rtol=0, atol=1e-10)
        rest = torch.linalg.norm(matrix - basis @ (basis.t() @ matrix))
        assert float(rest) == pytest.approx(float(values[RANK:].square().sum().sqrt()), abs=1e-6)


def test_the_same_bits_at_every_call() -> None:
    matrix = with_values(SIZE, SIZE, SPECTRA["power 1"]).double()
    gram = matrix @ matrix.t()
    assert torch.equal(leading_eigen(gram, RANK), leading_eigen(gram.clone(), RANK))


@pytest.mark.parametrize("size", [0, 1])
def test_nothing_and_one(size: int) -> None:
    assert leading_eigen(torch.ones(size, size).double(), size).shape == (size, size)
    assert eigen(torch.ones(size, size).double())[0].tolist() == [1.0] * size

"""Every primitive of linear algebra against LAPACK in float64, over conditions from 1 to 1e6.

Each promises an error as a function of the condition; here is the table of all. What each does
with lower ranks, zeros and empty matrices is in its own file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from cermet.maths import angles, subspace
from cermet.maths.eigen import eigen, leading_eigen
from cermet.maths.factors import Factors, spanned, truncated_product
from cermet.maths.lowrank import column_space, complement, gram, leading, truncated
from cermet.maths.polar import polar
from tests.maths.spectra import falling, orthogonal

CONDITIONS = [10.0**power for power in range(7)]
SHAPES = [(60, 40), (40, 60)]
RANK = 6


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return left, values, right


def _off(found: Tensor, exact: Tensor) -> float:
    """The error in the spectral norm, of what has the norm of `exact` or 1."""
    size = max(1e-300, float(torch.linalg.matrix_norm(exact, ord=2)))
    return float(torch.linalg.matrix_norm(found.double() - exact, ord=2)) / size


def _beyond(matrix: Tensor, product: Tensor) -> float:
    """How much farther a product of rank 6 is than the best one, in largest values."""
    values = _svd(matrix)[1]
    best = float(values[RANK:].square().sum().sqrt())
    return (float(torch.linalg.norm(matrix.double() - product)) - best) / float(values[0])


def _gram(matrix: Tensor) -> float:
    left, values, _ = _svd(matrix)
    return _off(gram(matrix.double()), left * values.square() @ left.t())


def _eigen(matrix: Tensor) -> float:
    """Residual and values of the Gram matrix, whose condition is the square."""
    squares = gram(matrix.double())
    values, vectors = eigen(squares)
    own = torch.linalg.eigvalsh(squares).flip(0)
    return max(_off(vectors * values @ vectors.t(), squares), _off(values[None], own[None]))


def _leading_eigen(matrix: Tensor) -> float:
    """Of the triplets, by what the projection leaves of the matrix."""
    basis = leading_eigen(gram(matrix.double()), RANK)
    return _beyond(matrix, basis @ (basis.t() @ matrix.double()))


def _leading(matrix: Tensor) -> float:
    found = leading(matrix, RANK)
    return _beyond(matrix, (found.left.double() * found.values) @ found.right.double())


def _truncated(matrix: Tensor) -> float:
    left, right = truncated(matrix, RANK)
    return _beyond(matrix, left.double() @ right.double())


def _subspace(matrix: Tensor) -> float:
    left, values, right = subspace.leading(matrix, RANK)
    return _beyond(matrix, (left * values) @ right.t())


def _polar(matrix: Tensor) -> float:
    left, _, right = _svd(matrix)
    return _off(polar(matrix)[0], left @ right)


def _space(matrix: Tensor) -> float:
    """The projection onto the columns of a tall matrix in two blocks."""
    blocks = torch.stack(matrix.split(20, dim=1)[:2])
    left, _, _ = _svd(torch.cat(list(blocks), dim=1))
    found = column_space(blocks, 0.0, 0.0)[:, : left.shape[1]]
    return _off(found @ found.t(), left @ left.t())


def _angles_space(matrix: Tensor) -> float:
    left, _, _ = _svd(matrix)
    found = angles.column_space(matrix.double())  # of float32 it leaves out what is rounding
    return _off(found @ found.t(), left @ left.t())


def _cosines(matrix: Tensor) -> float:
    """Of the space of the first columns and a fixed one, whose bases LAPACK gives."""
    other = orthogonal(len(matrix), 5, 9)
    left, _, _ = _svd(matrix[:, :10])
    exact = torch.linalg.svdvals(left.t() @ other)
    found = angles.principal_cosines(angles.column_space(matrix[:, :10]), other)
    return _off(found[None], exact[None])


def _complement(matrix: Tensor) -> float:
    """The projection onto what is orthogonal to the columns."""
    left, _, _ = _svd(matrix[:, :10])
    rest = complement(left)
    return _off(rest @ rest.t(), torch.eye(len(left)).double() - left @ left.t())


def _factors(matrix: Tensor) -> Factors:
    """Factors of a delta that is as steep as the matrix on both sides."""
    return Factors(matrix[:5], matrix[:, :5].contiguous(), 0.5)


def _product(matrix: Tensor) -> float:
    held = _factors(matrix)
    found = truncated_product(held.b, held.a, 3)
    exact = held.b.double() @ held.a.double()
    values = torch.linalg.svdvals(exact)
    error = torch.linalg.norm(exact - (found.u * found.values) @ found.v)
    return float(error - values[3:].square().sum().sqrt()) / float(values[0])


def _spanned(matrix: Tensor) -> float:
    """Deltas out of their cores, in float32."""
    held = [_factors(matrix), Factors(matrix[5:8], matrix[:, 5:8].contiguous())]
    made = spanned(held)
    pairs = zip(made.cores.double(), held, strict=True)
    return max(
        _off(made.outer @ core @ made.inner.t(), f.scale * f.b.double() @ f.a.double())
        for core, f in pairs
    )


@dataclass(frozen=True)
class Primitive:
    """How it is measured, its largest error at a condition; tall: of tall matrices alone."""

    error: Callable[[Tensor], float]
    allowed: Callable[[float], float]
    tall: bool = False


PRIMITIVES = {
    "angles.column_space": Primitive(_angles_space, lambda _: 1e-13, tall=True),
    "angles.principal_cosines": Primitive(_cosines, lambda _: 1e-13),
    "eigen.eigen": Primitive(_eigen, lambda _: 1e-13),
    "eigen.leading_eigen": Primitive(_leading_eigen, lambda _: 2e-7),
    "factors.spanned": Primitive(_spanned, lambda _: 2e-7),
    "factors.truncated_product": Primitive(_product, lambda _: 1e-13),
    "lowrank.column_space": Primitive(_space, lambda k: 1e-13 + 1e-16 * k * k, tall=True),
    "lowrank.complement": Primitive(_complement, lambda _: 1e-13),
    "lowrank.gram": Primitive(_gram, lambda _: 1e-13),
    "lowrank.leading": Primitive(_leading, lambda _: 2e-7),
    "lowrank.truncated": Primitive(_truncated, lambda _: 2e-7),
    "polar.polar": Primitive(_polar, lambda k: 1e-13 + 1e-16 * k * k),
    "subspace.leading": Primitive(_subspace, lambda _: 1e-6),
}
"""Errors are in units of the largest singular value, or of the projection."""


@pytest.mark.parametrize("name", PRIMITIVES)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_error_that_is_promised(name: str, condition: float) -> None:
    primitive = PRIMITIVES[name]
    for rows, columns in SHAPES[: 1 if primitive.tall else 2]:
        assert primitive.error(falling(rows, columns, condition)) <= primitive.allowed(condition)

"""Averages on the sphere from a Gram matrix, against the same steps on the vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cermet.core.types import Doubles
from cermet.maths.sphere import arc, cosines, directional_mean, karcher_mean, stock_ratio


def _vectors(count: int, size: int = 12, seed: int = 0) -> Tensor:
    own = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=own, dtype=torch.float64)


def _gram(vectors: Tensor) -> Doubles:
    found: Doubles = (vectors @ vectors.t()).numpy()
    return found


def test_cosines() -> None:
    vectors = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    half = math.sqrt(0.5)
    expected = [[1, 0, half, 0], [0, 1, half, 0], [half, half, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(cosines(_gram(vectors), 1e-7), expected, atol=1e-15)


def test_cosines_stay_within_one_and_short_vectors_count_as_the_floor() -> None:
    gram = np.array([[1.0, 1.0 + 1e-12], [1.0 + 1e-12, 1.0]])
    assert float(cosines(gram, 1e-7).max()) == 1.0
    short = np.array([[0.25, 0.0], [0.0, 1.0]])
    assert cosines(short, 1.0).diagonal().tolist() == [0.25, 1.0]


@given(st.floats(-0.999, 0.999), st.floats(-0.5, 1.5))
def test_an_arc_stays_on_the_circle(cosine: float, t: float) -> None:
    """Of unit vectors: the point has length 1 and the angle t times the whole."""
    a, b = arc(cosine, t, linear=False)
    assert a * a + b * b + 2 * a * b * cosine == pytest.approx(1, abs=1e-6)
    assert a + b * cosine == pytest.approx(math.cos(t * math.acos(cosine)), abs=1e-6)


def test_a_chord_does_not() -> None:
    assert arc(0.3, 0.25, linear=True) == (0.75, 0.25)
    assert arc(1.0, 0.25, linear=True) == (0.75, 0.25)


def test_directional_mean() -> None:
    vectors, weights = _vectors(3), [0.5, 0.2, 0.3]
    found = directional_mean(_gram(vectors), weights, 0.0)
    assert found is not None
    norms = vectors.norm(dim=1)
    weight = torch.tensor(weights, dtype=torch.float64)
    direction = (weight / norms) @ vectors
    expected = (weight @ norms) * direction / direction.norm()
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64) @ vectors, expected)


@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_directions_that_cancel_have_no_mean(eps: float) -> None:
    vectors = torch.tensor([[1.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)
    assert directional_mean(_gram(vectors), [0.5, 0.5], eps) is None
    assert directional_mean(np.zeros((2, 2)), [0.5, 0.5], eps) is None


@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_a_vector_of_zeros_has_no_part_in_the_direction(eps: float) -> None:
    vectors = torch.tensor([[0.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    found = directional_mean(_gram(vectors), [0.5, 0.5], eps)
    assert found is not None
    assert found[1] == pytest.approx(0.5)
    assert math.isfinite(found[0])


def _karcher(vectors: Tensor, steps: int, tol: float) -> Tensor:
    """The same iteration, on the vectors themselves."""
    norms = vectors.norm(dim=1)
    units = vectors / norms[:, None]
    mean = units.mean(dim=0)
    mean = mean / mean.norm()
    for _ in range(steps):
        tangent = torch.zeros_like(mean)
        for unit in units:
            angle = (unit @ mean).clamp(-1, 1).acos()
            if angle > tol:
                tangent += angle / angle.sin() * (unit - angle.cos() * mean) / len(units)
        size = tangent.norm()
        if size <= tol:
            break
        mean = size.cos() * mean + size.sin() / size * tangent
        mean = mean / mean.norm()
    return mean * norms.mean()


@pytest.mark.parametrize("steps", [0, 1, 2, 30])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_karcher_on_coefficients_is_karcher_on_vectors(count: int, steps: int) -> None:
    vectors = _vectors(count, seed=count)
    shares = torch.tensor(karcher_mean(_gram(vectors), steps, 1e-9), dtype=torch.float64)
    torch.testing.assert_close(shares @ vectors, _karcher(vectors, steps, 1e-9), atol=1e-7, rtol=0)


def test_karcher_of_nothing_and_of_opposites() -> None:
    assert karcher_mean(np.zeros((3, 3)), 10, 1e-5) == (0.0, 0.0, 0.0)
    opposed = np.array([[1.0, -1.0], [-1.0, 1.0]])
    assert karcher_mean(opposed, 10, 0.0) == pytest.approx((1.0, 0.0), abs=1e-9)


@pytest.mark.parametrize("cosine", [-0.4, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("count", [2, 3])
def test_stock_ratio_is_the_formula(count: int, cosine: float) -> None:
    """Vectors of different lengths at equal angles."""
    sizes = np.arange(1.0, count + 1)
    gram = np.where(np.eye(count) > 0, 1.0, cosine)
    gram = gram * sizes[:, None] * sizes[None, :]
    expected = count * cosine / (1 + (count - 1) * cosine)
    assert stock_ratio(gram) == pytest.approx(expected)


def test_stock_ratio_where_the_formula_has_no_value() -> None:
    opposed = np.array([[1.0, -1.0], [-1.0, 1.0]])
    assert stock_ratio(opposed) == 0.0
    assert stock_ratio(np.zeros((2, 2))) == 0.0
    one = np.array([[1.0, 0.0], [0.0, 0.0]])
    assert stock_ratio(one) == 0.0

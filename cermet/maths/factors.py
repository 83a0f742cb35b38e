"""Matrices that are given as a product of two thin ones, and never multiplied out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

__all__ = [
    "Factors",
    "Spanned",
    "Spectrum",
    "balanced",
    "cosine",
    "padded",
    "product",
    "spanned",
    "stacked",
    "truncated_product",
]


@dataclass(frozen=True, slots=True)
class Factors:
    """The delta scale * (b @ a) of one module, as an adapter holds it.

    Attributes
    ----------
    a: [rank, in]. b: [out, rank]. scale: a number, such as alpha / rank.
    lost: the share of the delta's Frobenius norm that a truncation has left out of it.
    """

    a: Float[torch.Tensor, "rank inputs"]
    b: Float[torch.Tensor, "outputs rank"]
    scale: float = 1.0
    lost: float = 0.0

    @property
    def rank(self) -> int:
        """Rows of a, and columns of b."""
        return self.a.shape[0]


def product(factors: Factors) -> Float[torch.Tensor, "outputs inputs"]:
    """The delta itself, in the dtype of its factors."""
    return (factors.b @ factors.a).mul_(factors.scale)


def stacked(
    factors: Sequence[Factors], weights: Sequence[float]
) -> tuple[Float[torch.Tensor, "outputs ranks"], Float[torch.Tensor, "ranks inputs"]]:
    """Σ wᵢ sᵢ Bᵢ Aᵢ as one product [B₁ ... ] @ [w₁s₁A₁; ...]: exact, the ranks add up."""
    left = torch.cat([f.b for f in factors], dim=1)
    right = torch.cat([f.a * (w * f.scale) for f, w in zip(factors, weights, strict=True)])
    return left, right


@dataclass(frozen=True, slots=True)
class Spanned:
    """Deltas τᵢ = Q Xᵢ Pᵀ in the space that they span together.

    Attributes
    ----------
    outer: Q [out, p], inner: P [in, q], float64, with orthonormal columns; p and q are the sum
    of the ranks, or the side where that is shorter. cores: all Xᵢ, in the dtype of the factors.
    """

    outer: Float[torch.Tensor, "outputs p"]
    inner: Float[torch.Tensor, "inputs q"]
    cores: Float[torch.Tensor, "models p q"]


def spanned(factors: Sequence[Factors | None]) -> Spanned:
    """The span of deltas, of which one at least is there, and their cores: zero for a None.

    By two QR decompositions in float64, of all B side by side and of all A one below the other.
    Nothing is lost, and singular values, angles and norms of the deltas are those of the cores.
    """
    held = [f for f in factors if f is not None]
    outer, left = torch.linalg.qr(torch.cat([f.b for f in held], dim=1).double())
    inner, right = torch.linalg.qr(torch.cat([f.a for f in held]).double().t())
    cores = torch.zeros(
        len(factors), len(left), len(right), dtype=held[0].a.dtype, device=left.device
    )
    begin = 0
    for core, found in zip(cores, factors, strict=True):
        if found is not None:
            own = slice(begin, begin + found.rank)
            core.copy_((left[:, own] @ right[:, own].t()).mul_(found.scale))
            begin = own.stop
    return Spanned(outer, inner, cores)


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The leading part U diag(σ) Vᵀ of a matrix, in float64.

    Attributes
    ----------
    u: [out, kept], orthonormal columns. values: [kept], largest first. v: [kept, in],
    orthonormal rows. lost: the share of the Frobenius norm that is not kept.
    """

    u: Float[torch.Tensor, "outputs kept"]
    values: Float[torch.Tensor, "kept"]
    v: Float[torch.Tensor, "kept inputs"]
    lost: float


def truncated_product(
    left: Float[torch.Tensor, "outputs ranks"],
    right: Float[torch.Tensor, "ranks inputs"],
    rank: int,
) -> Spectrum:
    """The best approximation of left @ right of at most a rank.

    By two QR decompositions and the singular values of a core [ranks, ranks]: the product is
    never formed. Exact to rounding; the error is that of Eckart and Young.
    """
    outer, core = torch.linalg.qr(left.double())
    inner, other = torch.linalg.qr(right.double().t())
    u, values, v = torch.linalg.svd(core @ other.t(), full_matrices=False)
    whole = float(values.square().sum().sqrt())
    rest = float(values[rank:].square().sum().sqrt())
    lost = rest / whole if whole else 0.0
    return Spectrum(outer @ u[:, :rank], values[:rank], v[:rank] @ inner.t(), lost)


def balanced(spectrum: Spectrum, rank: int, dtype: torch.dtype) -> Factors:
    """U diag(σ) Vᵀ as factors of one size, √σ on each side, with zeros up to the rank."""
    roots = spectrum.values.sqrt()
    return padded(spectrum.u * roots, roots[:, None] * spectrum.v, rank, dtype, spectrum.lost)


def padded(
    left: torch.Tensor, right: torch.Tensor, rank: int, dtype: torch.dtype, lost: float
) -> Factors:
    """left [out, kept] @ right [kept, in] as factors of a rank, with zeros beyond what is kept."""
    kept = right.shape[0]
    a = torch.zeros(rank, right.shape[1], dtype=dtype, device=right.device)
    b = torch.zeros(left.shape[0], rank, dtype=dtype, device=left.device)
    a[:kept], b[:, :kept] = right, left
    return Factors(a, b, lost=lost)


def cosine(one: Factors, other: Factors) -> float:
    """⟨τ₁, τ₂⟩ / |τ₁||τ₂| of two deltas, in float64; 0 where one of them is zero.

    ⟨B₁A₁, B₂A₂⟩ = tr((B₁ᵀB₂)(A₂A₁ᵀ)): products of the size of the ranks.
    """
    sizes = _inner(one, one) * _inner(other, other)
    sign = 1 if one.scale * other.scale >= 0 else -1
    return sign * _inner(one, other) / sizes**0.5 if sizes > 0 else 0.0


def _inner(one: Factors, other: Factors) -> float:
    outer = one.b.double().t() @ other.b.double()
    inner = one.a.double() @ other.a.double().t()
    return float((outer * inner).sum())

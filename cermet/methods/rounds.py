"""Rounds that several methods share."""

from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import Kth, PerModel, Sum
from cermet.core.types import Doubles
from cermet.maths.combine import mean_coefficients
from cermet.maths.lowered import Chance, Combination, Norms, Ranked, lowered
from cermet.maths.select import Cutoff
from cermet.maths.sparsify import (
    magnitudes,
    random_mask,
    rank_mask,
    rescale_factors,
    sizes,
)

__all__ = [
    "band_magnitudes",
    "band_mass",
    "check_window",
    "keep_at_random",
    "keep_by_rank",
    "kept_magnitudes",
    "masked_election",
    "masked_mass",
    "masked_sum",
    "restore_mass",
    "trimmed_election",
    "trimmed_mass",
    "trimmed_sum",
]


def _largest(*, density: PerModel, numel: int) -> list[list[int]]:
    """How many entries of each model are kept: at least one of a positive density."""
    kept = [int(d * numel) if d < 1 else numel for d in density]
    return [[max(1, k) if d > 0 and numel else 0] for k, d in zip(kept, density, strict=True)]


kept_magnitudes = Kth("cutoff", of=magnitudes, rank=_largest)
"""The cutoff above which a density of each model's delta is kept, over the whole tensor."""


def _band(*, density: PerModel, gamma: PerModel, numel: int) -> list[list[int]]:
    """Ranks down to which entries are kept, and down to which they are dropped as outliers."""
    ranks = []
    for share, outliers in zip(density, gamma, strict=True):
        kept = int(share * numel)
        dropped = min(int(outliers * numel), numel - kept)
        ranks.append([numel, 0] if share >= 1 else [dropped + kept, dropped])
    return ranks


band_magnitudes = Kth("cutoff", of=magnitudes, rank=_band)
"""The two cutoffs of breadcrumbs: what is kept or an outlier, and what is an outlier."""


@lowered(Norms("cutoff"))
def _trimmed(
    deltas: Float[torch.Tensor, "models *block"], *, cutoff: Cutoff
) -> Float[torch.Tensor, "2 models *block"]:
    return sizes(deltas, cutoff)


def _wanted(*, rescale: bool) -> bool:
    return rescale


trimmed_mass = Sum("mass", of=_trimmed, arrays=True, when=_wanted)
"""L1 norms of each delta before and after trimming, where `rescale` asks for them."""


@lowered(Norms("cutoff"))
def _banded(
    deltas: Float[torch.Tensor, "models *block"], *, cutoff: Cutoff
) -> Float[torch.Tensor, "2 models *block"]:
    return sizes(deltas, cutoff)


band_mass = Sum("mass", of=_banded, arrays=True, when=_wanted)
"""As `trimmed_mass`, for the band of breadcrumbs."""


@lowered(Chance())
def keep_at_random(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    noise: Float[torch.Tensor, "models *block"],
    density: PerModel,
) -> Float[torch.Tensor, "models *block"]:
    """DARE's mask: each entry of a model is kept with the model's density."""
    return random_mask(noise, density)


@lowered(Ranked())
def keep_by_rank(
    deltas: Float[torch.Tensor, "models rows columns"],
    *,
    noise: Float[torch.Tensor, "models rows columns"],
    density: PerModel,
    epsilon: PerModel,
) -> Float[torch.Tensor, "models rows columns"]:
    """DELLA's mask: large entries of a row are kept more often than small ones."""
    return rank_mask(deltas, noise, density, epsilon)


@lowered(Norms("mask"))
def _masked(
    deltas: Float[torch.Tensor, "models *block"], *, mask: Float[torch.Tensor, "models *block"]
) -> Float[torch.Tensor, "2 models *block"]:
    return sizes(deltas, mask)


def _drops(*, rescale: bool, density: PerModel) -> bool:
    return rescale and min(density) < 1


masked_mass = Sum("mass", of=_masked, arrays=True, when=_drops)
"""As `trimmed_mass`, for entries that a random mask drops."""


def check_window(*, density: PerModel, epsilon: PerModel) -> str | None:
    """DELLA's probabilities, density - epsilon to density + epsilon, must stay inside (0, 1)."""
    for share, half in zip(density, epsilon, strict=True):
        if 0 < share < 1 and not (share - half > 0 and share + half < 1):
            return (
                f"epsilon {half:g} at density {share:g} asks for probabilities from "
                f"{share - half:g} to {share + half:g}; both must lie inside (0, 1)"
            )
    return None


def restore_mass(*, mass: Doubles | None, weight: PerModel) -> dict[str, PerModel]:
    """Weights that also restore the L1 norm which sparsifying took from each delta."""
    if mass is None:
        return {"restored": weight}
    factors = rescale_factors(mass[0], mass[1])
    return {"restored": tuple(w * f for w, f in zip(weight, factors, strict=True))}


def trimmed_election(
    *, cutoff: Cutoff, restored: PerModel, weight: PerModel, normalize: bool, lambda_: float
) -> Combination:
    """The form of `ties` and `breadcrumbs_ties`."""
    return Combination(restored, weight, cutoff, normalize=normalize, scale=lambda_)


def masked_election(
    *, restored: PerModel, weight: PerModel, normalize: bool, lambda_: float
) -> Combination:
    """The form of `dare_ties` and `della`."""
    return Combination(restored, weight, masked=True, normalize=normalize, scale=lambda_)


def masked_sum(
    *, restored: PerModel, weight: PerModel, normalize: bool, lambda_: float
) -> Combination:
    """The form of `dare_linear` and `della_linear`."""
    factors = mean_coefficients(restored, weight, normalize=normalize, scale=lambda_)
    return Combination(factors, masked=True)


def trimmed_sum(
    *, cutoff: Cutoff, restored: PerModel, weight: PerModel, normalize: bool, lambda_: float
) -> Combination:
    """The form of `breadcrumbs`."""
    factors = mean_coefficients(restored, weight, normalize=normalize, scale=lambda_)
    return Combination(factors, keep=cutoff)

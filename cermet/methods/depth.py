"""The factor of LiNeS, which grows with depth: what its two forms share."""

from __future__ import annotations

from cermet.core.types import Place

__all__ = ["growing"]


def growing(place: Place, alpha: float, beta: float) -> float:
    """α + β·ℓ/(L−1) in layer ℓ of L, α outside of the layers; a single layer has α + β."""
    if place.layer is None:
        return alpha
    return alpha + beta * (place.layer / (place.layers - 1) if place.layers > 1 else 1.0)

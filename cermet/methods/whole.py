"""Rounds over a layer or the whole model that several methods share."""

from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import Kth, PerModel, Sum
from cermet.core.types import Doubles
from cermet.maths.combine import agreeing_mean, elected, weighted_sum
from cermet.maths.select import Cutoff
from cermet.maths.sparsify import magnitudes, trim

__all__ = [
    "agreeing_sum",
    "energy",
    "energy_shares",
    "global_balance",
    "global_magnitudes",
    "layer_energy",
    "model_energy",
    "squares",
    "trimmed_globally",
    "zero_sign",
]


def _official(*, density: PerModel, numel: int) -> list[list[int]]:
    """The k-th smallest value from below is kept too, so one more than the share."""
    return [[min(numel, int(d * numel) + 1)] for d in density]


global_magnitudes = Kth("cutoff", of=magnitudes, rank=_official, scope="model")
"""The magnitude from which on an entry is kept, one for each model and all its tensors."""


def trimmed_globally(
    deltas: Float[torch.Tensor, "models *block"], cutoff: Cutoff
) -> Float[torch.Tensor, "models *block"]:
    """What reaches the threshold, with all values that equal it."""
    return trim(deltas, cutoff.with_ties())


def _signs(
    deltas: Float[torch.Tensor, "models *block"], *, cutoff: Cutoff
) -> Float[torch.Tensor, "1 *block"]:
    kept = trimmed_globally(deltas, cutoff)
    return weighted_sum(kept, [1.0] * len(kept)).sign_()[None]


global_balance = Sum("balance", of=_signs, scope="model")
"""How many more entries of the model have a positive sum of trimmed deltas than a negative."""


def zero_sign(*, balance: torch.Tensor) -> dict[str, float]:
    """The sign of entries whose deltas cancel: that of the majority, minus where there is none."""
    return {"at_zero": 1.0 if float(balance) > 0 else -1.0}


def agreeing_sum(
    deltas: Float[torch.Tensor, "models *block"], cutoff: Cutoff, at_zero: float
) -> Float[torch.Tensor, "*block"]:
    """Sum of what agrees with the elected sign, of deltas trimmed for the whole model."""
    kept = trimmed_globally(deltas, cutoff)
    ones = [1.0] * len(kept)
    sign = elected(weighted_sum(kept, ones), at_zero)
    return agreeing_mean(kept, ones, sign, normalize=False)


def squares(deltas: Float[torch.Tensor, "models *block"]) -> Float[torch.Tensor, "models *block"]:
    """δ², whose sum is the energy of a delta."""
    return deltas.square()


energy = Sum("energy", of=squares)
"""Σ δ² of each model over a tensor."""

model_energy = Sum("energy", of=squares, scope="model")
"""Σ δ² of each model over all tensors."""

layer_energy = Sum("energy", of=squares, scope="layer")
"""Σ δ² of each model over all tensors of a layer."""


def energy_shares(*, energy: torch.Tensor | Doubles) -> dict[str, PerModel]:
    """Each model's share of the energy; equal shares where nothing has moved."""
    total, count = float(energy.sum()), len(energy)
    if total == 0:
        return {"share": (1.0 / count,) * count}
    return {"share": tuple((energy / total).tolist())}

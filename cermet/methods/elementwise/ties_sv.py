from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, Sum, method
from cermet.maths.combine import agreeing_mean, elected, weighted_sum
from cermet.maths.select import Cutoff
from cermet.methods.whole import global_magnitudes, trimmed_globally, zero_sign


def _votes(
    kept: Float[torch.Tensor, "models *block"], slack: PerModel
) -> Float[torch.Tensor, "*block"]:
    """The sum of what is kept, each non-zero entry longer by its model's slack."""
    return weighted_sum(kept, [1.0] * len(kept)).add_(weighted_sum(kept.sign(), slack))


def _signs(
    deltas: Float[torch.Tensor, "models *block"], *, cutoff: Cutoff, slack: PerModel
) -> Float[torch.Tensor, "1 *block"]:
    return _votes(trimmed_globally(deltas, cutoff), slack).sign_()[None]


@method(
    on="deltas",
    source="arXiv:2407.03994",
    rounds=[global_magnitudes, Sum("balance", of=_signs, scope="model")],
    fit=zero_sign,
    fitted=["at_zero"],
    limits={"slack": (0.0, None)},
    workspace=4.2,
    properties=("permutation",),
    experimental="the inequality of the paper and its value of the slack are not in any text that "
    "we could read, so this is a reading of its abstract and reproduces no number of it.",
)
def ties_sv(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    cutoff: Cutoff,
    at_zero: float,
    slack: PerModel = (0.0,),
    density: PerModel = (0.2,),
    lambda_: float = 1.0,
) -> Float[torch.Tensor, "*block"]:
    """TIES whose election favours an expert with small deltas by a slack.

    Maths       τ̂ᵢ as in ties_official;  s = sgn Σ (τ̂ᵢ + σᵢ sgn τ̂ᵢ), where that is 0 the sign of
                the sum of all signs;  θ = θ₀ + λ · mean of the τ̂ᵢ with sgn τ̂ᵢ = s
    Inputs      deltas: expert minus base
    Parameters  slack: σᵢ, by how much an expert's entries count for more in the election, in the
                unit of the weights; give it to the expert that loses its entries. density and
                lambda: as in ties_official
    Properties  model order does not matter; no slack is ties_official; entries on which all agree
                do not change; a larger slack never costs its expert an entry
    When        an instruction-tuned expert beside one that was trained on far more data, whose
                larger deltas win most elections
    Example     >>> merge("ties_sv", [0.0] * 3, [[5, 5, 2], [-3, -4, 1]], density=1, slack=[0, 1.5])
                [5.0, -4.0, 1.5]
    Departures  Known: a slack variable in the election of TIES keeps entries of the tuned expert
                that the further pre-trained one would discard. Assumed: that it is added to their
                size, that it is one number for the whole model, the trim of ties_official, and the
                mean of what agrees. It has no published default, so 0 is ours.
    """
    kept = trimmed_globally(deltas, cutoff)
    sign = elected(_votes(kept, slack), at_zero)
    return agreeing_mean(kept, [1.0] * len(kept), sign, normalize=True).mul_(lambda_)

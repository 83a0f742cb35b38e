from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths.combine import consensus
from cermet.methods.rounds import (
    check_window,
    keep_by_rank,
    masked_election,
    masked_mass,
    restore_mass,
)


@method(
    on="deltas",
    grain="row",
    source="arXiv:2406.11617",
    mask=keep_by_rank,
    rounds=[masked_mass],
    fit=restore_mass,
    fitted=["restored"],
    form=masked_election,
    noise=True,
    limits={"epsilon": (0.0, 1.0)},
    workspace=8.2,
    check=check_window,
    accepts={"int8_mask": "masks take no memory here"},
    properties=("homogeneous",),
)
def della(
    deltas: Float[torch.Tensor, "models rows columns"],
    *,
    mask: Float[torch.Tensor, "models rows columns"],
    restored: PerModel,
    weight: PerModel,
    density: PerModel = (1.0,),
    epsilon: PerModel = (0.15,),
    normalize: bool = True,
    rescale: bool = True,
    lambda_: float = 1.0,
) -> Float[torch.Tensor, "rows columns"]:
    """Drop entries at random, small ones of each row more often; elect a sign and average.

    Maths       q = d − ε + 2ε(ρ−1)/(R−1),  ρ: rank of |τ| in its row of length R, ascending;
                m ~ Bernoulli(q);  then as dare_ties, with the L1 norm of the tensor restored
    Inputs      deltas: expert minus base, rows along the last dimension (a vector is one row)
    Parameters  weight, normalize, rescale, lambda as in ties. density: mean probability that
                an entry is kept; 1 keeps all, 0 none. epsilon: half the width of the window
                of probabilities; density ± epsilon must stay inside (0, 1)
    Properties  the mean of q over a row is d
    When        as dare_ties, where large entries should survive more often
    Example     >>> merge("della", [0.0, 0.0], [[2, 4], [-1, 1]], weight=1)
                [2.0, 2.5]
    Departures  L1 rescaling, as in mergekit; the authors divide each kept entry by its own q.
                A row of one entry has probability d; mergekit computes 0/0 there. Of equal
                magnitudes those in the first half of a row rank higher.
    """
    return consensus(deltas, restored, weight, normalize=normalize, scale=lambda_, keep=mask)

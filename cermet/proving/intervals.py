"""How sure a mean over tasks is: over the examples of one pool, and over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from cermet.evaluate.outcomes import Outcomes

__all__ = ["mean_interval", "seeds_interval"]

_DRAWS = 2000
_AT_ONCE = 1 << 22  # counts that are drawn together: 32 MB
_LEVEL = 0.95

_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip
"""The 97.5 % quantiles of Student's distribution with 1 to 20 degrees of freedom."""
_NORMAL = 1.960


def mean_interval(
    outcomes: Mapping[str, Outcomes], experts: Mapping[str, Outcomes]
) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean share of the experts, over the examples.

    The examples of every task are drawn again, task by task; the experts' values stay as they are.
    Tasks without an expert do not count.
    """
    shares = []
    for place, (name, expert) in enumerate(experts.items()):
        if name in outcomes:
            values = _resampled(outcomes[name], place)
            less = expert.metric == "bits_per_character"
            shares.append(expert.value / values if less else values / expert.value)
    low, high = np.quantile(np.mean(shares, axis=0), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)


def _resampled(outcomes: Outcomes, seed: int) -> Float64[np.ndarray, "draws"]:
    draw, count = np.random.default_rng(seed), len(outcomes)
    scores, sizes = outcomes.scores.astype(np.float64), outcomes.sizes.astype(np.float64)
    step, values = max(1, _AT_ONCE // count), []
    for start in range(0, _DRAWS, step):
        shares = np.full(count, 1 / count)
        times = draw.multinomial(count, shares, size=min(step, _DRAWS - start))
        values.append((times @ scores) / (times @ sizes))
    return np.concatenate(values)


def seeds_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean over seeds, two at least, by Student's distribution."""
    count = len(values)
    mean = math.fsum(values) / count
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    factor = _STUDENT[count - 2] if count - 2 < len(_STUDENT) else _NORMAL
    half = factor * deviation / math.sqrt(count)
    return mean - half, mean + half

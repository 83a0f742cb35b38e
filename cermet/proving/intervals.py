"""How sure a mean over tasks is: over the examples of one pool, and over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from cermet.evaluate.bootstrap import resampled
from cermet.evaluate.outcomes import Outcomes

__all__ = ["mean_interval", "seeds_interval"]

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
            values = resampled(outcomes[name], place)
            less = expert.metric == "bits_per_character"
            shares.append(expert.value / values if less else values / expert.value)
    low, high = np.quantile(np.mean(shares, axis=0), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)


def seeds_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean over seeds, two at least, by Student's distribution."""
    count = len(values)
    mean = math.fsum(values) / count
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    factor = _STUDENT[count - 2] if count - 2 < len(_STUDENT) else _NORMAL
    half = factor * deviation / math.sqrt(count)
    return mean - half, mean + half

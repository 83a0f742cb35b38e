"""Numbers of outcomes: intervals, shares of the expert, what got worse, how far two agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from cermet.core.errors import InputError
from cermet.evaluate.outcomes import Outcomes
from cermet.recipes.pool import Metric

__all__ = ["agreement", "forgetting", "interval", "negative_flips", "normalised"]

_DRAWS = 2000
_AT_ONCE = 1 << 22  # counts that are drawn together: 32 MB
_NOISE = 1e-3  # a text whose bits grew by no more than this share is not worse


def interval(outcomes: Outcomes, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """The bootstrap interval of the value, by percentiles of 2,000 resamples of the examples.

    level: the share of resamples that lie inside. The same seed gives the same interval. Where
    every example came out the same, the interval is a point, however few there are.
    """
    if not 0 < level < 1:
        raise InputError(f"The level of an interval is between 0 and 1, not {level}.")
    draw, count = np.random.default_rng(seed), len(outcomes)
    scores, sizes = outcomes.scores.astype(np.float64), outcomes.sizes.astype(np.float64)
    values = []
    step = max(1, _AT_ONCE // count)
    shares = np.full(count, 1 / count)
    for start in range(0, _DRAWS, step):
        times = draw.multinomial(count, shares, size=min(step, _DRAWS - start))
        values.append((times @ scores) / (times @ sizes))
    low, high = np.quantile(np.concatenate(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def normalised(value: float, expert: float, metric: Metric) -> float:
    """A value as a share of the expert's: 1 is as good as the expert, whatever the metric.

    Raises InputError for an expert that is never right, of which nothing is a share.
    """
    above, below = (expert, value) if metric == "bits_per_character" else (value, expert)
    if below == 0:
        raise InputError("Nothing can be said as a share of 0: the expert is never right.")
    return above / below


def negative_flips(before: Outcomes, after: Outcomes) -> float:
    """The share of all examples that are worse than before.

    Right before and wrong now; of texts, more bits than before by over a thousandth.
    """
    return float(_worse(before, after).mean())


def forgetting(base: Sequence[Outcomes], merged: Sequence[Outcomes]) -> float:
    """Of the examples that the base could do, the share that the merge cannot, over all tasks.

    The base could do what it had right; of texts all count, and those count as forgotten that the
    merge needs more bits for, by over a thousandth. 0 where the base could do nothing.
    """
    if len(base) != len(merged):
        raise InputError(f"{len(base)} tasks of the base stand beside {len(merged)} of the merge.")
    lost = sum(int(_worse(b, m).sum()) for b, m in zip(base, merged, strict=True))
    could = sum(len(b) if _texts(b) else int((b.scores > 0).sum()) for b in base)
    return lost / could if could else 0.0


def agreement(one: Outcomes, other: Outcomes) -> float | None:
    """The share of examples that both answer the same, right or wrong; None of likelihoods."""
    _check_same(one, other)
    return None if _texts(one) else float((one.answers == other.answers).mean())


def _texts(outcomes: Outcomes) -> bool:
    return outcomes.metric == "bits_per_character"


def _worse(before: Outcomes, after: Outcomes) -> Bool[np.ndarray, "examples"]:
    _check_same(before, after)
    if _texts(before):
        return np.asarray(after.scores > before.scores * (1 + _NOISE))
    return np.asarray(after.scores < before.scores)


def _check_same(one: Outcomes, other: Outcomes) -> None:
    if (one.task, one.metric, len(one)) != (other.task, other.metric, len(other)):
        raise InputError(
            f"Outcomes of {len(one)} examples of '{one.task}' and of {len(other)} of "
            f"'{other.task}' cannot be compared."
        )

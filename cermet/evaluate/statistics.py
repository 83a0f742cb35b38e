"""Numbers of outcomes: intervals, shares of the expert, what got worse, how far two agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from cermet.core.errors import InputError
from cermet.evaluate.bootstrap import resampled
from cermet.evaluate.outcomes import Outcomes
from cermet.recipes.pool import Metric

__all__ = ["agreement", "forgetting", "interval", "negative_flips", "normalised"]


def interval(outcomes: Outcomes, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """The bootstrap interval of the value, by percentiles of 2,000 resamples of the examples.

    level: the share of resamples that lie inside. The same seed gives the same interval. Where
    every example came out the same, the interval is a point, however few there are.
    """
    if not 0 < level < 1:
        raise InputError(f"The level of an interval is between 0 and 1, not {level}.")
    values = resampled(outcomes, seed)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def normalised(value: float, expert: float, metric: Metric) -> float:
    """A value as a share of the expert's: 1 is as good as the expert, whatever the metric.

    Raises InputError for an expert that is never right, of which nothing is a share.
    """
    above, below = (expert, value) if metric == "bits_per_character" else (value, expert)
    if below == 0:
        raise InputError("Nothing can be said as a share of 0: the expert is never right.")
    return above / below


def negative_flips(before: Outcomes, after: Outcomes) -> float | None:
    """The share of all examples that were right before and are wrong now; None of likelihoods.

    A text is neither right nor wrong: of two models that are as good, each takes more bits for
    about half of the texts.
    """
    _check_same(before, after)
    return None if _texts(before) else float(_flipped(before, after).mean())


def forgetting(base: Sequence[Outcomes], merged: Sequence[Outcomes]) -> float | None:
    """Of the examples that the base had right, the share that the merge has wrong, over all tasks.

    0 where the base could do nothing. Likelihoods do not count; None where there are no others.
    """
    if len(base) != len(merged):
        raise InputError(f"{len(base)} tasks of the base stand beside {len(merged)} of the merge.")
    for one, other in zip(base, merged, strict=True):
        _check_same(one, other)
    told = [(b, m) for b, m in zip(base, merged, strict=True) if not _texts(b)]
    lost = sum(int(_flipped(b, m).sum()) for b, m in told)
    could = sum(int((b.scores > 0).sum()) for b, _ in told)
    if not told:
        return None
    return lost / could if could else 0.0


def agreement(one: Outcomes, other: Outcomes) -> float | None:
    """The share of examples that both answer the same, right or wrong; None of likelihoods."""
    _check_same(one, other)
    return None if _texts(one) else float((one.answers == other.answers).mean())


def _texts(outcomes: Outcomes) -> bool:
    return outcomes.metric == "bits_per_character"


def _flipped(before: Outcomes, after: Outcomes) -> Bool[np.ndarray, "examples"]:
    return np.asarray(after.scores < before.scores)


def _check_same(one: Outcomes, other: Outcomes) -> None:
    if (one.task, one.metric, len(one)) != (other.task, other.metric, len(other)):
        raise InputError(
            f"Outcomes of {len(one)} examples of '{one.task}' and of {len(other)} of "
            f"'{other.task}' cannot be compared."
        )

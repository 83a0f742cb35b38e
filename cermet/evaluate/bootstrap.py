"""The bootstrap: what a value would be if its examples had been drawn anew, with replacement."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int64, UInt16

from cermet.evaluate.outcomes import Outcomes

__all__ = ["resampled"]

_DRAWS = 2000
_AT_ONCE = 1 << 22  # counts that are drawn together: 32 MB
_KEPT = 1024  # examples of a task whose draws are kept: 4 MB, and 64 MB of all


def resampled(outcomes: Outcomes, seed: int) -> Float64[np.ndarray, "draws"]:
    """The value of each of 2,000 resamples; the same seed draws the same ones."""
    scores, sizes = outcomes.scores.astype(np.float64), outcomes.sizes.astype(np.float64)
    count = len(outcomes)
    # Every model of a bench has as many examples of a task: drawing costs more than summing.
    drawn = iter([_kept(count, seed)]) if count <= _KEPT else _drawn(count, seed)
    counts = (times.astype(np.float64) for times in drawn)
    return np.concatenate([(times @ scores) / (times @ sizes) for times in counts])


def _drawn(count: int, seed: int) -> Iterator[Int64[np.ndarray, "draws examples"]]:
    """How often each example is in each resample, some resamples at a time."""
    draw, shares = np.random.default_rng(seed), np.full(count, 1 / count)
    step = max(1, _AT_ONCE // count)
    for start in range(0, _DRAWS, step):
        yield draw.multinomial(count, shares, size=min(step, _DRAWS - start))


@lru_cache(maxsize=16)
def _kept(count: int, seed: int) -> UInt16[np.ndarray, "draws examples"]:
    """The same of all resamples, in the fewest bytes."""
    return np.concatenate([times.astype(np.uint16) for times in _drawn(count, seed)])

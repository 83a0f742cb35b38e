"""Outputs that depend on random masks: explained, not compared.

Two tools never draw the same mask. But every element of a DARE or DELLA output must be
the base plus what the method makes of some subset of the experts' deltas there. With up
to three experts that is eight candidates an element. Where the L1 norm is restored, each
delta also has one unknown factor for the tensor: it is read off the elements which that
expert alone explains, where the ratio of output to delta piles up on one value.

The subsets found are then held to the distribution: how often each expert is kept, how
often none is, and the L1 norm of the merged delta, each within six standard deviations of
its expectation under independent draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from torch import Tensor

from parity.inputs import Array, Group

__all__ = ["Explained", "explain"]

_SIGMAS = 6.0
_ERROR = 2e-5  # of the largest merged delta: arithmetic in float32
_ROUNDING = 4 * 2.0**-24  # of the largest weight: adding the base and taking it off again
_PILE = 2e-5  # relative width of the pile of equal ratios
_FEWEST = 256  # elements that a tensor needs for its factors to be read off
_CONSENSUS = frozenset({"dare_ties", "della"})
_RANKED = frozenset({"della", "della_linear"})


@dataclass(frozen=True, slots=True)
class Explained:
    """What was found for one tensor.

    error: the largest unexplained rest, as a share of what rounding allows. compared:
    number of elements explained; 0 where the tensor is too small to tell. support: which
    elements moved, as bytes: the trace of the mask. problem: what does not fit, or None.
    """

    error: float
    compared: int
    support: bytes = b""
    problem: str | None = None


class _Model:
    """One tensor's deltas and probabilities, and what the method makes of subsets of them."""

    def __init__(self, group: Group) -> None:
        assert group.base is not None
        self.base: Array = group.base.double().flatten().numpy()
        self.deltas: Array = group.deltas.double().flatten(1).numpy()
        self.weights = np.array(group.values("weight"))
        self.consensus = group.method in _CONSENSUS
        self.normalize = bool(group.once["normalize"])
        self.scale = float(group.once["lambda"])
        self.subsets = np.array(list(product((0.0, 1.0), repeat=len(self.deltas))))
        self.keep = _probabilities(group)
        odds = [np.where(s[:, None] > 0, self.keep, 1 - self.keep) for s in self.subsets]
        self.odds: Array = np.array([o.prod(axis=0) for o in odds])

    def merged(self, factors: Array) -> Array:
        """The merged delta of every subset: [subsets, n]."""
        parts = self.deltas * (self.weights * factors)[:, None]
        rows = [self._merge(parts * subset[:, None], subset) for subset in self.subsets]
        return self.scale * np.array(rows)

    def _merge(self, parts: Array, subset: Array) -> Array:
        if not self.consensus:
            divisor = self.weights.sum() if self.normalize else 1.0
            return np.asarray(parts.sum(axis=0) / divisor)
        sign = np.where(parts.sum(axis=0) >= 0, 1.0, -1.0)
        agree = np.sign(parts) == sign
        total = (parts * agree).sum(axis=0)
        if not self.normalize:
            return np.asarray(total)
        divisors = (self.weights[:, None] * agree).sum(axis=0)
        return np.asarray(total / np.where(divisors == 0, 1.0, divisors))


def _probabilities(group: Group) -> Array:
    """How likely each element of each expert is kept: [experts, n]."""
    deltas = group.deltas.double().numpy()
    density = np.array(group.values("density"))
    flat = deltas.reshape(len(deltas), -1)
    if group.method not in _RANKED:
        return np.repeat(np.clip(density, 0.0, 1.0)[:, None], flat.shape[1], axis=1)
    epsilon = np.array(group.values("epsilon"))
    rows = np.abs(deltas.reshape(len(deltas), -1, deltas.shape[-1]))
    rank = rows.argsort(axis=-1, kind="stable").argsort(axis=-1, kind="stable")
    place = rank / (rows.shape[-1] - 1)
    chance = (density - epsilon)[:, None, None] + 2 * epsilon[:, None, None] * place
    whole = (density >= 1)[:, None, None]
    return np.asarray(np.where(whole, 1.0, chance).reshape(flat.shape))


def explain(output: Tensor, group: Group) -> Explained:
    """Find the masks behind an output, and judge them."""
    model = _Model(group)
    moved = output.double().flatten().numpy() - model.base
    if not np.isfinite(moved).all():
        return Explained(float("inf"), 0, problem="not finite")
    support = np.packbits(moved != 0).tobytes()
    factors = np.ones(len(model.deltas))
    if group.once["rescale"]:
        if moved.size < _FEWEST:
            return Explained(0.0, 0, support)
        found = _factors(moved, model)
        if isinstance(found, str):
            return Explained(float("inf"), moved.size, support, found)
        factors = found
    candidates = model.merged(factors)
    distance = np.abs(candidates - moved)
    largest = float(np.abs(moved).max(initial=0.0))
    allowed = _ERROR * largest + _ROUNDING * float(np.abs(model.base).max(initial=0.0))
    rest = float(distance.min(axis=0).max(initial=0.0))
    error = rest / allowed if allowed else 0.0
    if rest > allowed:
        place = int(distance.min(axis=0).argmax())
        return Explained(error, moved.size, support, f"no subset explains flat index {place}")
    close = distance <= allowed
    problem = _judge(model, candidates, moved, allowed)
    if problem is None and group.once["rescale"] and not model.consensus:
        problem = _norms(model, close, factors)
    return Explained(error, moved.size, support, problem)


def _factors(moved: Array, model: _Model) -> Array | str:
    """The factor of each expert, from the ratios that pile up; or what is wrong."""
    alone = model.merged(np.ones(len(model.deltas)))
    factors = np.ones(len(model.deltas))
    for expert in range(len(factors)):
        if model.keep[expert].min() >= 1:
            continue
        only = int(np.flatnonzero((model.subsets[:, expert] > 0) & (model.subsets.sum(1) == 1))[0])
        size = np.abs(alone[only])
        usable = size > 0.05 * size.mean()
        ratios = np.sort(moved[usable] / alone[only][usable])
        ratios = ratios[(ratios > 0.5) & (ratios < 10)]
        ends = np.searchsorted(ratios, ratios * (1 + _PILE), side="right")
        piled = ends - np.arange(ratios.size)
        if not ratios.size or piled.max() < 3:
            return f"no factor found that restores the norm of expert {expert}"
        first = int(piled.argmax())
        factors[expert] = float(np.median(ratios[first : first + int(piled[first])]))
    return factors


def _judge(model: _Model, candidates: Array, moved: Array, allowed: float) -> str | None:
    """What is unlikely about the subsets found; None where all is as it should be."""
    close = np.abs(candidates - moved) <= allowed
    empty = model.subsets.sum(axis=1) == 0
    checks = [("elements that no expert moved", empty, model.odds[0])]
    if not model.consensus:  # with an election, who lost it cannot be seen
        for expert, keep in enumerate(model.keep):
            label = f"elements of expert {expert} that were kept"
            checks.append((label, model.subsets[:, expert] > 0, keep))
    for what, members, odds in checks:
        told = _told_apart(candidates, members, allowed)
        hits = int(close[members].any(axis=0)[told].sum())
        mean, variance = float(odds[told].sum()), float((odds * (1 - odds))[told].sum())
        if abs(hits - mean) > _SIGMAS * variance**0.5 + 2:
            return f"{hits} {what}, expected {mean:.1f} ± {variance**0.5:.1f}"
    size = np.abs(candidates)
    expected = (model.odds * size).sum(axis=0)
    variance = float(((model.odds * size**2).sum(axis=0) - expected**2).clip(0).sum())
    norm, mean = float(np.abs(moved).sum()), float(expected.sum())
    if abs(norm - mean) > _SIGMAS * variance**0.5 + 1e-4 * mean + 1e-9:
        return f"L1 norm of the merged delta {norm:.4g}, expected {mean:.4g} ± {variance**0.5:.2g}"
    return None


def _told_apart(
    candidates: Array, members: npt.NDArray[np.bool_], allowed: float
) -> npt.NDArray[np.bool_]:
    """Elements at which an output shows whether the subset was one of `members`.

    Judged by the candidates alone: by the output, it would bias what is then counted.
    """
    gaps = np.abs(candidates[members][:, None] - candidates[~members][None])
    return np.asarray(gaps.min(axis=(0, 1)) > 2 * allowed)


def _norms(model: _Model, close: npt.NDArray[np.bool_], factors: Array) -> str | None:
    """Whether each factor is the one that restores the L1 norm of its expert's delta."""
    for expert, factor in enumerate(factors):
        size = np.abs(model.deltas[expert])
        members = model.subsets[:, expert] > 0
        certain = close[members].any(axis=0) & ~close[~members].any(axis=0)
        possible = close[members].any(axis=0)
        low, high = float(size[certain].sum()), float(size[possible].sum())
        total = float(size.sum())
        if not low * factor * 0.9999 <= total <= high * factor * 1.0001:
            return f"factor {factor:.5g} of expert {expert} does not restore its L1 norm"
    return None

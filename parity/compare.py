"""Two outputs of one tensor, compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from parity.doubt import Doubt

__all__ = ["TOLERANCE", "Verdict", "no_worse", "within_one_unit", "within_relative"]

TOLERANCE = 1e-5
"""Largest difference in float32, relative to the largest magnitude of the tensor."""

_TINY = torch.finfo(torch.bfloat16).tiny
_MANTISSA = 7  # bits of bfloat16 behind the leading one


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far two tensors are apart, in the unit of the test; a problem where it is too far.

    error: relative to the largest magnitude (float32), or in units in the last place
    (bfloat16). compared: number of elements that were.
    """

    error: float
    compared: int
    problem: str | None = None


def within_relative(ours: Tensor, reference: Tensor, doubt: Doubt) -> Verdict:
    """Whether every element is within 1e-5 of the reference's largest magnitude."""
    sure, difference, wanted = _differences(ours, reference, doubt)
    scale = max(float(wanted.abs().max()), 1e-30) if wanted.numel() else 1.0
    error = _largest(difference) / scale
    return _verdict(error, TOLERANCE, difference, sure, "of the largest magnitude")


def within_one_unit(ours: Tensor, reference: Tensor, doubt: Doubt) -> Verdict:
    """Whether every element is within one bfloat16 unit in the last place of the reference.

    Ours was rounded once; the reference is in float32, or was rounded once itself. One
    unit is the spacing of bfloat16 at the element's magnitude; beside it stands the
    tolerance of float32, for sums that cancel.
    """
    sure, difference, wanted = _differences(ours, reference, doubt)
    if not wanted.numel():
        return Verdict(0.0, 0)
    unit = torch.ldexp(torch.ones_like(wanted), torch.frexp(wanted).exponent - 1 - _MANTISSA)
    unit = unit.clamp_min(_TINY * 2.0**-_MANTISSA)
    noise = TOLERANCE * float(wanted.abs().max())
    return _verdict(
        _largest((difference - noise).clamp_min(0.0) / unit), 1.0, difference, sure, "units"
    )


def no_worse(ours: Tensor, peer: Tensor, reference: Tensor, doubt: Doubt) -> str | None:
    """What is wrong where ours is farther from the float32 answer than the peer's bfloat16.

    Root mean squares, with room for two roundings that fall the other way.
    """
    _, own, wanted = _differences(ours, reference, doubt)
    _, theirs, _ = _differences(peer, reference, doubt)
    if not wanted.numel():
        return None
    count = wanted.numel()
    room = float(wanted.abs().max()) * 2.0**-_MANTISSA * (2.0 / count) ** 0.5
    first, second = float(own.square().mean().sqrt()), float(theirs.square().mean().sqrt())
    if first > 1.05 * second + room:
        return f"rms error {first:.3g}, the peer's {second:.3g}"
    return None


def _differences(ours: Tensor, reference: Tensor, doubt: Doubt) -> tuple[Tensor, Tensor, Tensor]:
    """Flat positions that are compared, differences beyond the slack there, and the reference."""
    sure = torch.from_numpy(np.flatnonzero(~doubt.elements))
    wanted = reference.double().flatten()[sure]
    difference = ((ours.double().flatten()[sure] - wanted).abs() - doubt.slack).clamp_min(0.0)
    return sure, difference, wanted


def _largest(values: Tensor) -> float:
    """The largest value; infinity where one is not a number."""
    return float(values.nan_to_num(nan=float("inf")).max()) if values.numel() else 0.0


def _verdict(error: float, allowed: float, difference: Tensor, sure: Tensor, unit: str) -> Verdict:
    if error <= allowed:
        return Verdict(error, sure.numel())
    place = int(sure[int(difference.nan_to_num(nan=float("inf")).argmax())])
    wrong = int((difference > 0.5 * difference.max()).sum())
    problem = f"{error:.3g} {unit} at flat index {place} ({wrong} of {sure.numel()} as far)"
    return Verdict(error, sure.numel(), problem)

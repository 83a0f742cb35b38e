"""Descent on losses whose gradient is known: Adam, conjugate gradients, momentum solved."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

__all__ = ["adam", "conjugate", "momentum_response"]

_ENOUGH = 1e-7  # of the goal: what conjugate gradients leave of it
_FADE, _FADE_SQUARES, _LEAST = 0.9, 0.999, 1e-8  # Adam's usual numbers


def adam(
    gradient: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, steps: int, rate: float
) -> torch.Tensor:
    """The point after some steps of Adam (no weight decay), in the memory of `start`.

    `gradient` maps a point to new memory of the same shape, which is overwritten.
    """
    mean, square = torch.zeros_like(start), torch.zeros_like(start)
    for step in range(1, steps + 1):
        slope = gradient(start)
        mean.lerp_(slope, 1.0 - _FADE)
        square.mul_(_FADE_SQUARES).addcmul_(slope, slope, value=1.0 - _FADE_SQUARES)
        torch.sqrt(square, out=slope)
        slope.div_(math.sqrt(1.0 - _FADE_SQUARES**step)).add_(_LEAST)
        start.addcdiv_(mean, slope, value=-rate / (1.0 - _FADE**step))
    return start


def conjugate(
    product: Callable[[torch.Tensor], torch.Tensor], goal: torch.Tensor, steps: int
) -> torch.Tensor:
    """x with Hx = goal by conjugate gradients from zero: float64, of the shape of the goal.

    `product`: x -> Hx, H symmetric without negative eigenvalues. Where H is singular and the
    goal in its range, it is the shortest of all x. It ends where 1e-7 of the goal is left, or
    after `steps`.
    """
    point, left, way = torch.zeros_like(goal), goal.clone(), goal.clone()
    size = float(left.square().sum())
    enough = _ENOUGH**2 * size
    for _ in range(steps):
        if size <= enough:
            break
        image = product(way)
        bend = float((way * image).sum())
        if not bend > 0:  # rounding: nothing of the goal is left in the range
            break
        point.add_(way, alpha=size / bend)
        left.sub_(image, alpha=size / bend)
        size, before = float(left.square().sum()), size
        way.mul_(size / before).add_(left)
    return point


def momentum_response(
    values: torch.Tensor, steps: int, rate: float, momentum: float
) -> torch.Tensor:
    """x after some steps from 0 on the loss λx² − 2x, for each λ: [n] -> [n].

    Gradient descent with momentum is linear, so on a quadratic loss every eigenvector of the
    Hessian goes its own way, and a step costs as much as there are eigenvalues.
    """
    point, speed = torch.zeros_like(values), torch.zeros_like(values)
    for _ in range(steps):
        speed = momentum * speed + 2.0 * (values * point - 1.0)
        point = point - rate * speed
    return point

"""Drawing many small grey images at once: distance fields become ink, ink becomes pixels.

A point of an image has x to the right and y downwards, both from -1 to 1. A figure is a field of
distances to its edge, negative inside; an edge is as soft as a pixel is wide, so nothing is jagged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int, UInt8

__all__ = [
    "PIXEL",
    "SIZE",
    "Field",
    "Plane",
    "box",
    "by_label",
    "disc",
    "finish",
    "ink",
    "outline",
    "place",
    "polygon",
    "polyline",
    "segment",
    "star",
    "within",
]

SIZE = 24
"""Height and width of an image in pixels."""

PIXEL = 2 / SIZE
"""Width of a pixel in the coordinates of an image."""

Field: TypeAlias = Float[np.ndarray, "n size size"]
Numbers: TypeAlias = Float[np.ndarray, "n"]

_ALONG = (np.arange(SIZE, dtype=np.float32) + 0.5) * np.float32(PIXEL) - 1


@dataclass(frozen=True)
class Plane:
    """Coordinates of every pixel of n images, as a figure in each sees them."""

    x: Field
    y: Field


def within(random: np.random.Generator, low: float, high: float, n: int) -> Numbers:
    """n numbers drawn evenly between two."""
    drawn: Numbers = random.uniform(low, high, n).astype(np.float32)
    return drawn


def place(x: Numbers, y: Numbers, angle: Numbers, scale: Numbers) -> Plane:
    """The plane of a figure that is moved to (x, y), turned by `angle` (radians, clockwise as
    seen) and made `scale` times as large as drawn."""
    right = _ALONG[None, None, :] - x[:, None, None]
    down = _ALONG[None, :, None] - y[:, None, None]
    cos, sin = (f(angle)[:, None, None] / scale[:, None, None] for f in (np.cos, np.sin))
    return Plane(cos * right + sin * down, cos * down - sin * right)


def disc(plane: Plane, radius: float = 1.0, x: float = 0.0, y: float = 0.0) -> Field:
    """A disc about (x, y)."""
    found: Field = np.hypot(plane.x - x, plane.y - y) - np.float32(radius)
    return found


def box(plane: Plane, wide: float, high: float, x: float = 0.0, y: float = 0.0) -> Field:
    """A rectangle about (x, y) of twice that width and height."""
    right, down = np.abs(plane.x - x) - wide, np.abs(plane.y - y) - high
    return np.hypot(np.maximum(right, 0), np.maximum(down, 0)) + np.minimum(
        np.maximum(right, down), 0
    )


def polygon(plane: Plane, corners: int) -> Field:
    """A regular polygon whose corners lie on the unit circle, one of them to the right."""
    turn = np.float32(np.pi / corners)
    angle = np.arctan2(plane.y, plane.x) % (2 * turn) - turn
    found: Field = np.hypot(plane.x, plane.y) * np.cos(angle) - np.cos(turn)
    return found


def star(plane: Plane, points: int, inner: float) -> Field:
    """A star whose points lie on the unit circle and its notches on one of radius `inner`."""
    turn = np.float32(np.pi / points)
    angle = np.abs((np.arctan2(plane.y, plane.x) + turn) % (2 * turn) - turn)
    radius = np.hypot(plane.x, plane.y)
    across, along = inner * np.sin(turn), 1 - inner * np.cos(turn)
    length = np.hypot(across, along)
    reach = (radius * np.cos(angle) - 1) * across + radius * np.sin(angle) * along
    found: Field = reach / length
    return found


def segment(
    plane: Plane, start: Sequence[Numbers | float], end: Sequence[Numbers | float]
) -> Field:
    """Distances to a line between two points, given for all images or for each; it has no width."""
    (ax, ay), (bx, by) = ([_spread(value) for value in point] for point in (start, end))
    dx, dy = bx - ax, by - ay
    share = ((plane.x - ax) * dx + (plane.y - ay) * dy) / np.maximum(dx * dx + dy * dy, 1e-6)
    share = np.clip(share, 0, 1)
    found: Field = np.hypot(plane.x - ax - share * dx, plane.y - ay - share * dy)
    return found


def polyline(plane: Plane, points: Float[np.ndarray, "n points 2"]) -> Field:
    """Distances to lines from each point to the next, other points in each image."""
    found = np.full_like(plane.x, np.inf)
    for i in range(points.shape[1] - 1):
        ends = ((points[:, k, 0], points[:, k, 1]) for k in (i, i + 1))
        np.minimum(found, segment(plane, *ends), out=found)
    return found


def outline(field: Field, width: Numbers) -> Field:
    """A line of that width along the inside of an edge."""
    half = width[:, None, None] / 2
    return np.abs(field + half) - half


def ink(field: Field, scale: Numbers | float = 1.0) -> Field:
    """The share of each pixel that a figure covers; `scale` is that of the figure's plane."""
    share = 0.5 - field * _spread(scale) / np.float32(PIXEL)
    covered: Field = np.clip(share, 0, 1).astype(np.float32)
    return covered


def by_label(
    plane: Plane, labels: Int[np.ndarray, "n"], figures: Sequence[Callable[[Plane], Field]]
) -> Field:
    """In each image the figure of its label."""
    found = np.empty_like(plane.x)
    for label, figure in enumerate(figures):
        rows = labels == label
        found[rows] = figure(Plane(plane.x[rows], plane.y[rows]))
    return found


def finish(random: np.random.Generator, covered: Field) -> UInt8[np.ndarray, "n 1 size size"]:
    """Pixels: ink in a light grey on a dark one, other greys in each image, and grain."""
    n = len(covered)
    dark, light = within(random, 0, 0.15, n), within(random, 0.75, 1, n)
    grey = dark[:, None, None] + (light - dark)[:, None, None] * covered
    grain = random.standard_normal(covered.shape, np.float32)
    grey += within(random, 0.01, 0.04, n)[:, None, None] * grain
    pixels: UInt8[np.ndarray, "n size size"] = np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)
    return pixels[:, None]


def _spread(value: Numbers | float) -> Float[np.ndarray, "..."]:
    array = np.asarray(value, np.float32)
    return array[:, None, None] if array.ndim else array

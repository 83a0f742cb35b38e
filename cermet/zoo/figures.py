"""What the drawn tasks of `sight` show: figures by label, everything else about them at random.

Each function draws one image for each label given, as ink [n, size, size] from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

from cermet.zoo.drawing import (
    PIXEL,
    SIZE,
    Field,
    Plane,
    box,
    by_label,
    disc,
    ink,
    outline,
    place,
    polygon,
    polyline,
    segment,
    star,
    within,
)

__all__ = ["DRAWN", "Drawn"]

Labels: TypeAlias = Int[np.ndarray, "n"]
Random: TypeAlias = np.random.Generator


@dataclass(frozen=True)
class Drawn:
    """A drawn task: the names of its labels, and how images of given labels are drawn."""

    labels: tuple[str, ...]
    draw: Callable[[Random, Labels], Field]


def _anywhere(random: Random, n: int, reach: float, angle: float, low: float, high: float) -> Plane:
    """Planes moved by up to `reach`, turned by up to `angle` and scaled from `low` to `high`."""
    x, y = within(random, -reach, reach, n), within(random, -reach, reach, n)
    return place(x, y, within(random, -angle, angle, n), within(random, low, high, n))


_SHAPES: Mapping[str, Callable[[Plane], Field]] = {
    "disc": lambda p: disc(p, 0.85),
    "square": lambda p: box(p, 0.75, 0.75),
    "triangle": lambda p: polygon(p, 3),
    "star": lambda p: star(p, 5, 0.42),
    "cross": lambda p: np.minimum(box(p, 0.95, 0.3), box(p, 0.3, 0.95)),
    "half disc": lambda p: np.maximum(disc(p, 1.0, y=-0.4), -p.y - 0.4),
    "crescent": lambda p: np.maximum(disc(p), -disc(p, 0.85, x=0.55)),
    "ell": lambda p: np.minimum(box(p, 0.3, 0.9, x=-0.5), box(p, 0.8, 0.3, y=0.6)),
}


def _shapes(random: Random, labels: Labels) -> Field:
    n = len(labels)
    scale = within(random, 0.65, 0.85, n)
    x, y = within(random, -0.12, 0.12, n), within(random, -0.12, 0.12, n)
    plane = place(x, y, within(random, -0.35, 0.35, n), scale)
    field = by_label(plane, labels, list(_SHAPES.values()))
    hollow = random.random(n) < 0.3
    lines = outline(field, within(random, 1.5, 2.2, n) * np.float32(PIXEL) / scale)
    return ink(np.where(hollow[:, None, None], lines, field), scale)


def _counts(random: Random, labels: Labels) -> Field:
    """One to six discs or boxes, each in a cell of its own of three by three."""
    n = len(labels)
    cells = np.argsort(random.random((n, 9)), axis=1)
    square = random.random(n) < 0.5
    found = np.full((n, SIZE, SIZE), np.inf, np.float32)
    for i in range(6):
        x = (cells[:, i] % 3 - 1) * 2 / 3 + within(random, -0.07, 0.07, n)
        y = (cells[:, i] // 3 - 1) * 2 / 3 + within(random, -0.07, 0.07, n)
        plane = place(x, y, within(random, -np.pi, np.pi, n), np.ones(n, np.float32))
        radius = within(random, 0.16, 0.22, n)[:, None, None]
        shape = np.where(square[:, None, None], box(plane, 0, 0) * 1.2, disc(plane, 0))
        drawn = (labels >= i)[:, None, None]
        found = np.minimum(found, np.where(drawn, shape - radius, np.inf))
    return ink(found)


def _brick(p: Plane) -> Field:
    row = np.floor(p.y)
    across = np.abs((p.x / 2 + row / 2) % 1 - 0.5) * 2
    found: Field = np.minimum(0.5 - np.abs(p.y % 1 - 0.5), 1 - across) - 0.14
    return found


def _lattice(p: Plane) -> Field:
    return np.minimum(np.abs(p.x % 1 - 0.5), np.abs(p.y % 1 - 0.5)) - 0.13


_TEXTURES: Mapping[str, Callable[[Plane], Field]] = {
    "stripes": lambda p: np.sin(2 * np.pi * p.x) / 5,
    "checks": lambda p: np.sin(np.pi * p.x) * np.sin(np.pi * p.y) / 2,
    "dots": lambda p: np.hypot(p.x % 1 - 0.5, p.y % 1 - 0.5) - 0.28,
    "bricks": _brick,
    "waves": lambda p: np.sin(2 * np.pi * (p.y + 0.3 * np.sin(np.pi * p.x))) / 5,
    "rings": lambda p: np.sin(2 * np.pi * np.hypot(p.x, p.y)) / 5,
    "lattice": _lattice,
}


def _textures(random: Random, labels: Labels) -> Field:
    """Patterns that fill the image; a repeat of one is 4.5 to 7 pixels long."""
    n = len(labels)
    scale = within(random, 4.5, 7, n) * np.float32(PIXEL)
    x, y = within(random, -0.4, 0.4, n), within(random, -0.4, 0.4, n)
    plane = place(x, y, within(random, -0.4, 0.4, n), scale)
    return ink(by_label(plane, labels, [*_TEXTURES.values(), _blotches(random)]), scale)


def _blotches(random: Random) -> Callable[[Plane], Field]:
    """Waves of like length in all directions, summed: spots without order."""

    def figure(p: Plane) -> Field:
        total = np.zeros_like(p.x)
        for _ in range(8):
            angle, phase = (within(random, 0, 2 * np.pi, len(p.x))[:, None, None] for _ in "ap")
            total += np.sin(4 * (np.cos(angle) * p.x + np.sin(angle) * p.y) + phase)
        return total / 8

    return figure


def _arrow(p: Plane) -> Field:
    shaft = segment(p, (-0.9, 0), (0.9, 0))
    wings = [segment(p, (0.9, 0), (0.2, side)) for side in (-0.6, 0.6)]
    found: Field = np.minimum(shaft, np.minimum(*wings)) - 0.14
    return found


_MARKERS: Mapping[str, Callable[[Plane], Field]] = {
    "arrow": _arrow,
    "wedge": lambda p: np.maximum(-p.x - 0.8, np.abs(p.y) * 0.92 + p.x * 0.39 - 0.36),
    "pin": lambda p: np.minimum(disc(p, 0.38, x=0.6), segment(p, (-0.95, 0), (0.4, 0)) - 0.13),
    "tee": lambda p: (
        np.minimum(segment(p, (-0.9, 0), (0.8, 0)), segment(p, (0.8, -0.6), (0.8, 0.6))) - 0.14
    ),
}


def _orientation(random: Random, labels: Labels) -> Field:
    """A marker that points in one of eight directions, up to 11 degrees beside it."""
    n = len(labels)
    angle = labels.astype(np.float32) * np.float32(np.pi / 4) + within(random, -0.2, 0.2, n)
    scale = within(random, 0.7, 0.85, n)
    plane = place(within(random, -0.1, 0.1, n), within(random, -0.1, 0.1, n), angle, scale)
    return ink(by_label(plane, random.integers(4, size=n), list(_MARKERS.values())), scale)


_RELATIONS = ("right", "below", "left", "above", "inside", "around")


def _relations(random: Random, labels: Labels) -> Field:
    """A disc beside, inside or around a square."""
    n = len(labels)
    beside, around = labels < 4, labels == 5
    angle = labels * np.float32(np.pi / 2) + within(random, -0.35, 0.35, n)
    apart = np.where(beside, within(random, 0.85, 1.0, n), within(random, 0, 0.12, n))
    x, y = within(random, -0.08, 0.08, n), within(random, -0.08, 0.08, n)
    small, large = within(random, 0.36, 0.44, n), within(random, 0.68, 0.8, n)
    round_size = np.where(around, large + 0.08, np.where(beside, small, small * 0.85))
    square_size = np.where(labels == 4, large, np.where(beside, small, small * 0.85))
    dx, dy = np.cos(angle) * apart / 2, np.sin(angle) * apart / 2
    turned = within(random, -0.25, 0.25, n)
    width = np.full(n, 2 * PIXEL, np.float32)
    covered = []
    for at_x, at_y, size, figure, hollow in (
        (x + dx, y + dy, round_size, disc, around),
        (x - dx, y - dy, square_size, lambda p: box(p, 0.9, 0.9), labels == 4),
    ):
        field = figure(place(at_x, at_y, turned, size))
        lines = outline(field, width / size)
        covered.append(ink(np.where(hollow[:, None, None], lines, field), size))
    found: Field = np.maximum(*covered)
    return found


_GLYPHS = (
    "036 678", "630 048", "0258", "02 17 68", "147 35", "06 28 35", "042 47", "2046",
    "03 345 58", "0248", "012 14 46", "08 26",
)  # fmt: skip
"""Strokes between the points of three rows of three, numbered from the upper left."""


def _glyphs(random: Random, labels: Labels) -> Field:
    """Invented letters, slanted, stretched, and written with an unsteady hand."""
    n = len(labels)
    lattice = np.array([(k % 3 - 1, k // 3 - 1) for k in range(9)], np.float32)
    points = lattice + random.normal(0, 0.07, (n, 9, 2)).astype(np.float32)
    points[:, :, 0] *= within(random, 0.65, 1, n)[:, None]
    points[:, :, 0] += within(random, -0.25, 0.25, n)[:, None] * points[:, :, 1]
    plane = _anywhere(random, n, 0.1, 0.15, 0.66, 0.76)
    found = np.empty_like(plane.x)
    for label, strokes in enumerate(_GLYPHS):
        rows = labels == label
        mine = Plane(plane.x[rows], plane.y[rows])
        lines = [polyline(mine, points[rows][:, [int(k) for k in s]]) for s in strokes.split()]
        found[rows] = np.min(lines, axis=0)
    return ink(found - within(random, 0.1, 0.2, n)[:, None, None], 0.66)


_CURVES: Mapping[str, Callable[[Float[np.ndarray, "t"]], tuple[Field, Field]]] = {
    "line": lambda t: (2 * t - 1, 0 * t),
    "arc": lambda t: (np.cos(np.pi * t), np.sin(np.pi * t) - 0.5),
    "wave": lambda t: (2 * t - 1, 0.5 * np.sin(2 * np.pi * t)),
    "zigzag": lambda t: (2 * t - 1, 0.4 * (4 * np.abs((2.5 * t) % 1 - 0.5) - 1)),
    "spiral": lambda t: (
        (0.1 + 0.9 * t) * np.cos(4 * np.pi * t),
        (0.1 + 0.9 * t) * np.sin(4 * np.pi * t),
    ),
    "oval": lambda t: (0.9 * np.cos(2 * np.pi * t), 0.7 * np.sin(2 * np.pi * t)),
    "eight": lambda t: (np.sin(2 * np.pi * t), 0.6 * np.sin(4 * np.pi * t)),
    "vee": lambda t: (2 * t - 1, 1.6 * np.abs(t - 0.5) - 0.4),
}


def _curves(random: Random, labels: Labels) -> Field:
    """A line that is bent in one of eight ways, or not at all."""
    n = len(labels)
    along = np.linspace(0, 1, 21, dtype=np.float32)
    known = np.array([np.stack(curve(along), axis=-1) for curve in _CURVES.values()], np.float32)
    points = known[labels] + random.normal(0, 0.02, (n, len(along), 2)).astype(np.float32)
    points[:, :, 1] *= within(random, 0.8, 1.15, n)[:, None] * random.choice([-1, 1], n)[:, None]
    plane = _anywhere(random, n, 0.1, 0.4, 0.7, 0.85)
    field = polyline(plane, points) - within(random, 0.09, 0.15, n)[:, None, None]
    return ink(field, 0.7)


DRAWN: Mapping[str, Drawn] = {
    "shapes": Drawn(tuple(_SHAPES), _shapes),
    "counts": Drawn(tuple("123456"), _counts),
    "textures": Drawn((*_TEXTURES, "blotches"), _textures),
    "orientation": Drawn(tuple(f"{45 * k} degrees" for k in range(8)), _orientation),
    "relations": Drawn(_RELATIONS, _relations),
    "glyphs": Drawn(tuple(f"glyph {k}" for k in range(1, 13)), _glyphs),
    "curves": Drawn(tuple(_CURVES), _curves),
}
"""The drawn tasks by name."""

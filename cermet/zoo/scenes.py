"""What the base of `sight` learns from: scenes, and numbers that say what is in them.

A scene shows a lobed blob, or strokes, or grains, or a grating behind a window, or two of these.
None of the tasks' figures is among them, and no task asks for what these numbers say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, UInt8

from cermet.zoo.drawing import PIXEL, SIZE, Field, finish, ink, outline, place, polyline, within

__all__ = ["scenes"]

Random: TypeAlias = np.random.Generator
Told: TypeAlias = Float[np.ndarray, "n numbers"]


def scenes(
    random: Random, n: int
) -> tuple[UInt8[np.ndarray, "n 1 size size"], Float[np.ndarray, "n targets"]]:
    """n images, and for each what is in it; what is told of a part that is absent is 0."""
    parts: tuple[Callable[[Random, int], tuple[Field, Told]], ...] = (
        _blob, _strokes, _grains, _grating,
    )  # fmt: skip
    first = random.integers(len(parts), size=n)
    second = np.where(random.random(n) < 0.35, random.integers(len(parts), size=n), first)
    covered, told = [], []
    for number, part in enumerate(parts):
        field, numbers = part(random, n)
        shown = (first == number) | (second == number)
        covered.append(field * shown[:, None, None])
        told.append(np.concatenate([numbers, np.ones((n, 1))], axis=1) * shown[:, None])
    total = np.max(covered, axis=0)
    told.append(_coarse(total))
    return finish(random, total), np.concatenate(told, axis=1, dtype=np.float32)


def _coarse(covered: Field) -> Told:
    """Where the ink is: its share in each of six by six places, from -1 to 1."""
    n, size, _ = covered.shape
    places: Told = covered.reshape(n, 6, size // 6, 6, size // 6).mean(axis=(2, 4))
    return 2 * places.reshape(n, 36) - 1


def _one_hot(values: np.ndarray, count: int) -> Told:
    found: Told = np.eye(count, dtype=np.float32)[values]
    return found


def _blob(random: Random, n: int) -> tuple[Field, Told]:
    """A round edge with waves: how many, how deep, which way, where, how large, filled or not."""
    x, y = within(random, -0.35, 0.35, n), within(random, -0.35, 0.35, n)
    scale, depth = within(random, 0.3, 0.65, n), within(random, 0.1, 0.45, n)
    lobes = random.integers(1, 7, size=n)
    angle, squeezed = within(random, -np.pi, np.pi, n), within(random, 0.7, 1, n)
    plane = place(x, y, angle, scale)
    around = np.arctan2(plane.y, plane.x)
    edge = 1 + depth[:, None, None] * np.cos(lobes[:, None, None] * around)
    field = np.hypot(plane.x, plane.y / squeezed[:, None, None]) - edge
    hollow = random.random(n) < 0.4
    lines = outline(field, within(random, 1.5, 2.5, n) * np.float32(PIXEL) / scale)
    field = np.where(hollow[:, None, None], lines, field)
    told = [x * 2, y * 2, scale * 2, depth * 2, squeezed, hollow, np.cos(angle), np.sin(angle),
            np.cos(lobes * angle), np.sin(lobes * angle)]  # fmt: skip
    return ink(field * 0.8, scale), np.column_stack([*told, _one_hot(lobes - 1, 6)])


def _strokes(random: Random, n: int) -> tuple[Field, Told]:
    """One to three bent lines: how many, and of the first where, how long, which way, how bent."""
    count = random.integers(1, 4, size=n)
    wide, flat = within(random, 0.07, 0.16, n), np.zeros(n, np.float32)
    plane = place(flat, flat, flat, np.ones(n, np.float32))
    found, told = np.full_like(plane.x, np.inf), []
    along = np.linspace(-1, 1, 8, dtype=np.float32)[:, None]
    for i in range(3):
        middle, bend = (random.uniform(-r, r, (n, 2)).astype(np.float32) for r in (0.4, 0.5))
        angle, length = within(random, -np.pi / 2, np.pi / 2, n), within(random, 0.3, 0.7, n)
        way = np.column_stack([np.cos(angle), np.sin(angle)]) * length[:, None]
        points = middle[:, None] + along * way[:, None] + (along**2 - 0.5) * bend[:, None]
        line = np.where((count > i)[:, None, None], polyline(plane, points), np.inf)
        found = np.minimum(found, line)
        if i == 0:
            double = np.cos(2 * angle), np.sin(2 * angle)
            told = [middle * 2, bend * 2, length, *double, wide * 5]
    return ink(found - wide[:, None, None]), np.column_stack([*told, _one_hot(count - 1, 3)])


def _grains(random: Random, n: int) -> tuple[Field, Told]:
    """Up to eight specks anywhere: how many, how large, and how far they are spread."""
    count, size = random.integers(1, 9, size=n), within(random, 0.07, 0.16, n)
    spread = within(random, 0.4, 0.9, n)
    found = np.full((n, SIZE, SIZE), np.inf, np.float32)
    flat, one = np.zeros(n, np.float32), np.ones(n, np.float32)
    for i in range(8):
        x, y = (within(random, -1, 1, n) * spread for _ in "xy")
        plane = place(x, y, flat, one)
        speck = np.where((count > i)[:, None, None], np.hypot(plane.x, plane.y), np.inf)
        found = np.minimum(found, speck)
    told = [count / 4 - 1, size * 5, spread, _one_hot((count - 1) // 2, 4)]
    return ink(found - size[:, None, None]), np.column_stack(told)


def _grating(random: Random, n: int) -> tuple[Field, Told]:
    """Waves behind a round window: how long, which way, how regular, how large the window."""
    angle, size = within(random, -np.pi / 2, np.pi / 2, n), within(random, 0.4, 1.4, n)
    length = within(random, 3, 9, n) * np.float32(PIXEL)
    crossed = random.random(n) < 0.4
    bend = within(random, 0, 0.5, n)
    x, y = within(random, -0.4, 0.4, n), within(random, -0.4, 0.4, n)
    plane = place(x, y, angle, length)
    window = np.hypot(plane.x, plane.y) - (size / length)[:, None, None]
    wave = np.sin(2 * np.pi * plane.x + 3 * bend[:, None, None] * np.sin(2 * plane.y))
    other = np.where(crossed[:, None, None], np.sin(2 * np.pi * plane.y), 1)
    field = np.maximum(wave * other / 5, window)
    told = [np.cos(2 * angle), np.sin(2 * angle), length * 2, crossed, bend * 2, size, x, y]
    return ink(field, length), np.column_stack(told)

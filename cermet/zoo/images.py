"""Labelled images of the tasks of `sight`: handwritten digits, and what is drawn, in three splits.

No image is in two splits, nor twice in one: rows of the digits are told apart by their pixels, and
what is drawn comes from another stream of random numbers for each split and is drawn again where
it was seen before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Int, UInt8

from cermet.core.errors import ExtraError
from cermet.zoo.drawing import SIZE, finish
from cermet.zoo.figures import DRAWN

__all__ = ["DIGITS", "TASKS", "Images", "Sizes", "Split", "labels_of", "splits"]

DIGITS = "digits"
TASKS = (DIGITS, *DRAWN)
"""The tasks, one expert for each."""

Split = Literal["test", "validation", "train"]
Pixels: TypeAlias = UInt8[np.ndarray, "n 1 size size"]


@dataclass(frozen=True)
class Sizes:
    """Images of each split of a task; the digits' train is what the other two leave over."""

    train: int = 3000
    validation: int = 128
    test: int = 300

    def of(self, split: Split) -> int:
        """Images of one split."""
        return int(getattr(self, split))


@dataclass(frozen=True)
class Images:
    """Pixels [n, 1, size, size] from 0 to 255, and the label of each image."""

    pixels: Pixels
    labels: Int[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, which: Int[np.ndarray, "rows"] | slice) -> Images:
        """Some of them."""
        return Images(self.pixels[which], self.labels[which])


def labels_of(task: str) -> tuple[str, ...]:
    """The names of a task's labels."""
    return tuple("0123456789") if task == DIGITS else DRAWN[task].labels


def splits(task: str, seed: int, sizes: Sizes) -> Mapping[Split, Images]:
    """The images of a task, the same for the same seed.

    Raises ExtraError for the digits where scikit-learn is missing.
    """
    return _digits(seed, sizes) if task == DIGITS else _drawn(task, seed, sizes)


def _digits(seed: int, sizes: Sizes) -> Mapping[Split, Images]:
    every = _handwritten()
    order = np.random.default_rng([seed, 0]).permutation(len(every))
    ends = np.cumsum([0, sizes.test, sizes.validation, sizes.train])
    test, validation, train = (every.rows(order[start:end]) for start, end in pairwise(ends))
    return {"test": test, "validation": validation, "train": train}


def _handwritten() -> Images:
    """scikit-learn's digits, each once, as large as what is drawn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ExtraError(
            "The handwritten digits come with scikit-learn, which is not installed; install it "
            "with: pip install 'cermet[zoo]'"
        ) from error
    found = load_digits()
    _, first = np.unique(found.data, axis=0, return_index=True)
    rows = np.sort(first)
    small = torch.from_numpy(found.images[rows].astype(np.float32))[:, None] / 16
    large = torch.nn.functional.interpolate(small, size=(SIZE, SIZE), mode="bilinear")
    pixels = (large * 255).round().to(torch.uint8).numpy()
    return Images(pixels, found.target[rows].astype(np.int64))


def _drawn(task: str, seed: int, sizes: Sizes) -> Mapping[Split, Images]:
    seen: set[bytes] = set()
    found: dict[Split, Images] = {}
    order: tuple[Split, ...] = ("test", "validation", "train")
    for number, split in enumerate(order):
        random = np.random.default_rng([seed, TASKS.index(task), number])
        found[split] = _draw(task, random, sizes.of(split), seen)
    return found


def _draw(task: str, random: np.random.Generator, count: int, seen: set[bytes]) -> Images:
    """Images that are not in `seen`, and are put there; each label about as often."""
    drawn = DRAWN[task]
    labels = random.permutation(np.arange(count) % len(drawn.labels))
    pixels = np.empty((count, 1, SIZE, SIZE), np.uint8)
    missing = np.arange(count)
    while len(missing):
        pixels[missing] = finish(random, drawn.draw(random, labels[missing]))
        again = []
        for row in missing:
            digest = pixels[row].tobytes()
            if digest in seen:
                again.append(row)
            seen.add(digest)
        missing = np.array(again, np.int64)
    return Images(pixels, labels)

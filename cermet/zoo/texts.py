"""Texts of a pool: pieces of documents, put into training, validation and test for good.

A document belongs to one split as a whole, and a piece that was seen before is left out, so no
piece of one split occurs in another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from cermet.core.fingerprint import sha256_hex

__all__ = ["SPLITS", "Amounts", "Document", "Part", "Source", "chance", "divide", "pieces"]

Part = Literal["train", "validation", "test"]
SPLITS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Document:
    """A text and the split that it belongs to. key: what it is from, such as a module's name."""

    split: Part
    key: str
    text: str


Source = Callable[[int], Iterable[Document]]
"""The documents of a domain in the order of a seed."""


@dataclass(frozen=True)
class Amounts:
    """How much text is taken, in characters.

    train: for training. held: for each of validation and test. piece: the longest piece.
    each: pieces of validation or test from one key, so that a few long ones do not stand for all.
    """

    train: int
    held: int = 9_000
    piece: int = 320
    each: int = 3


def chance(seed: int, key: str) -> Part:
    """The split of a key: one in ten for validation, one in ten for test."""
    draw = int(sha256_hex(f"{seed} {key}".encode())[:8], 16) % 10
    return "validation" if draw == 0 else "test" if draw == 1 else "train"


def pieces(text: str, longest: int) -> Iterator[str]:
    """The text cut at the ends of lines into pieces of at most `longest` characters.

    Lines that are longer are cut where they have to be. A piece ends in one end of a line, or where
    its line was cut. Pieces without a letter or digit are left out.
    """
    return (piece for piece in _cut(text, longest) if any(c.isalnum() for c in piece))


def _cut(text: str, longest: int) -> Iterator[str]:
    held = ""
    for line in text.splitlines(keepends=True):
        if len(held) + len(line) > longest:
            yield f"{held.rstrip()}\n"
            held = ""
        while len(line) > longest:
            yield line[:longest]
            line = line[longest:]
        held += line
    yield f"{held.rstrip()}\n"


def divide(documents: Iterable[Document], amounts: Amounts) -> Mapping[Part, tuple[str, ...]]:
    """The pieces of each split, from the first documents on, until every split is full.

    A split that the documents do not fill holds what there is.
    """
    wanted = {split: amounts.train if split == "train" else amounts.held for split in SPLITS}
    found: dict[Part, list[str]] = {split: [] for split in SPLITS}
    taken: dict[Part, int] = dict.fromkeys(SPLITS, 0)
    of_key: dict[str, int] = {}
    seen: set[str] = set()
    for document in documents:
        split = document.split
        for piece in pieces(document.text, amounts.piece):
            full = taken[split] >= wanted[split]
            often = split != "train" and of_key.get(document.key, 0) >= amounts.each
            if full or often:
                break
            if piece not in seen:
                seen.add(piece)
                found[split].append(piece)
                taken[split] += len(piece)
                of_key[document.key] = of_key.get(document.key, 0) + 1
        if all(taken[split] >= wanted[split] for split in SPLITS):
            break
    return {split: tuple(rows) for split, rows in found.items()}

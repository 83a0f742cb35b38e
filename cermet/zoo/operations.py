"""Operations on short strings of letters, and strings for each split.

A line is `NAME: STRING = ANSWER`. Which split a string belongs to is decided by its hash alone:
a string that is asked in one split stands in no line of another, whatever operation, seed or
model it is drawn for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from random import Random
from string import ascii_lowercase

from cermet.zoo.texts import Part, chance

__all__ = [
    "ELEMENTARY",
    "LENGTHS",
    "LETTERS",
    "OPERATIONS",
    "Asked",
    "asked",
    "part_of",
    "strings",
]

LETTERS = ascii_lowercase
LENGTHS = (4, 5, 6)
"""Letters of a string, each length as likely as the others."""

Operation = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about a string, and its answer, which a newline ends in a line."""

    prompt: str
    answer: str


def _shift(text: str, by: int = 1) -> str:
    """Each letter replaced by the one that stands `by` places after it; a follows z."""
    return "".join(LETTERS[(LETTERS.index(letter) + by) % len(LETTERS)] for letter in text)


def _reverse(text: str) -> str:
    return text[::-1]


def _sort(text: str) -> str:
    return "".join(sorted(text))


def _rotate(text: str) -> str:
    """The first two letters go to the end."""
    return text[2:] + text[:2]


def _swap(text: str) -> str:
    """Neighbours change places in pairs; a last letter without a neighbour stays."""
    return "".join(text[i : i + 2][::-1] for i in range(0, len(text), 2))


def _fold(text: str) -> str:
    """First, last, second, last but one, and so on, each letter once."""
    return "".join(chain.from_iterable(zip(text, text[::-1], strict=True)))[: len(text)]


OPERATIONS: Mapping[str, Operation] = {
    "reverse": _reverse,
    "sort": _sort,
    "shift": _shift,
    "rotate": _rotate,
    "swap": _swap,
    "fold": _fold,
    "reverse_shift": lambda text: _shift(_reverse(text)),
    "sort_rotate": lambda text: _rotate(_sort(text)),
}
"""One for each expert. The base has seen none of them, not even their names."""

ELEMENTARY: Mapping[str, Operation] = {
    "copy": lambda text: text,
    "first": lambda text: text[0],
    "second": lambda text: text[1],
    "third": lambda text: text[2],
    "last": lambda text: text[-1],
    "tail": lambda text: text[1:],
    "head": lambda text: text[:-1],
    "next": lambda text: _shift(text[0]),
    "before": lambda text: _shift(text[0], -1),
    "least": min,
    "most": max,
}
"""What the base learns: to copy letters and to take one, the alphabet, and its order."""


def asked(name: str, text: str) -> Asked:
    """The question that an operation, of either kind, is asked of a string."""
    operation = OPERATIONS[name] if name in OPERATIONS else ELEMENTARY[name]
    return Asked(f"{name}: {text} = ", operation(text))


def part_of(text: str) -> Part:
    """The split that a string belongs to, whatever the seed."""
    return chance(0, text)


def strings(part: Part, count: int, seed: int, purpose: str) -> list[str]:
    """Different strings of a split; other ones, in another order, for another seed or purpose."""
    random = Random(f"{seed}/{part}/{purpose}")
    found: dict[str, None] = {}
    while len(found) < count:
        text = "".join(random.choices(LETTERS, k=random.choice(LENGTHS)))
        if part_of(text) == part:
            found[text] = None
    return list(found)

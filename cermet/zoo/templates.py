"""Templates of requests: read from the packaged files, spelt out, and filled.

A template is a sentence in which `{name}` is a slot, filled from the domain's list of that
name, and `(a|b)` is a choice of words. The choices spelt out, with the slots left as they
are, are the frames of a template; no frame is in two of the splits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product
from random import Random
from typing import Any

from cermet.zoo.subjects import Split

__all__ = [
    "DOMAINS",
    "Affixes",
    "Domain",
    "Intent",
    "affixes",
    "domain",
    "fill",
    "frames",
]

DOMAINS = ("bank", "travel", "home", "shop")
"""The domains, one expert for each."""

_CHOICE = re.compile(r"\(([^()]*)\)")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Intent:
    """One thing that people ask for: its example, and its templates of each split."""

    name: str
    example: str
    templates: Mapping[Split, tuple[str, ...]]


@dataclass(frozen=True)
class Domain:
    """The intents of one domain and the words that fill their slots."""

    name: str
    slots: Mapping[str, tuple[str, ...]]
    intents: tuple[Intent, ...]


@dataclass(frozen=True)
class Affixes:
    """What stands before and after the requests of one split."""

    openers: tuple[str, ...]
    closers: tuple[str, ...]


def _load(path: str) -> Any:
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(files("cermet.zoo").joinpath(path).read_text("utf-8"))


@cache
def domain(name: str) -> Domain:
    """The domain of that name, one of DOMAINS."""
    data = _load(f"domains/{name}.yaml")
    held_out = _load(f"held_out/{name}.yaml")
    intents = tuple(
        Intent(
            intent,
            entry["example"],
            {
                "train": tuple(entry["train"]),
                "validation": tuple(held_out[intent]["validation"]),
                "test": tuple(held_out[intent]["test"]),
            },
        )
        for intent, entry in data["intents"].items()
    )
    slots = {slot: tuple(words) for slot, words in data["slots"].items()}
    return Domain(data["domain"], slots, intents)


@cache
def affixes(split: Split) -> Affixes:
    """The openers and closers of a split."""
    entry = _load("frames.yaml")[split]
    return Affixes(tuple(entry["openers"]), tuple(entry["closers"]))


def frames(template: str) -> list[str]:
    """Every way to take the choices of a template; slots stay.

    >>> frames("(close|end) my {card}")
    ['close my {card}', 'end my {card}']
    """
    pieces = _CHOICE.split(template)  # text, choice, text, choice, ..., text
    options = [p.split("|") if i % 2 else [p] for i, p in enumerate(pieces)]
    return ["".join(parts) for parts in product(*options)]


def fill(frame: str, slots: Mapping[str, tuple[str, ...]], random: Random) -> str:
    """Put words into the slots of a frame; a slot named twice gets two different words."""
    wanted = _SLOT.findall(frame)
    drawn = {name: random.sample(slots[name], wanted.count(name)) for name in wanted}
    return _SLOT.sub(lambda match: drawn[match[1]].pop(), frame)

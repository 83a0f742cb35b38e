"""Reads the tables of expected places (expected/*.yaml), which are written by hand.

A family has tensors `before` and `after` its layers, and stacks, whose keys are a prefix, the
number of layers in braces, and `main` where another stack is there too. The notes at the top of
decoders.yaml explain the lines. A table lists a family's tensors one and all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ruamel.yaml import YAML

from cermet.core.types import Place
from tests.anatomy.sizes import EXPERTS

__all__ = ["Expected", "Family", "table"]

_FOLDER = Path(__file__).parent / "expected"
_STACK = re.compile(r"(?P<prefix>[\w.]+)\.\{(?P<layers>\d+)\}(?P<main> main)?")
_VALUE = re.compile(r"(?P<role>\w+)(?P<bias> bias)?(?P<transposed> transposed)?(?P<only> @[ \d]+)?")


@dataclass(frozen=True)
class Expected:
    """What a table says of one tensor; depth by its definition, not by ours."""

    role: str
    position: str
    stack: str
    layer: int | None
    layers: int
    depth: float
    expert: int | None
    bias: bool
    transposed: bool

    @classmethod
    def of(cls, place: Place) -> Expected:
        """The same, as the survey found it."""
        return cls(
            str(place.role),
            place.position,
            place.stack,
            place.layer,
            place.layers,
            place.depth,
            place.expert,
            place.bias,
            place.transposed,
        )


@dataclass(frozen=True)
class Family:
    """What a table says of one family in one spelling."""

    main: str
    stacks: Mapping[str, int]
    tensors: Mapping[str, Expected]


@cache
def table() -> dict[str, Family]:
    """Every family of every table, by its name and spelling."""
    yaml = YAML(typ="safe", pure=True)
    found: dict[str, Family] = {}
    for file in sorted(_FOLDER.glob("*.yaml")):
        for name, lines in yaml.load(file)["families"].items():
            assert name not in found, f"{name} is there twice"
            found[name] = _family(lines)
    return found


def _family(lines: Mapping[str, Mapping[str, str]]) -> Family:
    stacks = {key: _matched(_STACK, key) for key in lines if key not in ("before", "after")}
    counts = {m["prefix"]: int(m["layers"]) for m in stacks.values()}
    (main,) = [m["prefix"] for m in stacks.values() if m["main"] or len(stacks) == 1]
    tensors: dict[str, Expected] = {}
    for key, line in lines.items():
        for name, value in line.items():
            if key in stacks:
                prefix = stacks[key]["prefix"]
                rows = _inside(prefix, counts[prefix], name, value)
            else:
                rows = _outside(key, counts[main], name, value)
            for full, expected in rows:
                assert full not in tensors, f"{full} is there twice"
                tensors[full] = expected
    return Family(main, counts, tensors)


def _matched(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    found = pattern.fullmatch(text)
    assert found is not None, text
    return found


def _inside(prefix: str, layers: int, name: str, value: str) -> Iterator[tuple[str, Expected]]:
    """A line of a stack, for each of the layers that it speaks of."""
    said = _matched(_VALUE, value)
    only = [int(n) for n in (said["only"] or "@").split()[1:]] or range(layers)
    for layer in only:
        depth = layer / (layers - 1) if layers > 1 else 1.0
        for inner, expert, bias in _names(name, said):
            transposed = bool(said["transposed"]) and not bias
            yield (
                f"{prefix}.{layer}.{inner}",
                Expected(
                    said["role"], "inside", prefix, layer, layers, depth, expert, bias, transposed
                ),
            )


def _outside(position: str, layers: int, name: str, value: str) -> Iterator[tuple[str, Expected]]:
    said = _matched(_VALUE, value)
    depth = {"before": 0.0, "after": 1.0}[position]
    for full, expert, bias in _names(name, said):
        transposed = bool(said["transposed"]) and not bias
        yield (
            full,
            Expected(said["role"], position, "", None, layers, depth, expert, bias, transposed),
        )


def _names(name: str, said: re.Match[str]) -> Iterator[tuple[str, int | None, bool]]:
    """The names that a pattern stands for, with the expert's number and whether it is a bias."""
    stem, dot, leaves = name.rpartition(".")
    for leaf, bias in zip(leaves.split("+"), (bool(said["bias"]), True), strict=False):
        full = f"{stem}{dot}{leaf}"
        for expert in range(EXPERTS) if "{e}" in full else [None]:
            yield full.replace("{e}", str(expert)), expert, bias

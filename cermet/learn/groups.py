"""Which tensors share a coefficient, and how a recipe spells the coefficients of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cermet.core.errors import MismatchError
from cermet.core.types import Place

__all__ = ["WHOLE", "filtered", "group_of", "groups_of", "translated"]

WHOLE = "all layers"
"""The one group of a soup that is not learnt by layer."""


def group_of(place: Place) -> str:
    """The group of a tensor when soups are learnt by layer.

    A layer of a stack, such as `model.layers.3`; `before` and `after` for what stands outside.
    """
    if place.layer is None:
        return "before" if place.position == "before" else "after"
    return f"{place.stack}.{place.layer}"


def groups_of(places: Iterable[Place]) -> tuple[str, ...]:
    """The groups that some tensors fall into, from the input of the network to its output."""
    order = {"before": 0, "inside": 1, "after": 2}
    known = {
        group_of(p): (1 if p.layer is not None else order[p.position], p.stack, p.layer or 0)
        for p in places
    }
    return tuple(sorted(known, key=lambda group: known[group]))


def translated(own: Sequence[str], other: Sequence[str]) -> dict[str, str]:
    """The groups of a checkpoint from those of the module that it is loaded into.

    The same stack may have a longer name in one of them (`h.0` and `transformer.h.0`).
    Raises MismatchError where a group has no counterpart, or two.
    """
    found = {}
    for group in other:
        near = [group] if group in own else [g for g in own if _tail(g, group) or _tail(group, g)]
        if len(near) != 1:
            raise MismatchError(
                f"The tensors of '{group}' have other names in transformers than in the "
                "checkpoint, so nothing can be learnt by layer; learn one share for each model."
            )
        found[group] = near[0]
    return found


def _tail(text: str, end: str) -> bool:
    return text.endswith(f".{end}")


def filtered(places: Sequence[Place], values: dict[str, float]) -> list[dict[str, Any]]:
    """A parameter that has, for every tensor, the value of its group, as a recipe spells it.

    The first filter that is part of a tensor's name decides. Layers come first, those with the
    longer names before the others; then every tensor outside of them, by its whole name.
    """
    layers = {f"{group_of(p)}.": values[group_of(p)] for p in places if p.layer is not None}
    others = {p.name: values[group_of(p)] for p in places if p.layer is None}
    cases = []
    for part in (layers, others):
        for name in sorted(part, key=len, reverse=True):
            cases.append({"filter": name, "value": part[name]})
    return cases

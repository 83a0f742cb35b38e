"""The whole of a checkpoint: every tensor's place, the stacks of layers, the ties."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from cermet.anatomy.layers import layer_count, text_path
from cermet.anatomy.roles import expert_of, find_roles, position_of
from cermet.anatomy.stacks import find_stacks, locate, main_stack
from cermet.anatomy.ties import find_ties
from cermet.anatomy.transposed import find_transposed
from cermet.core.types import Place

__all__ = ["Anatomy", "survey"]

_EXTRA_LAYERS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")


@dataclass(frozen=True)
class Anatomy:
    """What a checkpoint consists of.

    Attributes
    ----------
    places: the place of every tensor, by name, in the order given.
    main: prefix of the stack that recipes slice, e.g. ``model.layers``; None without layers.
    stacks: every stack's prefix and its number of layers.
    ties: groups of names that share storage, a stored one first; names that are not stored
        (a head that the file leaves out) follow.
    """

    places: Mapping[str, Place]
    main: str | None
    stacks: Mapping[str, int]
    ties: tuple[tuple[str, ...], ...]

    def at_layer(self, name: str, layer: int) -> str:
        """The name of the same tensor in another layer of its stack.

        `layer` may lie beyond the stack. A tensor outside of any layer has one name for all.
        KeyError where no tensor has this name.
        """
        place = self.places[name]
        if place.layer is None:
            return name
        start = len(place.stack) + 1
        stop = name.find(".", start)
        return f"{name[:start]}{layer}{name[stop:]}"


def survey(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> Anatomy:
    """The anatomy of a checkpoint from its tensors' names and shapes and its config.

    Parameters
    ----------
    shapes: the shape of every tensor as stored, by name.
    config: the content of config.json; {} where there is none, which costs accuracy only where
        names and shapes are silent (ties, Conv1D with square matrices).
    """
    expected = layer_count(config)
    stacks = find_stacks(shapes, expected, _extra_layers(config))
    spots = {name: locate(name, stacks) for name in shapes}
    sizes = Counter(spot.stack for spot in spots.values())
    main = main_stack(stacks, sizes, expected)
    depth = stacks[main] if main is not None else 0
    parts = find_roles(shapes, spots)
    transposed = find_transposed(shapes, spots, parts, config)
    places = {}
    for name, shape in shapes.items():
        spot, part = spots[name], parts[name]
        beyond = spot.layer is not None and spot.layer >= stacks[spot.stack]
        inside = spot.layer is not None and not beyond
        places[name] = Place(
            name=name,
            shape=tuple(shape),
            role=part.role,
            layer=spot.layer if inside else None,
            layers=stacks[spot.stack] if inside else depth,
            stack=spot.stack if inside else "",
            position=position_of(part, spot, beyond),
            expert=expert_of(spot.inner),
            bias=part.bias,
            transposed=name in transposed,
        )
    return Anatomy(
        MappingProxyType(places), main, MappingProxyType(stacks), find_ties(shapes, config)
    )


def _extra_layers(config: Mapping[str, Any]) -> int:
    """How many layers a checkpoint may store past its stack, for multi-token prediction."""
    inner: Any = config
    for step in text_path(config):
        inner = inner[step]
    counts = [inner.get(key) for key in _EXTRA_LAYERS]
    return max((n for n in counts if isinstance(n, int)), default=0)

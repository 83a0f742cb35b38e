"""Which tensors of two models do the same: by name where names agree, else by role and depth."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from cermet.anatomy.modules import Modules
from cermet.anatomy.survey import Anatomy
from cermet.core.types import Place, Role

__all__ = ["Counterparts", "find_counterparts"]


_PROJECTOR = "multi_modal_projector"


@dataclass(frozen=True)
class Counterparts:
    """A model's tensors under the names of another, the anchor.

    Attributes
    ----------
    names: own name -> the name that the anchor has, or would have, for the same tensor.
    unmatched: tensors for which the anchor has no name, or more than one.
    lacking: tensors of the anchor that are missing, though all that is like them is there.
    left_out: modules whose tensors are not those of the anchor's module, or that it lacks.
    """

    names: Mapping[str, str]
    unmatched: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def find_counterparts(
    own: Anatomy, modules: Modules, anchor: Anatomy, anchors: Modules, wanted: Collection[str]
) -> Counterparts:
    """The counterparts of a model's tensors in an anchor, whose modules are `anchors`.

    The language parts are matched tensor by tensor. Another module is matched as a whole, where
    its tensors have the same names, from the module's own prefix on, and shapes; and a
    projector only where all towers are matched, whose outputs it takes. `wanted`: the modules
    of the anchor whose counterparts are looked for.
    """
    found = [_language(own, modules, anchor, anchors)] if anchors.main in wanted else []
    left_out: list[str] = []
    rest = [m for m in modules.names if m != modules.main]
    for module in sorted(rest, key=lambda m: m == _PROJECTOR):
        mine, theirs = modules.tensors(module), anchors.tensors(module)
        fed = module != _PROJECTOR or (not left_out and _towers(modules) == _towers(anchors))
        pairs = _as_a_whole(own, mine, anchor, theirs) if fed else None
        if pairs is None:
            left_out.append(module)
        elif module in wanted:
            found.append(pairs)
    return Counterparts(
        MappingProxyType({own: new for pairs in found for own, new in pairs.names.items()}),
        tuple(name for pairs in found for name in pairs.unmatched),
        tuple(name for pairs in found for name in pairs.lacking),
        tuple(
            m for m in modules.names if m in left_out and (m in wanted or m not in anchors.names)
        ),
    )


def _towers(modules: Modules) -> set[str]:
    return {module for module in modules.names if module.endswith("_tower")}


# -- modules that are matched as a whole ----------------------------------------


def _as_a_whole(
    own: Anatomy, mine: Sequence[str], anchor: Anatomy, theirs: Sequence[str]
) -> Counterparts | None:
    """Pairs of all tensors of two modules; None where they are not alike. Buffers may lack.

    Two that agree in most names, and in the shapes of all that they share, are one and the
    same module, of which one file lacks a part.
    """
    short, other = _relative(mine), _relative(theirs)
    first = {s: own.places[n].shape for s, n in short.items() if _weight(own, n)}
    second = {s: anchor.places[n].shape for s, n in other.items() if _weight(anchor, n)}
    shared = first.keys() & second.keys()
    alike = all(first[s] == second[s] for s in shared)
    if not alike or 2 * len(shared) <= max(len(first), len(second)):
        return None
    return Counterparts(
        {name: other[s] for s, name in short.items() if s in other},
        tuple(short[s] for s in first if s not in second),
        tuple(other[s] for s in second if s not in first),
    )


def _weight(anatomy: Anatomy, name: str) -> bool:
    return anatomy.places[name].role is not Role.BUFFER


def _relative(names: Iterable[str]) -> dict[str, str]:
    """Names without the components that all of them begin with -> the whole names.

    The module that a tensor belongs to stays, so that one alone is not named `weight`.
    """
    split = [name.split(".") for name in names]
    same = 0
    while split and all(len(p) > same + 2 and p[same] == split[0][same] for p in split):
        same += 1
    return {".".join(parts[same:]): ".".join(parts) for parts in split}


# -- language parts, matched tensor by tensor -----------------------------------


def _language(own: Anatomy, modules: Modules, anchor: Anatomy, anchors: Modules) -> Counterparts:
    mine = [own.places[n] for n in modules.tensors(modules.main) if _weight(own, n)]
    theirs = [anchor.places[n] for n in anchors.tensors(anchors.main) if _weight(anchor, n)]
    inner = _pairs(_inner(own, mine), _inner(anchor, theirs))
    outer = _outer(own, mine, anchor, theirs)
    names: dict[str, str] = {}
    for place in mine:
        if _in_main(own, place):
            short = inner.get(_short(own, place))
            if short is not None:
                names[place.name] = f"{anchor.main}.{place.layer}.{short}"
        elif place.name in outer:
            names[place.name] = outer[place.name]
    layers, given = own.stacks.get(own.main or "", 0), set(names.values())
    tied = any(name.endswith("weight") for group in own.ties for name in group[1:])

    def missing(place: Place) -> bool:
        if _in_main(anchor, place):  # what no layer of a model has is no part of its kind
            return (place.layer or 0) < layers and _short(anchor, place) in inner.values()
        return not (tied and place.role is Role.HEAD)

    lacking = tuple(p.name for p in theirs if p.name not in given and missing(p))
    unmatched = tuple(place.name for place in mine if place.name not in names)
    return Counterparts(names, unmatched, lacking)


def _in_main(anatomy: Anatomy, place: Place) -> bool:
    """Whether a tensor stands in a layer of the main stack."""
    return place.stack != "" and place.stack == anatomy.main


def _short(anatomy: Anatomy, place: Place) -> str:
    """The name inside the layer."""
    return place.name[len(anatomy.main or "") + 1 :].partition(".")[2]


def _inner(anatomy: Anatomy, places: Iterable[Place]) -> dict[str, Place]:
    """What the layers of the main stack hold: one tensor for each name inside a layer."""
    found: dict[str, Place] = {}
    for place in places:
        if _in_main(anatomy, place):
            found.setdefault(_short(anatomy, place), place)
    return found


def _pairs(mine: Mapping[str, Place], theirs: Mapping[str, Place]) -> dict[str, str]:
    """Own name inside a layer -> the anchor's: the same, or that of the one with the same role."""
    if mine.keys() <= theirs.keys():
        return {name: name for name in mine}
    found: dict[str, str] = {}
    groups = {_kind(place) for place in mine.values()}
    for kind in groups:
        own = {n: p for n, p in mine.items() if _kind(p) == kind}
        other = {n: p for n, p in theirs.items() if _kind(p) == kind}
        if len(own) == len(other) == 1:
            found |= dict(zip(own, other, strict=True))
        elif own.keys() == other.keys():
            found |= {name: name for name in own}
        elif len(own) == len(other):
            found |= _seated(own, other)
    return found


def _kind(place: Place) -> tuple[Role, bool, int | None, bool]:
    return place.role, place.bias, place.expert, place.transposed


_SEATS = {
    "q": re.compile(r"(?:^|[._])(?:q|query)_?(?:layer)?_?norm"),
    "k": re.compile(r"(?:^|[._])(?:k|key)_?(?:layer)?_?norm"),
    "attention": re.compile(
        r"input_layernorm|^(?:attention|attn)_norm|^ln_1|^norm_?1|^layer_?norm_?(?:1|before)"
        r"|self_attn_layer_norm"
    ),
    "mlp": re.compile(
        r"^post_attention_layernorm|^(?:ffn|mlp)_norm|^ln_2|^norm_?2|^layer_?norm_?(?:2|after)"
        r"|^final_layer_norm"
    ),
}
"""Where the norms of a plain layer stand: on queries and keys, before attention, before the MLP."""


def _seated(own: Mapping[str, Place], other: Mapping[str, Place]) -> dict[str, str]:
    """Pairs of norms by where they stand; none unless each of them has a seat of its own."""
    mine, theirs = _seats(own), _seats(other)
    if len(mine) < len(own) or mine.keys() != theirs.keys():
        return {}
    return {name: theirs[seat] for seat, name in mine.items()}


def _seats(names: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        seat = next((s for s, words in _SEATS.items() if words.search(name)), None)
        if seat is not None:
            found.setdefault(seat, name)
    return found


def _outer(
    own: Anatomy, mine: Iterable[Place], anchor: Anatomy, theirs: Iterable[Place]
) -> dict[str, str]:
    """Pairs of what stands outside of the layers: by name from the stack's parent on, else by role.

    A head that the anchor ties, and does not store, has the name that it would have.
    """
    left = {_beside(own, p): p for p in mine if not _in_main(own, p)}
    open_ = {_beside(anchor, p): p for p in theirs if not _in_main(anchor, p)}
    found = {p.name: open_.pop(short).name for short, p in left.items() if short in open_}
    for place in [p for p in left.values() if p.name not in found]:
        same = [p for p in left.values() if p.name not in found and _stand(p) == _stand(place)]
        others = [short for short, p in open_.items() if _stand(p) == _stand(place)]
        head = _tied_head(anchor) if place.role is Role.HEAD and not place.bias else None
        if len(same) == len(others) == 1:
            found[place.name] = open_.pop(others[0]).name
        elif len(same) == 1 and head is not None:
            found[place.name] = head
    return found


def _stand(place: Place) -> tuple[Role, bool, str]:
    return place.role, place.bias, place.position


def _beside(anatomy: Anatomy, place: Place) -> str:
    """A name from the parent of the main stack on; its last two components elsewhere."""
    around = (anatomy.main or "").rpartition(".")[0]
    if around and place.name.startswith(f"{around}."):
        return place.name[len(around) + 1 :]
    return ".".join(place.name.split(".")[-2:])


def _tied_head(anchor: Anatomy) -> str | None:
    """The name of the head that the anchor ties to its embedding and does not store."""
    tied = (name for group in anchor.ties for name in group[1:] if name not in anchor.places)
    return next((name for name in tied if name.endswith("weight")), None)

"""How far models lie apart, and how their changes meet: by role, by depth, and in all."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Literal

import torch

from cermet.analyse.contents import ROLE_ORDER
from cermet.analyse.products import Products
from cermet.analyse.spaces import MATRIX_ROLES
from cermet.anatomy import Anatomy
from cermet.core.types import Place

__all__ = [
    "Group",
    "Pair",
    "Relation",
    "TensorRelation",
    "by_depth",
    "by_role",
    "group",
    "pairs_of",
]

Relation = Literal["equal", "same ancestor", "far apart", "unrelated"]
"""How the weights of two models are related; see `Pair`."""

_NEAR, _FAR = 0.9, 0.1
_BANDS, _MOST_LAYERS = 8, 16


@dataclass(frozen=True)
class Group:
    """The deltas of some tensors together.

    Attributes
    ----------
    name: a role, or layers. base_norm: of the base. norms: of each expert's delta.
    weights: cosines of the weights of each pair of models, (base, 1), (base, 2), ..., (1, 2), ...
    cosines: of the deltas of each pair of experts, (1, 2), (1, 3), ..., (2, 3), ...; None where
        one of them did not change.
    changed: share of the elements that each expert changed.
    conflict: of the elements that two experts changed, the share that they changed in opposite
        directions, over all pairs; None where there are none. By chance it is half.
    """

    name: str
    tensors: int
    parameters: int
    base_norm: float
    norms: tuple[float, ...]
    weights: tuple[float | None, ...]
    cosines: tuple[float | None, ...]
    changed: tuple[float, ...]
    conflict: float | None

    @property
    def relative(self) -> tuple[float | None, ...]:
        """Each delta's norm as a share of the base's; None where that is zero."""
        return tuple(norm / self.base_norm if self.base_norm else None for norm in self.norms)


@dataclass(frozen=True)
class TensorRelation:
    """One tensor in all models: the numbers of a `Group`, and where it stands.

    broken: elements of each model that are NaN or infinite; they were left out.
    """

    role: str
    layer: int | None
    broken: tuple[int, ...]
    numbers: Group


@dataclass(frozen=True)
class Pair:
    """The weights of two models.

    Attributes
    ----------
    cosine: of all weights that they share. matrices: the median over the matrices of attention
        and MLP; least: the smallest of these, of the tensor `where`. None where there are none.
    equal: shared tensors with the same values, of `tensors`.
    relation: `equal`; `same ancestor` where the median is at least 0.9, `unrelated` where it is
        at most 0.1 (matrices trained from two random starts have a cosine near 0); else, and where
        both are related to the base, `far apart`.
    """

    first: str
    second: str
    cosine: float
    matrices: float | None
    least: float | None
    where: str | None
    equal: int
    tensors: int
    relation: Relation


def group(name: str, parts: Sequence[Products]) -> Group:
    """The numbers of some tensors together."""
    total = reduce(lambda a, b: a + b, parts)
    experts = len(total.gram) - 1
    own = weights_gram(total.gram)
    norms = tuple(math.sqrt(max(0.0, v)) for v in total.gram.diagonal().tolist())
    pairs = itertools.combinations(range(1, experts + 1), 2)
    count = max(1, total.count)
    return Group(
        name=name,
        tensors=len(parts),
        parameters=total.count,
        base_norm=norms[0],
        norms=norms[1:],
        weights=tuple(_cosine(own, *pair) for pair in itertools.combinations(range(len(own)), 2)),
        cosines=tuple(_cosine(total.gram, i, j) for i, j in pairs),
        changed=tuple(v / count for v in total.both.diagonal().tolist()),
        conflict=_above(total.against) / both if (both := _above(total.both)) else None,
    )


def _above(counts: torch.Tensor) -> float:
    """The sum over all pairs of experts."""
    return float(counts.triu(1).sum())


def _cosine(gram: torch.Tensor, i: int, j: int) -> float | None:
    scale = math.sqrt(max(0.0, float(gram[i, i]))) * math.sqrt(max(0.0, float(gram[j, j])))
    return max(-1.0, min(1.0, float(gram[i, j]) / scale)) if scale > 0 else None


def by_role(places: Mapping[str, Place], found: Mapping[str, Products]) -> tuple[Group, ...]:
    """The deltas by role, in the order in which the roles come."""
    shelves: dict[str, list[Products]] = {}
    for name, products in found.items():
        place = places[name]
        shelves.setdefault(f"{place.role} bias" if place.bias else str(place.role), []).append(
            products
        )
    order = sorted(shelves, key=lambda r: (ROLE_ORDER.index(r.removesuffix(" bias")), r))
    return tuple(group(role, shelves[role]) for role in order)


def by_depth(anatomy: Anatomy, found: Mapping[str, Products]) -> tuple[Group, ...]:
    """The deltas by layer of the main stack, in eight bands where it is deep."""
    layers: dict[int, list[Products]] = {}
    for name, products in found.items():
        place = anatomy.places[name]
        if place.layer is not None and place.stack == anatomy.main:
            layers.setdefault(place.layer, []).append(products)
    numbers = sorted(layers)
    count = len(numbers) if len(numbers) <= _MOST_LAYERS else _BANDS
    groups = []
    for i in range(count):
        band = numbers[i * len(numbers) // count : (i + 1) * len(numbers) // count]
        name = f"layer {band[0]}" if len(band) == 1 else f"layers {band[0]}-{band[-1]}"
        groups.append(group(name, [part for n in band for part in layers[n]]))
    return tuple(groups)


def weights_gram(gram: torch.Tensor) -> torch.Tensor:
    """Inner products of the weights, from those of the base and the deltas: [models, models]."""
    lift = gram.new_zeros(gram.shape).fill_diagonal_(1.0)
    lift[:, 0] = 1.0
    return lift @ gram @ lift.t()


def pairs_of(
    names: Sequence[str], places: Mapping[str, Place], found: Mapping[str, Products]
) -> tuple[Pair, ...]:
    """How the weights of each two models are related."""
    grams = {name: weights_gram(p.gram) for name, p in found.items()}
    total = reduce(lambda a, b: a + b, (p.gram for p in found.values()))
    matrices = [n for n in found if places[n].role in MATRIX_ROLES and len(places[n].shape) > 1]
    pairs = []
    for i, j in itertools.combinations(range(len(names)), 2):
        cosines = {n: c for n in matrices if (c := _cosine(grams[n], i, j)) is not None}
        where = min(cosines, key=lambda n: cosines[n], default=None)
        median = statistics.median(cosines.values()) if cosines else None
        equal = sum(bool(p.equal[i, j]) for p in found.values())
        cosine = _cosine(weights_gram(total), i, j) or 0.0
        pairs.append(
            Pair(
                first=names[i],
                second=names[j],
                cosine=cosine,
                matrices=median,
                least=None if where is None else cosines[where],
                where=where,
                equal=equal,
                tensors=len(found),
                relation=_relation(cosine if median is None else median, equal == len(found)),
            )
        )
    return tuple(map(partial(_by_base, pairs[: len(names) - 1]), pairs))


def _by_base(related: Sequence[Pair], pair: Pair) -> Pair:
    """A pair of experts that are both related to the base is related too, however far apart."""
    others = {p.second for p in related if p.relation != "unrelated"}
    if pair.relation == "unrelated" and {pair.first, pair.second} <= others:
        return replace(pair, relation="far apart")
    return pair


def _relation(cosine: float, equal: bool) -> Relation:
    if equal:
        return "equal"
    if cosine >= _NEAR:
        return "same ancestor"
    return "unrelated" if cosine <= _FAR else "far apart"


def seen_from(gram: torch.Tensor, base: int) -> tuple[float, float] | None:
    """The deltas of all other models where one of them is taken as the base.

    Their mean cosine, and the shortest as a share of the longest; None where one has no length.
    """
    own = weights_gram(gram)
    others = [i for i in range(len(own)) if i != base]
    deltas = own - own[base : base + 1] - own[:, base : base + 1] + own[base, base]
    lengths = [math.sqrt(max(0.0, float(deltas[i, i]))) for i in others]
    cosines = [_cosine(deltas, i, j) for i, j in itertools.combinations(others, 2)]
    known = [cosine for cosine in cosines if cosine is not None]
    if len(known) < len(cosines) or not known:
        return None
    return statistics.fmean(known), min(lengths) / max(lengths)


def relations(anatomy: Anatomy, found: Mapping[str, Products]) -> Iterable[TensorRelation]:
    """Every tensor by itself."""
    for name, products in found.items():
        place = anatomy.places[name]
        yield TensorRelation(
            role=str(place.role),
            layer=place.layer,
            broken=tuple(products.broken.tolist()),
            numbers=group(name, [products]),
        )

"""What is known of several checkpoints beside each other."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch

from cermet.analyse.fitness import MethodFit
from cermet.analyse.likeness import ConfigDifference, TensorDifference
from cermet.analyse.products import Products
from cermet.analyse.relations import Group, Pair, TensorRelation, group, seen_from
from cermet.analyse.spaces import Space
from cermet.analyse.vocabulary import VocabularyDifference

__all__ = [
    "Between",
    "Compared",
    "Comparison",
    "Expert",
    "Start",
    "between",
    "experts_of",
    "starts",
]


@dataclass(frozen=True)
class Compared:
    """One of the models: as it was named, a short name, and what it is."""

    path: str
    name: str
    architecture: str | None
    model_type: str | None
    parameters: int
    tensors: int
    layers: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class Expert:
    """The delta of one model from the base.

    Attributes
    ----------
    norm: of the delta. relative: as a share of the base's norm. changed: share of the elements.
    unchanged: shared tensors that are the base's, of `tensors`.
    kept: the length along this delta of the sum of all deltas, as a share of its own: 1 where
        the others are orthogonal to it, more where they go the same way.
    looked_at: matrices that it changed and whose subspaces were looked at. rank: how many
        directions hold 99% of the delta in each of them; None where 32 are too few in one.
    """

    model: str
    norm: float
    relative: float | None
    changed: float
    unchanged: int
    tensors: int
    kept: float | None
    looked_at: int
    rank: int | None


@dataclass(frozen=True)
class Between:
    """How the deltas of two experts meet.

    Attributes
    ----------
    cosine: of the two. both: share of all elements that both changed. conflict: of these, the
        share that they changed in opposite directions, half by chance; None where there are none.
    left, right: mean overlap of the leading subspaces of outputs and inputs over the matrices
        that were looked at; chance_left, chance_right: what is expected of subspaces at random.
    """

    first: str
    second: str
    cosine: float | None
    both: float
    conflict: float | None
    left: float | None
    right: float | None
    chance_left: float | None
    chance_right: float | None


@dataclass(frozen=True)
class Start:
    """A model taken as the base: the mean cosine of the deltas of all others from there, and the
    shortest of them as a share of the longest.
    """

    model: str
    cosine: float
    spread: float


@dataclass(frozen=True)
class Comparison:
    """What several checkpoints have in common, and what can be made of them.

    Attributes
    ----------
    models: the base first. shared: tensors of all, with equal shapes; what follows is about them.
    same_form: whether there are no others. tensor_differences, config_differences: what differs.
    vocabularies: the tokenizer of each model but the base beside the base's.
    pairs: the weights of each two models. deltas: of all tensors together; None where nothing is
        shared. experts, between: the deltas of each expert, and of each two.
    roles, layers: the deltas by role and by depth. spaces: of the matrices that were looked at.
    starts: every model as the base, where there are three or more; the base of the others is
        the one from which their deltas are closest to orthogonal.
    tensors: every shared tensor by itself.
    methods: every method, and why it does not apply. recipe: a recipe to begin with, if any.
    verdict: one word for the weights: equal, same ancestor, far apart, unrelated, or unlike.
    findings: sentences, those that decide first. advice: what the measured numbers suggest.
    """

    models: tuple[Compared, ...]
    shared: int
    same_form: bool
    tensor_differences: tuple[TensorDifference, ...]
    config_differences: tuple[ConfigDifference, ...]
    vocabularies: tuple[VocabularyDifference, ...]
    pairs: tuple[Pair, ...]
    deltas: Group | None
    experts: tuple[Expert, ...]
    between: tuple[Between, ...]
    roles: tuple[Group, ...]
    layers: tuple[Group, ...]
    spaces: tuple[Space, ...]
    starts: tuple[Start, ...]
    tensors: tuple[TensorRelation, ...]
    methods: tuple[MethodFit, ...]
    recipe: Mapping[str, Any] | None
    verdict: str
    findings: tuple[str, ...]
    advice: tuple[str, ...]


def experts_of(
    names: Sequence[str], found: Mapping[str, Products], spaces: Sequence[Space]
) -> tuple[Expert, ...]:
    """The delta of each model but the first."""
    together = group("all", list(found.values()))
    gram = reduce(lambda a, b: a + b, (p.gram for p in found.values()))
    experts = []
    for i, name in enumerate(names[1:]):
        own = float(gram[i + 1, i + 1])
        along = float(gram[i + 1, 1:].sum())
        ranks = [space.rank[i] for space in spaces if space.energy[i] is not None]
        known = [rank for rank in ranks if rank is not None]
        experts.append(
            Expert(
                model=name,
                norm=together.norms[i],
                relative=together.relative[i],
                changed=together.changed[i],
                unchanged=sum(bool(p.equal[0, i + 1]) for p in found.values()),
                tensors=len(found),
                kept=along / own if own > 0 else None,
                looked_at=len(ranks),
                rank=max(known) if known and len(known) == len(ranks) else None,
            )
        )
    return tuple(experts)


def between(
    names: Sequence[str], found: Mapping[str, Products], spaces: Sequence[Space]
) -> tuple[Between, ...]:
    """How the deltas of each two experts meet."""
    together = group("all", list(found.values()))
    both, against = (
        reduce(lambda a, b: a + b, tensors)
        for tensors in ([p.both for p in found.values()], [p.against for p in found.values()])
    )
    pairs = list(itertools.combinations(range(len(names) - 1), 2))
    return tuple(
        Between(
            first=names[i + 1],
            second=names[j + 1],
            cosine=together.cosines[k],
            both=float(both[i, j]) / max(1, together.parameters),
            conflict=float(against[i, j]) / float(both[i, j]) if both[i, j] else None,
            left=_mean(space.left[k] for space in spaces),
            right=_mean(space.right[k] for space in spaces),
            chance_left=_mean(s.chance_left for s in spaces if s.left[k] is not None),
            chance_right=_mean(s.chance_right for s in spaces if s.right[k] is not None),
        )
        for k, (i, j) in enumerate(pairs)
    )


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def starts(names: Sequence[str], found: Mapping[str, Products]) -> tuple[Start, ...]:
    """Every model as the base of the others; none where there are fewer than three."""
    if len(names) < 3:
        return ()
    gram: torch.Tensor = reduce(lambda a, b: a + b, (p.gram for p in found.values()))
    seen = {name: seen_from(gram, i) for i, name in enumerate(names)}
    return tuple(Start(name, *known) for name, known in seen.items() if known is not None)

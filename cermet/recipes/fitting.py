"""Models that name their tensors differently, or lack towers, seen as the anchor spells them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cermet.anatomy import (
    Anatomy,
    Counterparts,
    Modules,
    find_counterparts,
    find_modules,
    survey,
)
from cermet.checkpoints.dtypes import FLOATS
from cermet.checkpoints.header import TensorInfo
from cermet.checkpoints.reader import Checkpoint
from cermet.core.errors import MismatchError
from cermet.core.types import Role
from cermet.recipes.anchor import anchor_of
from cermet.recipes.plan import Named
from cermet.recipes.schema import ModelRef, Recipe

__all__ = ["Fitted", "Fitting", "fit", "in_words"]


@dataclass(frozen=True)
class Fitted:
    """A model under the names of the anchor.

    Attributes
    ----------
    tensors: every tensor that the anchor has a name for, by that name.
    own: that name -> the name under which the model stores the tensor.
    partial: whether the model may lack tensors of the anchor: towers, or what only the
        layers of the anchor hold.
    """

    tensors: Mapping[str, TensorInfo]
    config: Mapping[str, Any]
    own: Mapping[str, str]
    anatomy: Anatomy
    partial: bool = False


@dataclass(frozen=True)
class Fitting:
    """All models of a recipe under the names of one of them, the anchor.

    The output has the anchor's tensors, config and files. notes: what is fitted, in sentences.
    """

    anchor: int
    models: tuple[Fitted, ...]
    modules: Modules
    notes: tuple[str, ...]
    _layers: dict[tuple[int, str], dict[int, list[str]]] = field(default_factory=dict)

    def module_of(self, name: str) -> str:
        """The module of a tensor; a head that only some models store is the language part's."""
        return self.modules.of.get(name, self.modules.main)

    def spelled(self) -> dict[Named, str]:
        """The names that the anchor has for the tensors of models that are mapped onto it."""
        return {
            Named(i, own): name
            for i, fitted in enumerate(self.models)
            for name, own in fitted.own.items()
            if name != own
        }

    def depth(self, model: int, stack: str) -> int:
        """The number of layers of a stack in a model; 0 where it has no such stack."""
        return self.models[model].anatomy.stacks.get(stack, 0)

    def layers(self, model: int, stack: str) -> dict[int, list[str]]:
        """The tensors of each layer of a stack in a model."""
        found = self._layers.setdefault((model, stack), {})
        if not found:
            for name, place in self.models[model].anatomy.places.items():
                if place.layer is not None and place.stack == stack:
                    found.setdefault(place.layer, []).append(name)
        return found

    def buffer(self, model: int, name: str) -> bool:
        """Whether a tensor is copied, whatever the method: it is no weight."""
        fitted = self.models[model]
        info, place = fitted.tensors[name], fitted.anatomy.places[name]
        return info.dtype not in FLOATS or place.role == Role.BUFFER

    def alias(self, model: int, name: str) -> str | None:
        """The name under which a model holds a tensor that it ties, if it does."""
        fitted = self.models[model]
        if name in fitted.tensors:
            return name
        for group in fitted.anatomy.ties:
            if name in group:
                return next((other for other in group if other in fitted.tensors), None)
        return None

    def original(self, model: int, name: str) -> str | None:
        """The held tensor that a model says `name` is tied to, if it is another."""
        groups = (g for g in self.models[model].anatomy.ties if name in g[1:])
        return next((group[0] for group in groups), None)

    def stored(self, model: int, name: str) -> Named:
        """A tensor under the name that it has in the model's own files."""
        return Named(model, self.models[model].own[name])


def fit(recipe: Recipe, models: Sequence[ModelRef], checkpoints: Sequence[Checkpoint]) -> Fitting:
    """The models of a recipe as the anchor spells them.

    MismatchError where the language part of a model holds what the anchor has no place for.
    """
    plain = _plain(checkpoints)
    named = recipe.base_model or models[0]
    first = models.index(named)
    alike = [_same_names(f, plain[first]) for f in plain]
    shared = find_modules(plain[first].anatomy)
    modules = [
        shared if same else find_modules(f.anatomy) for f, same in zip(plain, alike, strict=True)
    ]
    notes = []
    anchor = anchor_of(recipe, models, modules)
    if anchor != first:
        notes.append(
            f"The output has the form of '{models[anchor]}', since '{named}' takes text alone."
        )
    wanted = _wanted(recipe, modules[anchor])
    found = []
    for i, fitted in enumerate(plain):
        if _same_names(fitted, plain[anchor]):
            found.append(fitted)
            continue
        pairs = find_counterparts(
            fitted.anatomy, modules[i], plain[anchor].anatomy, modules[anchor], wanted
        )
        partial = modules[i].senses or modules[anchor].senses
        if not partial and not _whole(pairs, fitted, plain[anchor]):
            found.append(fitted)  # two models of text: refused tensor by tensor
            continue
        if not partial and _misspelled(pairs.names):
            found.append(fitted)  # the same
            continue
        _check(models[i], models[anchor], fitted, plain[anchor], pairs, recipe.keep or ())
        found.append(_renamed(fitted, pairs.names, partial))
        notes.append(_note(models[i], models[anchor], modules[i], modules[anchor], pairs))
    return Fitting(anchor, tuple(found), modules[anchor], tuple(notes))


def _wanted(recipe: Recipe, modules: Modules) -> set[str]:
    """The modules of the anchor that a recipe merges: all, or those that it lists and not keeps."""
    listed = {modules.named(name) for name in recipe.modules or modules.names}
    kept = {modules.named(name) for name in recipe.keep or ()}
    return {name for name in modules.names if name in listed - kept}


def _plain(checkpoints: Sequence[Checkpoint]) -> list[Fitted]:
    """Models under their own names; those of one shape and config are surveyed once."""
    found: list[Fitted] = []
    known: list[tuple[Mapping[str, tuple[int, ...]], Mapping[str, Any], Anatomy]] = []
    for checkpoint in checkpoints:
        tensors, config = checkpoint.tensors, checkpoint.config
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        anatomy = next((a for s, c, a in known if s == shapes and c == config), None)
        if anatomy is None:
            anatomy = survey(shapes, config)
            known.append((shapes, config, anatomy))
        found.append(Fitted(tensors, config, {name: name for name in tensors}, anatomy))
    return found


def _weights(fitted: Fitted) -> set[str]:
    """The names of all tensors that are not buffers."""
    return {
        name
        for name, place in fitted.anatomy.places.items()
        if place.role is not Role.BUFFER and fitted.tensors[name].dtype in FLOATS
    }


def _tied(fitted: Fitted) -> set[str]:
    return {name for group in fitted.anatomy.ties for name in group}


def _same_names(one: Fitted, other: Fitted) -> bool:
    """Whether two models name the same tensors; of those that one ties, the other may lack some."""
    if one is other:
        return True
    first, second = _weights(one), _weights(other)
    return first - second <= _tied(other) and second - first <= _tied(one)


def _whole(pairs: Counterparts, fitted: Fitted, anchor: Fitted) -> bool:
    """Whether every tensor of two models has its counterpart in the other."""
    if pairs.unmatched or pairs.left_out:
        return False
    return not pairs.lacking and _same_names(_renamed(fitted, pairs.names, False), anchor)


def _misspelled(names: Mapping[str, str]) -> bool:
    """Whether most names are the same: then the others are damage, not another family's way."""
    return 2 * sum(old == new for old, new in names.items()) > len(names)


def _renamed(fitted: Fitted, names: Mapping[str, str], partial: bool) -> Fitted:
    tensors = {new: fitted.tensors[old] for old, new in names.items()}
    anatomy = survey({n: t.shape for n, t in tensors.items()}, fitted.config)
    own = {new: old for old, new in names.items()}
    return Fitted(tensors, fitted.config, own, anatomy, partial)


def _check(
    model: ModelRef,
    anchor: ModelRef,
    fitted: Fitted,
    other: Fitted,
    pairs: Counterparts,
    kept: Sequence[str],
) -> None:
    """Refuse a model with tensors that the anchor has no place for, and one that lacks some.

    Those of roles that are kept are not looked at.
    """
    for given, holder, here, there in (
        (pairs.unmatched, fitted, model, anchor),
        (pairs.lacking, other, anchor, model),
    ):
        names = [name for name in given if holder.anatomy.places[name].role not in kept]
        if names:
            also = f" and {len(names) - 1} more have" if len(names) > 1 else " has"
            roles = sorted({str(holder.anatomy.places[name].role) for name in names})
            keep = f" `keep: [{roles[0]}]` leaves those of '{anchor}' as they are."
            raise MismatchError(
                f"Tensor '{names[0]}' {list(holder.tensors[names[0]].shape)} of '{here}'{also} no "
                f"counterpart in '{there}', or more than one; what is merged must be of the same "
                f"architecture.{keep if len(roles) == 1 else ''}"
            )


def _note(
    model: ModelRef, anchor: ModelRef, own: Modules, anchors: Modules, pairs: Counterparts
) -> str:
    """A sentence on what of a model is merged, under which names, and what is left out."""
    if not pairs.names:
        return f"'{model}' has nothing that is merged with '{anchor}'."
    used = Counter(anchors.of.get(new, anchors.main) for new in pairs.names.values())
    said = f"'{model}' is mapped onto '{anchor}' by anatomy: {in_words(used)}"
    renamed = [(a, b) for a, b in pairs.names.items() if a != b]
    if renamed:
        one, other = next(((a, b) for a, b in renamed if ".0." in a), renamed[0])
        said += f", such as '{one}' onto '{other}'"
    if pairs.left_out:
        left = Counter({m: len(own.tensors(m)) for m in pairs.left_out})
        said += f"; its {in_words(left)} {_are(left)} left out, unlike those of '{anchor}'"
    return said + "."


def _are(counts: Mapping[str, int]) -> str:
    return "is" if len(counts) == 1 else "are"


def in_words(counts: Mapping[str, int]) -> str:
    """`text_decoder (30 tensors) and vision_tower (1 tensor)`."""
    said = [f"{name} ({n} tensor{'s' if n != 1 else ''})" for name, n in counts.items()]
    return " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)

"""The modules of a checkpoint: its language part, towers, projector, encoder and decoder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from cermet.anatomy.names import snake
from cermet.anatomy.survey import Anatomy
from cermet.core.types import Place, Role

__all__ = ["Modules", "find_modules"]

_CONNECTOR = re.compile(
    r"projector|merger|connector|aligner|resampler|perceiver|q_?former|multi_?modal|^mm_"
)
_SENSES = (
    ("vision", re.compile(r"vision|visual|image|img|^vit|video|pixel")),
    ("audio", re.compile(r"audio|sound|speech")),
)
# Parameters that stand alone and are fed to the language model beside a tower's output.
_LOOSE = re.compile(r"query_tokens|(?:image|img|view|row|tile)_\w*(?:newline|sep\w*)")
# Roles of what a language model has outside of its layers, wherever it stands.
_LANGUAGE = frozenset({Role.HEAD, Role.EMBEDDING, Role.POSITION, Role.SCALE, Role.BUFFER})
_PROJECTOR = "multi_modal_projector"
_ALIASES = {"language_model": "text_decoder", "projector": _PROJECTOR}


@dataclass(frozen=True)
class Modules:
    """Which module every tensor of a checkpoint belongs to.

    Attributes
    ----------
    of: the module of every tensor, by name.
    main: the module of the stack that recipes slice: ``text_decoder`` beside towers,
        ``decoder`` beside an encoder, ``default`` where there is nothing else.
    stacks: the prefixes of the stacks of layers of each module, in the order of the names.
    """

    of: Mapping[str, str]
    main: str
    stacks: Mapping[str, tuple[str, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """The modules in the order in which their first tensors stand."""
        return tuple(dict.fromkeys(self.of.values()))

    @property
    def senses(self) -> bool:
        """Whether anything but text goes in: whether there is a tower or a projector."""
        return any(name == _PROJECTOR or name.endswith("_tower") for name in self.names)

    def named(self, name: str) -> str | None:
        """The module that a recipe calls `name`; None where there is none.

        ``language_model`` and ``projector`` are read too, and ``text_decoder`` for the only
        module of a language model.
        """
        name = _ALIASES.get(name, name)
        if name == "text_decoder" and name not in self.names and not self.senses:
            name = self.main
        return name if name in self.names else None

    def tensors(self, module: str) -> list[str]:
        """The names of a module's tensors, in order."""
        return [name for name, own in self.of.items() if own == module]


def find_modules(anatomy: Anatomy) -> Modules:
    """The modules of a checkpoint, by the words in its names and by its stacks of layers.

    The names are those that mergekit has for the architectures that it knows:
    ``text_decoder``, ``vision_tower``, ``multi_modal_projector``, ``encoder``, ``decoder``,
    ``default``; in the same way ``audio_tower``, and ``vision_experts`` for what a language
    model's layers hold for images alone. Another stack of layers is a module under its own
    name (``mtp``), and everything else belongs to the language part.
    """
    roots = _roots(anatomy)
    found = {name: _module(name, place, anatomy, roots) for name, place in anatomy.places.items()}
    if not any(module.endswith("_tower") for module in found.values()):
        # without a tower, an adapter or a projection is a part of the model itself
        found = {n: "" if m == _PROJECTOR else m for n, m in found.items()}
    modules = set(found.values())
    main = _main(anatomy, modules)
    of = {name: module or main for name, module in found.items()}
    stacks: dict[str, tuple[str, ...]] = {}
    for name, place in anatomy.places.items():
        if place.stack and place.stack not in stacks.get(of[name], ()):
            stacks[of[name]] = (*stacks.get(of[name], ()), place.stack)
    return Modules(MappingProxyType(of), main, MappingProxyType(stacks))


def _main(anatomy: Anatomy, modules: Iterable[str]) -> str:
    """The name of the module that holds the main stack."""
    if any(m == _PROJECTOR or m.endswith("_tower") for m in modules):
        prefix = [snake(p) for p in (anatomy.main or "").split(".")]
        return "text_encoder" if "encoder" in prefix else "text_decoder"
    return "decoder" if "encoder" in modules else "default"


@cache
def _experts(inner: str) -> str:
    """The module of what a layer of the language model has for images alone; empty for others."""
    sense = next((s for part in inner.split(".") if (s := _sense(snake(part))) is not None), None)
    return f"{sense}_experts" if sense is not None else ""


def _sense(component: str) -> str | None:
    return next((sense for sense, words in _SENSES if words.search(component)), None)


def _tower(parts: list[str]) -> str | None:
    """The tower or projector that some components of a name speak of, if any."""
    if any(_CONNECTOR.search(part) for part in parts):
        return _PROJECTOR
    sense = next((s for part in parts if (s := _sense(part)) is not None), None)
    return f"{sense}_tower" if sense is not None else None


def _beside(anatomy: Anatomy, name: str) -> list[str]:
    """The components of a name that are not in the main stack's: those of a ViT are no tower."""
    main = {snake(part) for part in (anatomy.main or "").split(".")}
    return [part for part in map(snake, name.split(".")) if part not in main]


def _roots(anatomy: Anatomy) -> dict[str, str]:
    """The modules of stacks whose names speak of no tower: prefix with a dot -> module.

    A stack's module is the first component in which its prefix differs from the main one's.
    """
    found: dict[str, str] = {}
    for stack in anatomy.stacks:
        if stack != anatomy.main and _tower(_beside(anatomy, stack)) is None:
            parts = stack.split(".")
            same = _common(stack, anatomy.main or "")
            if same < len(parts):
                found[".".join(parts[: same + 1]) + "."] = snake(parts[same])
    return found


def _common(one: str, other: str) -> int:
    """How many components two names have in common from the start."""
    pairs = zip(one.split("."), other.split("."), strict=False)
    return next(
        (i for i, (a, b) in enumerate(pairs) if a != b), min(one.count("."), other.count(".")) + 1
    )


def _around(anatomy: Anatomy) -> str:
    """What the names of the language part begin with: where the main stack leaves the others."""
    main = anatomy.main or ""
    others = [stack for stack in anatomy.stacks if stack != main]
    parts = main.split(".")[:-1]
    same = max((_common(main, stack) for stack in others), default=len(parts) - 1)
    return "".join(f"{part}." for part in parts[: same + 1])


def _module(name: str, place: Place, anatomy: Anatomy, roots: Mapping[str, str]) -> str:
    """The module of one tensor; empty for the language part, whose name depends on the others."""
    if place.stack and place.stack == anatomy.main:
        return _experts(name[len(place.stack) + 1 :].partition(".")[2])
    if _LOOSE.fullmatch(name.rpartition(".")[2]) or place.role is Role.PROJECTOR:
        return _PROJECTOR
    tower = _tower(_beside(anatomy, name))
    if tower is not None:
        return tower
    root = next((module for root, module in roots.items() if name.startswith(root)), None)
    if root is not None or place.role in _LANGUAGE:
        return root or ""
    # InternVL calls its projector mlp1: a map that stands outside of the language model
    return "" if name.startswith(_around(anatomy)) else _PROJECTOR

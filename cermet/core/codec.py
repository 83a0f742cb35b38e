"""What a codec declares, and where codecs are found.

A codec is a pair of functions: `@codec` decorates the one that encodes a delta, and names the one
that decodes it. Files under `cermet/codecs/` are found by walking the package.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from cermet.core.errors import MethodError
from cermet.core.parameters import Limits, Parameter, parameters_of
from cermet.core.registry import nearest
from cermet.core.rounds import Round
from cermet.core.types import Place, Role

__all__ = [
    "CHUNK",
    "Codec",
    "Extra",
    "Otherwise",
    "all_codecs",
    "codec",
    "find_codec",
    "matrices",
    "projections",
]

CHUNK = 1 << 18
"""Elements that a codec of the grain "element" is given at once; the format fixes it."""

Otherwise = Literal["expert", "base"]
"""What becomes of a tensor that a codec does not cover: the expert's own, or the base's."""

_PROJECTIONS = frozenset({
    Role.Q, Role.K, Role.V, Role.O, Role.QKV, Role.KV, Role.GATE, Role.UP, Role.DOWN,
    Role.GATE_UP, Role.DENSE,
})  # fmt: skip
_VOCABULARY = frozenset({Role.EMBEDDING, Role.HEAD, Role.POSITION})


def projections(place: Place) -> bool:
    """The matrices of attention and MLP, what deltas of language models are compressed in."""
    return len(place.shape) == 2 and not place.bias and place.role in _PROJECTIONS


def matrices(place: Place) -> bool:
    """Every matrix but those of a vocabulary or of positions."""
    return len(place.shape) == 2 and not place.bias and place.role not in _VOCABULARY


@dataclass(frozen=True, slots=True)
class Extra:
    """A file of statistics that a codec can use, and does without where none is given.

    Attributes
    ----------
    name: the argument under which the codec gets it: tensors by their ending, or None.
    about: what it holds, in a few words; messages and pages quote it.
    endings: what the names in the file add to the name of the tensor.
    """

    name: str
    about: str
    endings: tuple[str, ...]


@dataclass(frozen=True)
class Codec:
    """A codec with everything that it declares; see `codec`."""

    name: str
    function: Callable[..., Any]
    decode: Callable[..., Any]
    source: str
    grain: Literal["element", "tensor"]
    covers: Callable[..., bool]
    otherwise: Otherwise
    rounds: tuple[Round, ...]
    fit: Callable[..., Mapping[str, float]] | None
    noise: bool
    workspace: float
    extras: tuple[Extra, ...]
    size: Callable[..., int] | None
    bound: Callable[..., float] | None
    adapter: bool
    check: Callable[..., str | None] | None
    parameters: Mapping[str, Parameter]

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (self.function.__doc__ or "").strip().splitlines()[0]


_registered: dict[str, Codec] = {}


def codec(
    *,
    decode: Callable[..., Any],
    source: str,
    grain: Literal["element", "tensor"] = "element",
    covers: Callable[..., bool] = projections,
    otherwise: Otherwise = "expert",
    rounds: Sequence[Round] = (),
    fit: Callable[..., Mapping[str, float]] | None = None,
    fitted: Sequence[str] = (),
    noise: bool = False,
    workspace: float = 8.0,
    extras: Sequence[Extra] = (),
    size: Callable[..., int] | None = None,
    bound: Callable[..., float] | None = None,
    adapter: bool = False,
    check: Callable[..., str | None] | None = None,
    limits: Mapping[str, Limits] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a codec; the decorated function, which encodes, is returned unchanged.

    It maps a delta, float32, to parts: tensors by name. Both functions get what their signatures
    name: parameters, the numbers of `fit`, and from the engine `place` (the tensor's Place); the
    one that encodes also the results of the rounds, the extras, and `dtype`, the expert's.

    Parameters
    ----------
    decode: parts, and `count` (elements) at the grain "element" -> the delta, float32.
    source: where the codec was published.
    grain: "element": flat runs of CHUNK elements, each encoded by itself into 1-D parts, which
        are stored one after another; "tensor": a whole tensor in its shape.
    covers: place and parameters -> whether a tensor is encoded.
    otherwise: what becomes of those that are not.
    rounds: passes over the deltas [1, *block] before, as methods have them.
    fit: reduced state and parameters -> numbers that are kept with the tensor, named in `fitted`.
    noise: both functions take `noise`, uniform in [0, 1), of the seed and the tensor alone.
    workspace: bytes used beside the float32 delta, as a multiple of it.
    extras: see `Extra`.
    size: place, `itemsize` (bytes of the expert's dtype) and parameters -> bytes of all parts.
    bound: reduced state and parameters -> bits a weight that the entropy of the code allows.
    adapter: the parts are the factors `A` and `B` of a LoRA adapter, and are stored as one.
    check: parameters -> what is wrong with them, or None.
    limits: least and most value of a parameter, None where there is none.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__.rstrip("_")
        derived = {r.name for r in rounds} | {*fitted} | {e.name for e in extras} | {"dtype"}
        if not (function.__doc__ or "").strip():
            raise MethodError(
                f"The codec '{name}' has no docstring; its first line is its summary."
            )
        other = _registered.get(name)
        if other is not None and other.function.__module__ != function.__module__:
            raise MethodError(f"There is a codec '{name}' already, in {other.function.__module__}.")
        _registered[name] = Codec(
            name=name,
            function=function,
            decode=decode,
            source=source,
            grain=grain,
            covers=covers,
            otherwise=otherwise,
            rounds=tuple(rounds),
            fit=fit,
            noise=noise,
            workspace=workspace,
            extras=tuple(extras),
            size=size,
            bound=bound,
            adapter=adapter,
            check=check,
            parameters=parameters_of(function, derived, limits or {}),
        )
        return function

    return register


@cache
def _walk() -> None:
    shelf = importlib.import_module("cermet.codecs")  # by name: core stands below codecs
    for module in pkgutil.walk_packages(shelf.__path__, shelf.__name__ + "."):
        importlib.import_module(module.name)


def all_codecs() -> dict[str, Codec]:
    """Every codec, by name, sorted."""
    _walk()
    return dict(sorted(_registered.items()))


def find_codec(name: str) -> Codec:
    """The codec of this name, with `-` for `_` too; MethodError where there is none."""
    codecs, spelled = all_codecs(), name.replace("-", "_").lower()
    if spelled in codecs:
        return codecs[spelled]
    raise MethodError(
        f"There is no codec '{name}'.{nearest(spelled, codecs)} `cermet codecs` lists them all."
    )

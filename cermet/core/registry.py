"""How a method is declared, and where methods are found.

A method is a function decorated with `@method`. Its signature declares its parameters,
the decorator declares what the engine has to know. A method under `cermet/methods/` is
found by the name of its file; methods from outside come through the entry point
`cermet.methods` or from a file (`load_plugin`).
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import itertools
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from cermet.core.errors import InputError, MethodError
from cermet.core.method import Base, Kind, Method, call, takes
from cermet.core.needs import Need
from cermet.core.parameters import Limits, Parameter, PerModel, parameters_of
from cermet.core.parts import Bits, Numbers, Part
from cermet.core.rounds import Gram, Kth, Round, Rows, Sum
from cermet.core.types import Grain, On

__all__ = [
    "Bits",
    "Gram",
    "Kth",
    "Method",
    "Need",
    "Numbers",
    "Parameter",
    "Part",
    "PerModel",
    "Round",
    "Rows",
    "Sum",
    "all_factor_methods",
    "all_methods",
    "all_transforms",
    "call",
    "declared",
    "enrol",
    "find_method",
    "find_step",
    "load_plugin",
    "method",
    "nearest",
    "on_factors",
    "takes",
]

_registered: dict[str, Method] = {}
_transforms: dict[str, Method] = {}
_on_factors: dict[str, Method] = {}


def method(
    *,
    on: On,
    source: str,
    kind: Kind = "merge",
    base: Base = "required",
    grain: Grain | Callable[..., Grain] = "element",
    mask: Callable[..., Any] | None = None,
    rounds: Sequence[Round] = (),
    fit: Callable[..., Mapping[str, Any]] | None = None,
    fitted: Sequence[str] = (),
    coefficients: Callable[..., PerModel | None] | None = None,
    form: Callable[..., Any] | None = None,
    models: tuple[int, int | None] = (1, None),
    noise: bool = False,
    workspace: float | Callable[..., float] = 4.0,
    check: Callable[..., str | None] | None = None,
    accepts: Mapping[str, str] | None = None,
    limits: Mapping[str, Limits] | None = None,
    properties: Sequence[str] = (),
    needs: Sequence[Need] = (),
    experimental: str = "",
    parts: Sequence[Part] = (),
    restore: Callable[..., Any] | None = None,
    rank: Callable[..., int] | None = None,
    forms_deltas: bool = False,
    otherwise: Callable[..., PerModel | None] | None = None,
    continues: Callable[..., Mapping[str, float]] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a method; the decorated function is returned unchanged.

    Every function of a method gets what its signature names: parameters, the results of
    rounds, what `fit` returned, and from the engine `place` (the tensor's Place) and `count`
    (the number of models that the method is given); a transform also `original` (the deltas as
    they were before the transforms in front of it).

    Parameters
    ----------
    on: "weights", "deltas" (expert minus base; the engine subtracts, and adds back) or "factors"
        (of the adapters that have a module, as a sequence of `cermet.maths.factors.Factors`;
        their method returns those of the result, and `rslora` says what the first one uses).
    source: where the method was published.
    kind: "merge", or "transform": [models, *block] -> the same shape, in memory of its own or
        the block itself, unchanged. A transform stands in a pipeline before or after a merge.
    base: see `Base`.
    grain: the smallest piece on which the maths is exact; may depend on the parameters.
    mask: block, state and parameters -> zeros and ones [models or 1, *block]. Rounds and
        merge that name `mask` receive it; the engine makes it once and keeps it as bits.
    rounds: passes before the merge, in order.
    fit: reduced state and parameters -> further arguments of the merge, once per tensor.
    fitted: the names of those arguments.
    coefficients: arguments of the merge -> cᵢ where its result is Σ cᵢxᵢ in order of the
        models, else None. The engine then adds the models up one by one, without a block of
        them all; the decorated function must give the same bits. Of a transform: the factor of
        each delta, so that a pipeline of such steps is one sum.
    form: arguments of the merge (but the mask) -> the `cermet.maths.lowered.Combination` that its
        result is. The engine then merges in one pass over what is stored, where the compiled
        kernels run; the decorated function must give the same bits.
    models: least and most number of experts (None: any).
    noise: the merge (and its rounds) take `noise`, uniform in [0, 1), shaped as the block.
    workspace: bytes used beside the float32 block that is given, its base, its statistics and
        the result, as a multiple of the block; of a transform with its result. May depend on
        `place` (None where none is at hand: the most that a shape takes) and `count`.
    check: parameters -> what is wrong with them, or None.
    limits: least and most value of a parameter, None where there is none.
    accepts: parameters of mergekit that have no effect here, with the reason.
    properties: names of the properties that the contract test holds the method to. "equivariant"
        (deltas PτᵢQ with orthogonal P and Q give PτQ, where sizes are counted by
        `cermet.methods.matrices.sides`) makes the engine merge adapters in their span.
    needs: statistics, each an argument of the functions that name it; see `Need`.
    experimental: in one sentence, why the method is not to be relied on yet.
    parts: what the merge returns of each expert: not a tensor then, but the merged tensor and
        a mapping from the parts' names.
    restore: merged block [*block] -> the block of one expert's model; takes `base` (the same
        block of the base) and the expert's parts by name, None where a tensor has none.
    rank: of a method on factors, the rank of its result, from parameters, `count` and the
        `ranks` of the adapters that have the module, their `largest` rank of any module, and
        the `shape` [out, in] of the delta. MethodError where the ranks do not fit.
    forms_deltas: a method on factors multiplies them out, and so needs memory for the deltas.
    otherwise: place and parameters -> cᵢ where the maths does not cover a tensor, whose result
        is then Σ cᵢxᵢ, model by model and block by block; None where it does.
    continues: reduced state and parameters -> parameters, by the names of recipes, with which the
        merged model stands for all that it was made of, as the first model of another merge; the
        same for every tensor.
    """
    chosen: Callable[..., Grain] = grain if callable(grain) else lambda: grain
    room: Callable[..., float] = workspace if callable(workspace) else lambda: workspace

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        derived = {r.name for r in rounds} | set(fitted) | {n.name for n in needs}
        found = Method(
            name=function.__name__,
            function=function,
            on=on,
            base="none" if on == "factors" else base,
            grain=chosen,
            mask=mask,
            rounds=tuple(rounds),
            fit=fit,
            coefficients=coefficients,
            models=models,
            draws={"noise": True} if noise else {},
            workspace=room,
            source=source,
            check=check,
            accepts=dict(accepts or {}),
            parameters=parameters_of(function, derived, limits or {}),
            properties=frozenset(properties),
            kind=kind,
            needs=tuple(needs),
            experimental=experimental,
            parts=tuple(parts),
            restore=restore,
            rank=rank,
            forms_deltas=forms_deltas,
            otherwise=otherwise,
            continues=continues,
            form=form,
        )
        enrol(found)
        return function

    return register


def enrol(found: Method) -> None:
    """Put a method on its shelf; MethodError without a docstring, or where its name is taken."""
    shelf = _shelf(found.kind, found.on)
    _check_new(found.function, shelf)
    shelf[found.name] = found


def declared(function: Callable[..., Any]) -> Method:
    """The method that a function was decorated as."""
    for shelf in (_registered, _transforms, _on_factors):
        found = shelf.get(function.__name__)
        if found is not None and found.function is function:
            return found
    raise MethodError(f"'{function.__name__}' is no method; decorate it with @cermet.method.")


def _shelf(kind: Kind, on: On) -> dict[str, Method]:
    if kind == "transform":
        return _transforms
    return _on_factors if on == "factors" else _registered


def _check_new(function: Callable[..., Any], shelf: Mapping[str, Method]) -> None:
    """Refuse a method without a docstring, and one that has the name of another."""
    name = function.__name__
    if not (function.__doc__ or "").strip():
        raise MethodError(
            f"The method '{name}' has no docstring; its first line is what `cermet methods` prints."
        )
    other = shelf.get(name)
    if other is not None and other.function.__module__ != function.__module__:
        raise MethodError(
            f"There is a method '{name}' already, in {other.function.__module__}; choose another "
            "name."
        )


@cache
def _modules() -> Mapping[str, tuple[str, ...]]:
    """The modules of Cermet's methods by the last part of their name, that of the method."""
    shelf = importlib.import_module("cermet.methods")  # by name: core stands below methods
    found = dict[str, tuple[str, ...]]()
    for module in pkgutil.walk_packages(shelf.__path__, shelf.__name__ + "."):
        method = module.name.rpartition(".")[2]
        found[method] = (*found.get(method, ()), module.name)
    return found


def _own(name: str, *shelves: Mapping[str, Method]) -> Method | None:
    """A method of Cermet's own, from the first shelf that has it; None for any other.

    It is all that is imported: to import every method takes longer than many a merge.
    """
    for module in _modules().get(name, ()):
        importlib.import_module(module)
    return next((shelf[name] for shelf in shelves if name in shelf), None)


@cache
def _walk() -> None:
    for module in itertools.chain.from_iterable(_modules().values()):
        importlib.import_module(module)
    for entry in importlib.metadata.entry_points(group="cermet.methods"):
        before = _count()
        _imported(entry.load, f"The plugin '{entry.name}' ({entry.value})")
        if _count() == before:
            raise InputError(
                f"The plugin '{entry.name}' ({entry.value}) registers no method (see "
                "@cermet.method); correct or uninstall its package."
            )


def _count() -> int:
    return len(_registered) + len(_transforms) + len(_on_factors)


def _imported(load: Callable[[], Any], what: str) -> None:
    """Import a plugin; InputError, in one sentence, where its code fails."""
    try:
        load()
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{what} could not be imported: {reason.rstrip('.')}.") from error


def all_methods() -> dict[str, Method]:
    """Every method, by name, sorted."""
    _walk()
    return dict(sorted(_registered.items()))


def all_transforms() -> dict[str, Method]:
    """Every transform, by name, sorted."""
    _walk()
    return dict(sorted(_transforms.items()))


def all_factor_methods() -> dict[str, Method]:
    """Every method on the factors of adapters, by name, sorted."""
    _walk()
    return dict(sorted(_on_factors.items()))


def on_factors(name: str | None) -> bool:
    """Whether this is the name of a method on the factors of adapters."""
    if name is None or _own(name, _registered) is not None:
        return False
    return _own(name, _on_factors) is not None or name in all_factor_methods()


def find_method(name: str) -> Method:
    """The method of this name; MethodError with the nearest spelling where there is none."""
    own = _own(name, _on_factors, _registered)
    if own is not None:
        return own
    methods = {**all_methods(), **all_factor_methods()}
    if name in methods:
        return methods[name]
    if name in _transforms:
        raise MethodError(f"'{name}' is a transform; it stands in a pipeline, beside a merge.")
    raise MethodError(
        f"There is no method '{name}'.{nearest(name, methods)} `cermet methods` lists them all."
    )


def find_step(name: str) -> Method:
    """The transform or else the method of this name: what it means as a step of a pipeline."""
    own = _own(name, _transforms, _on_factors, _registered)
    if own is not None:
        return own
    steps = {**all_methods(), **all_factor_methods(), **all_transforms()}
    if name in steps:
        return steps[name]
    raise MethodError(
        f"There is no transform or method '{name}'.{nearest(name, steps)} `cermet methods` lists "
        "them all."
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """A question that names the nearest spelling, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def load_plugin(path: Path) -> None:
    """Import a Python file that registers methods of its own (`--plugin file.py`).

    The file is run as code: name only files that you trust.
    """
    spec = importlib.util.spec_from_file_location(f"cermet_plugin_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InputError(f"The plugin '{path}' is not a Python file.")
    _walk()
    before = _count()
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader
    _imported(lambda: loader.exec_module(module), f"The plugin '{path}'")
    held = [*_registered.values(), *_transforms.values(), *_on_factors.values()]
    if len(held) == before and all(m.function.__module__ != module.__name__ for m in held):
        raise InputError(f"The plugin '{path}' registers no method (see @cermet.method).")

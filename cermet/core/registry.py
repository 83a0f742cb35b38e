"""What a method declares, and where methods are found.

A method is a function decorated with `@method`. Its signature declares its parameters,
the decorator declares what the engine has to know. Files under `cermet/methods/` are
found by walking the package; methods from outside come through the entry point
`cermet.methods` or from a file (`load_plugin`).
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from cermet.core.errors import InputError, MethodError
from cermet.core.needs import Need
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
    "all_methods",
    "call",
    "find_method",
    "load_plugin",
    "method",
    "takes",
]

PerModel = tuple[float, ...]
"""A parameter with one value for each model that the method is given, in recipe order."""

Base = Literal["required", "optional", "first", "none"]
"""What a method does with a base model.

required: it is subtracted from the experts, and added to the result. optional: the same
where the recipe names one. first: it is the first of the models that the method is given.
none: there is no base; a `base_model` in the recipe is one more input.
"""

Scope = Literal["tensor", "model"]
"""What a round is reduced over."""

_MISSING: Any = inspect.Parameter.empty
_ANY = (None, None)
_ENGINE_ONLY = {"mask", "noise", "place", "count"}


@dataclass(frozen=True, slots=True)
class Round:
    """A pass over the blocks of a tensor before the merge.

    Attributes
    ----------
    name: the argument under which later rounds, `fit` and `merge` receive the result.
    of: block, state and parameters -> values [..., *block]; pure.
    when: parameters -> whether the round is needed; its result is None where it is not.
    scope: what is reduced over: one tensor, or every tensor that the method merges. The
        parameters that a round over the model reads must be the same for all of them.
    only: place and parameters -> whether a tensor takes part in a round over the model.
    """

    name: str
    of: Callable[..., Any] | None = None
    when: Callable[..., bool] | None = None
    scope: Scope = "tensor"
    only: Callable[..., bool] | None = None


@dataclass(frozen=True, slots=True)
class Sum(Round):
    """Sums of `of` over the tensor: a float64 tensor [...]."""


@dataclass(frozen=True, slots=True)
class Gram(Round):
    """Inner products between the models over the tensor: a float64 tensor [models, models]."""


@dataclass(frozen=True, slots=True)
class Rows(Round):
    """Values of `of` [..., vectors] for each row (or column, by the grain) of a tensor: Vectors.

    `fit` gets all of them; the merge gets, as a tensor [..., vectors], those of its block.
    """


@dataclass(frozen=True, slots=True)
class Kth(Round):
    """Exact order statistics of `of` [rows, *block] over the tensor: a Cutoff.

    `rank` maps parameters (and `numel`, the number of elements in the scope, and `nonzero`,
    the number of non-zero values of each row) to how many of the largest values are kept:
    [rows][cuts] whole numbers. Where all are kept, the cutoff is -infinity, or the smallest
    value with `smallest`.
    """

    rank: Callable[..., Sequence[Sequence[int]]] = field(default=lambda: ())
    smallest: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """What a merge leaves of each expert beside the merged tensor; it makes an assembly.

    Attributes
    ----------
    name: its key in what the merge returns, and the argument under which `restore` gets it.
    only: place and parameters -> whether a tensor has this part; all have it by default.
    """

    name: str
    only: Callable[..., bool] | None = None


@dataclass(frozen=True, slots=True)
class Bits(Part):
    """Zeros and ones [models, *block], kept as one bit for each element and expert."""


@dataclass(frozen=True, slots=True)
class Numbers(Part):
    """Numbers [models, *shape] of a whole tensor, as every block of it returns them.

    `shape` maps place and parameters to the shape for one expert. They are kept in the dtype
    of the merged tensor, or in float32 with `exact`.
    """

    shape: Callable[..., tuple[int, ...]] = field(default=lambda: ())
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a method, as recipes and the documentation see it."""

    name: str  # as recipes spell it: `lambda`, not `lambda_`
    argument: str
    per_model: bool
    kind: type  # float, int, bool, or str where there are choices
    default: Any  # _MISSING where the recipe has to give a value
    optional: bool  # None is a value
    limits: tuple[float | None, float | None] = (None, None)  # least and most, inclusive
    choices: tuple[str, ...] = ()  # the words of a Literal

    @property
    def type_name(self) -> str:
        """What values it takes: the name of a type, or the words to choose from."""
        return " or ".join(self.choices) or self.kind.__name__

    @property
    def required(self) -> bool:
        """Whether a recipe has to give a value."""
        return self.default is _MISSING


@dataclass(frozen=True)
class Method:
    """A method with everything that it declares."""

    name: str
    function: Callable[..., Any]
    on: On
    base: Base
    grain: Callable[..., Grain]
    rounds: tuple[Round, ...]
    mask: Callable[..., Any] | None
    fit: Callable[..., Mapping[str, Any]] | None
    coefficients: Callable[..., PerModel | None] | None
    models: tuple[int, int | None]  # number of experts: least, most
    noise: bool
    workspace: float
    source: str
    check: Callable[..., str | None] | None
    accepts: Mapping[str, str]
    parameters: Mapping[str, Parameter]
    properties: frozenset[str]
    needs: tuple[Need, ...] = ()
    experimental: str = ""  # why, where the method is
    parts: tuple[Part, ...] = ()
    restore: Callable[..., Any] | None = None

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    @property
    def whole(self) -> bool:
        """Whether a round is reduced over the whole model."""
        return any(r.scope == "model" for r in self.rounds)

    def shared(self) -> frozenset[str]:
        """Arguments that must be the same for every tensor: those that whole-model rounds read."""
        if not self.whole:
            return frozenset()
        readers = [f for r in self.rounds for f in (r.of, r.when, r.only, getattr(r, "rank", None))]
        named = {name for f in (*readers, self.mask) if f is not None for name in takes(f)}
        return frozenset(p.argument for p in self.parameters.values() if p.argument in named)

    @property
    def passes(self) -> int:
        """How often the inputs are read at most: once for each round, and once to merge."""
        return len(self.rounds) + 1


_LIMITS: Mapping[str, Limits] = {"density": (0.0, 1.0)}  # wherever the name is used

_registered: dict[str, Method] = {}


Limits = tuple[float | None, float | None]


def _parameters(
    function: Callable[..., Any], derived: set[str], limits: Mapping[str, Limits]
) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    for argument, spec in inspect.signature(function, eval_str=True).parameters.items():
        if spec.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if argument in derived or argument in _ENGINE_ONLY:
            continue
        note = spec.annotation
        per_model = note == PerModel
        options = getattr(note, "__args__", ())
        optional = not per_model and type(None) in options
        if optional:
            note = next(o for o in options if o is not type(None))
            per_model = note == PerModel
        name = argument.rstrip("_")
        choices = get_args(note) if get_origin(note) is Literal else ()
        kind = float if per_model else str if choices else note
        if kind not in (float, int, bool) and not choices:
            raise MethodError(
                f"The parameter '{name}' of '{function.__name__}' is annotated {note!r}; a "
                "parameter is a float, an int, a bool, a Literal of words, or a cermet.PerModel."
            )
        limited = limits.get(name, _ANY)
        found[name] = Parameter(
            name, argument, per_model, kind, spec.default, optional, limited, choices
        )
    return found


def method(
    *,
    on: On,
    source: str,
    base: Base = "required",
    grain: Grain | Callable[..., Grain] = "element",
    mask: Callable[..., Any] | None = None,
    rounds: Sequence[Round] = (),
    fit: Callable[..., Mapping[str, Any]] | None = None,
    fitted: Sequence[str] = (),
    coefficients: Callable[..., PerModel | None] | None = None,
    models: tuple[int, int | None] = (1, None),
    noise: bool = False,
    workspace: float = 4.0,
    check: Callable[..., str | None] | None = None,
    accepts: Mapping[str, str] | None = None,
    limits: Mapping[str, Limits] | None = None,
    properties: Sequence[str] = (),
    needs: Sequence[Need] = (),
    experimental: str = "",
    parts: Sequence[Part] = (),
    restore: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a method; the decorated function is returned unchanged.

    Every function of a method gets what its signature names: parameters, the results of
    rounds, what `fit` returned, and from the engine `place` (the tensor's Place) and `count`
    (the number of models that the method is given).

    Parameters
    ----------
    on: "weights" or "deltas" (expert minus base; the engine subtracts, and adds back).
    source: where the method was published.
    base: see `Base`.
    grain: the smallest piece on which the maths is exact; may depend on the parameters.
    mask: block, state and parameters -> zeros and ones [models or 1, *block]. Rounds and
        merge that name `mask` receive it; the engine makes it once and keeps it as bits.
    rounds: passes before the merge, in order.
    fit: reduced state and parameters -> further arguments of the merge, once per tensor.
    fitted: the names of those arguments.
    coefficients: arguments of the merge -> cᵢ where its result is Σ cᵢxᵢ in order of the
        models, else None. The engine then adds the models up one by one, without a block of
        them all; the decorated function must give the same bits.
    models: least and most number of experts (None: any).
    noise: the merge (and its rounds) take `noise`, uniform in [0, 1), shaped as the block.
    workspace: bytes used beside the float32 block that is given, its base, its statistics and
        the result, as a multiple of the block.
    check: parameters -> what is wrong with them, or None.
    limits: least and most value of a parameter, None where there is none.
    accepts: parameters of mergekit that have no effect here, with the reason.
    properties: names of the properties that the contract test holds the method to.
    needs: statistics, each an argument of the functions that name it; see `Need`.
    experimental: in one sentence, why the method is not to be relied on yet.
    parts: what the merge returns of each expert: not a tensor then, but the merged tensor and
        a mapping from the parts' names.
    restore: merged block [*block] -> the block of one expert's model; takes `base` (the same
        block of the base) and the expert's parts by name, None where a tensor has none.
    """
    chosen: Callable[..., Grain] = grain if callable(grain) else lambda: grain

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        derived = {r.name for r in rounds} | set(fitted) | {n.name for n in needs}
        name = function.__name__
        _check_new(function)
        _registered[name] = Method(
            name=name,
            function=function,
            on=on,
            base=base,
            grain=chosen,
            mask=mask,
            rounds=tuple(rounds),
            fit=fit,
            coefficients=coefficients,
            models=models,
            noise=noise,
            workspace=workspace,
            source=source,
            check=check,
            accepts=dict(accepts or {}),
            parameters=_parameters(function, derived, {**_LIMITS, **(limits or {})}),
            properties=frozenset(properties),
            needs=tuple(needs),
            experimental=experimental,
            parts=tuple(parts),
            restore=restore,
        )
        return function

    return register


def _check_new(function: Callable[..., Any]) -> None:
    """Refuse a method without a docstring, and one that has the name of another."""
    name = function.__name__
    if not (function.__doc__ or "").strip():
        raise MethodError(
            f"The method '{name}' has no docstring; its first line is what `cermet methods` prints."
        )
    other = _registered.get(name)
    if other is not None and other.function.__module__ != function.__module__:
        raise MethodError(
            f"There is a method '{name}' already, in {other.function.__module__}; choose another "
            "name."
        )


@cache
def takes(function: Callable[..., Any]) -> frozenset[str]:
    """The names of a function's arguments."""
    return frozenset(inspect.signature(function).parameters)


def call(function: Callable[..., Any], *args: Any, **known: Any) -> Any:
    """Call a function with those of the known arguments that its signature names."""
    wanted = takes(function)
    return function(*args, **{k: v for k, v in known.items() if k in wanted})


@cache
def _walk() -> None:
    shelf = importlib.import_module("cermet.methods")  # by name: core stands below methods

    for module in pkgutil.walk_packages(shelf.__path__, shelf.__name__ + "."):
        importlib.import_module(module.name)
    for entry in importlib.metadata.entry_points(group="cermet.methods"):
        before = len(_registered)
        _imported(entry.load, f"The plugin '{entry.name}' ({entry.value})")
        if len(_registered) == before:
            raise InputError(
                f"The plugin '{entry.name}' ({entry.value}) registers no method (see "
                "@cermet.method); correct or uninstall its package."
            )


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


def find_method(name: str) -> Method:
    """The method of this name; MethodError with the nearest spelling where there is none."""
    methods = all_methods()
    if name in methods:
        return methods[name]
    near = difflib.get_close_matches(name, methods, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise MethodError(f"There is no method '{name}'.{hint} `cermet methods` lists them all.")


def load_plugin(path: Path) -> None:
    """Import a Python file that registers methods of its own (`--plugin file.py`).

    The file is run as code: name only files that you trust.
    """
    spec = importlib.util.spec_from_file_location(f"cermet_plugin_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InputError(f"The plugin '{path}' is not a Python file.")
    before = set(all_methods())
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader
    _imported(lambda: loader.exec_module(module), f"The plugin '{path}'")
    if set(_registered) == before and not any(
        m.function.__module__ == module.__name__ for m in _registered.values()
    ):
        raise InputError(f"The plugin '{path}' registers no method (see @cermet.method).")

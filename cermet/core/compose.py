"""A pipeline: transforms, one merge, transforms again, as a single method.

The transforms before the merge are given the delta of each model, those after it the merged
delta, as that of one model. Every function of a step is wrapped so that it sees the block as
the steps in front of it leave it, and so that its arguments have names of their own among
those of all steps. Nothing is kept of a block: a later pass makes it again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import mul
from typing import Any

from cermet.core.cover import workspace_of
from cermet.core.errors import MethodError
from cermet.core.registry import Method, Parameter, PerModel, call, takes
from cermet.core.rounds import Fit, Kth, Round
from cermet.core.types import Grain, Place

__all__ = ["compose", "misplaced", "signed"]

_SHARED = frozenset({"place", "count", "numel", "nonzero"})  # the engine's, the same for every step

Known = Mapping[str, Any]


def misplaced(steps: Sequence[Method]) -> tuple[int, str] | None:
    """The first of some steps that has no place in a pipeline, and why; None where all have."""
    merges = [i for i, step in enumerate(steps) if step.kind == "merge"]
    for i in merges:
        if steps[i].on != "deltas":
            return i, f"'{steps[i].name}' works on {steps[i].on}; a pipeline is made of deltas"
    for i, step in enumerate(steps):
        if step.needs and merges and i > merges[0]:
            return i, f"'{step.name}' needs statistics of models, and after the merge there is one"
    if len(merges) > 1:
        first, second = (steps[i].name for i in merges[:2])
        return merges[1], f"a pipeline has one merge, but '{first}' and '{second}' are two"
    if not merges:
        return len(steps) - 1, "a pipeline has one merge, but these steps are all transforms"
    return None


def compose(steps: Sequence[Method]) -> Method:
    """The steps of a pipeline as one method; MethodError where they are no pipeline.

    Its `steps` have the parameters by which the pipeline knows theirs. Its own are named after
    step and parameter: `trim.density`, and `trim_2.density` of a second `trim`.
    """
    if not steps:
        raise MethodError("A pipeline has at least one step.")
    wrong = misplaced(steps)
    if wrong is not None:
        raise MethodError(f"Step {wrong[0] + 1}: {wrong[1]}.")
    merge = next(i for i, step in enumerate(steps) if step.kind == "merge")
    chain = tuple(_Step(i, method, after=i > merge) for i, method in enumerate(_named(steps)))
    views = tuple(_view(chain, step) for step in chain)
    parameters = {f"{v.name}.{name}": p for v in views for name, p in v.parameters.items()}
    return replace(
        steps[merge],
        name=" > ".join(view.name for view in views),
        function=_merging(chain),
        base="required",
        grain=_grain(chain),
        rounds=tuple(r for view in views for r in view.rounds),
        mask=None,
        fit=None,
        form=None,
        coefficients=_coefficients(chain),
        draws={step.known_as(n): not step.after for step in chain for n in step.method.draws},
        workspace=_workspace(steps),
        source="; ".join(dict.fromkeys(step.source for step in steps)),
        check=None,
        accepts={},
        parameters=parameters,
        properties=frozenset(),
        needs=tuple(dict.fromkeys(need for step in steps for need in step.needs)),
        experimental="; ".join(step.experimental for step in steps if step.experimental),
        parts=(),  # of an assembly the merged model alone goes on to the next step
        restore=None,
        continues=None,  # one more expert would need all of the steps
        otherwise=None,  # the steps look to it, see `_Step.applied`
        steps=views,
    )


@dataclass(frozen=True)
class _Step:
    """One step, and the names that a pipeline knows its arguments by."""

    index: int
    method: Method
    after: bool  # the merge

    def _shared(self, name: str) -> bool:
        return name in _SHARED or any(name == need.name for need in self.method.needs)

    def known_as(self, name: str) -> str:
        return name if self._shared(name) else f"s{self.index}_{name}"

    def asks(self, *functions: Callable[..., Any] | None) -> list[str]:
        """What the pipeline has to know for functions of this step to be called."""
        named = {name for f in functions if f is not None for name in takes(f)}
        if "mask" in named and self.method.mask is not None:
            named |= takes(self.method.mask)
        return sorted(map(self.known_as, named - {"mask", "original"}))

    def call(self, function: Callable[..., Any], *block: Any, known: Known, **more: Any) -> Any:
        """Call a function of this step with what the pipeline knows."""
        own = {name: value for name, value in known.items() if self._shared(name)} | more
        prefix = self.known_as("")
        own |= {n.removeprefix(prefix): v for n, v in known.items() if n.startswith(prefix)}
        if self.after:
            own["count"] = 1
            for p in self.method.parameters.values():
                if p.per_model and own.get(p.argument) is not None:
                    own[p.argument] = (own[p.argument],)
        if "mask" in takes(function) and self.method.mask is not None:
            own["mask"] = call(self.method.mask, *block, **own)
        return call(function, *block, **own)

    def applied(self, block: Any, known: Known, original: Any) -> Any:
        """What the step makes of a block."""
        shares = self.plain(known)
        if shares is None:
            return self.call(self.method.function, block, known=known, original=original)
        return sum(share * model for share, model in zip(shares, block, strict=True))

    def plain(self, known: Known) -> Any:
        """The coefficients of a tensor that the step's maths does not cover, else None."""
        other = self.method.otherwise
        return None if other is None else self.call(other, known=known)

    def renamed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of this step that takes no block, for the pipeline."""

        def called(**known: Any) -> Any:
            return self.call(function, known=known)

        return signed(called, self.asks(function))

    def parameter(self, own: Parameter) -> Parameter:
        """A parameter of the step in the pipeline: after the merge there is one model."""
        known = replace(own, argument=self.known_as(own.argument))
        if not (self.after and own.per_model):
            return known
        default = own.default[0] if isinstance(own.default, tuple) else own.default
        return replace(known, per_model=False, default=default)


_Chain = tuple[_Step, ...]


def signed(function: Callable[..., Any], names: Iterable[str]) -> Callable[..., Any]:
    """The function, which takes any arguments, with a signature that names those it asks for."""
    kind = inspect.Parameter.KEYWORD_ONLY
    asked = [inspect.Parameter(name, kind) for name in dict.fromkeys(names)]
    function.__signature__ = inspect.Signature(asked)  # type: ignore[attr-defined]
    return function


def _reached(chain: _Chain, block: Any, known: Known) -> tuple[Any, Any]:
    """A block as all these steps leave it, and as it was before those on its side of the merge."""
    original = block
    for step in chain:
        block = step.applied(block, known, original)
        if step.method.kind == "merge":
            merged = block[0] if step.method.parts else block
            original = block = merged[None]
    return block, original


def _asked(chain: _Chain) -> list[str]:
    return [
        name for step in chain for name in step.asks(step.method.function, step.method.otherwise)
    ]


def _coefficients(chain: _Chain) -> Callable[..., PerModel | None] | None:
    """Those of the merge times the factors of all other steps, where every step has some."""
    pairs = [(step, step.method.coefficients) for step in chain if step.method.otherwise is None]
    each = [(step, function) for step, function in pairs if function is not None]
    if len(each) < len(chain):
        return None

    def coefficients(**known: Any) -> PerModel | None:
        found: PerModel | None = None
        for step, function in each:
            own = step.call(function, known=known)
            if own is None:
                return None
            factors = own * len(found) if step.after and found is not None else own
            found = factors if found is None else tuple(map(mul, found, factors))
        return found

    return signed(coefficients, [name for step, function in each for name in step.asks(function)])


def _summed(block: Any, factors: PerModel) -> Any:
    """Σ cᵢxᵢ as the engine adds it up, model by model."""
    total = block[0] * factors[0]
    for model, factor in zip(block[1:], factors[1:], strict=True):
        total.add_(model, alpha=factor)
    return total


def _merging(chain: _Chain) -> Callable[..., Any]:
    """All steps as the function of one method."""
    coefficients = _coefficients(chain)

    def pipeline(block: Any, **known: Any) -> Any:
        factors = None if coefficients is None else coefficients(**known)
        return _reached(chain, block, known)[0][0] if factors is None else _summed(block, factors)

    summaries = (f"{s.method.name}: {s.method.summary.removesuffix('.')}" for s in chain)
    pipeline.__doc__ = "; ".join(summaries) + "."
    asked = [] if coefficients is None else sorted(takes(coefficients))
    return signed(pipeline, [*_asked(chain), *asked])


def _after(chain: _Chain, step: _Step, function: Callable[..., Any] | None) -> Callable[..., Any]:
    """A function of a step on the block that the steps in front of it leave."""
    before = chain[: step.index]

    def values(block: Any, **known: Any) -> Any:
        block, original = _reached(before, block, known)
        if function is None:
            return block
        return step.call(function, block, known=known, original=original)

    return signed(values, [*_asked(before), *step.asks(function)])


def _view(chain: _Chain, step: _Step) -> Method:
    """A step with the rounds and the parameters that it has in the pipeline."""
    rounds: list[Round] = []
    for spec in step.method.rounds:
        if isinstance(spec, Fit) and spec.of is not None:  # of a step that is a pipeline itself
            rounds.append(_fitted(step, spec.of))
            continue
        found = replace(
            spec,
            name=step.known_as(spec.name),
            of=_after(chain, step, spec.of),
            when=spec.when and step.renamed(spec.when),
            only=spec.only and step.renamed(spec.only),
        )
        if isinstance(spec, Kth) and isinstance(found, Kth):
            found = replace(found, rank=step.renamed(spec.rank))
        rounds.append(found)
    if step.method.fit is not None:
        rounds.append(_fitted(step, step.method.fit))
    parameters = {name: step.parameter(p) for name, p in step.method.parameters.items()}
    check = step.method.check and step.renamed(step.method.check)
    return replace(
        step.method, rounds=tuple(rounds), parameters=parameters, check=check, accepts={}
    )


def _fitted(step: _Step, fit: Callable[..., Mapping[str, Any]]) -> Fit:
    """A step's fit, as a round that reads nothing."""

    def fitted(**known: Any) -> dict[str, Any]:
        found = step.call(fit, known=known)
        return {step.known_as(name): value for name, value in found.items()}

    return Fit(step.known_as("fit"), of=signed(fitted, step.asks(fit)))


def _named(steps: Sequence[Method]) -> list[Method]:
    """The steps, with a number in the name of one that stands a second time."""
    found = []
    for i, step in enumerate(steps):
        nth = sum(other.name == step.name for other in steps[: i + 1])
        found.append(step if nth == 1 else replace(step, name=f"{step.name}_{nth}"))
    return found


def _grain(chain: _Chain) -> Callable[..., Grain]:
    """The coarsest grain of the steps; MethodError where no cut keeps whole what two need."""

    def grain(**known: Any) -> Grain:
        name, found = chain[0].method.name, "element"
        for step in chain:
            covered = step.plain(known) is None
            own = step.call(step.method.grain, known=known) if covered else "element"
            if "element" not in (own, found) and own != found:
                raise MethodError(
                    f"'{name}' needs whole {found}s and '{step.method.name}' whole {own}s, which "
                    "no cut into blocks keeps both; leave one of them out."
                )
            if own != "element":
                name, found = step.method.name, own
        return found  # type: ignore[return-value]  # one of those of the steps

    functions = ((step, (step.method.grain, step.method.otherwise)) for step in chain)
    return signed(grain, [name for step, both in functions for name in step.asks(*both)])


def _workspace(steps: Sequence[Method]) -> Callable[..., float]:
    """Bytes beside the block, as a multiple of it: the largest of any step.

    Behind the first step the block that it works on is another than the one that was read.
    Random numbers of every step are there all the time.
    """
    drawn = float(sum(len(step.draws) for step in steps))

    def workspace(*, count: int = 2, place: Place | None = None) -> float:
        each = (workspace_of(step, count, place) for step in steps)
        return drawn + max(own + (i > 0) for i, own in enumerate(each))

    return workspace

"""A method that is a pipeline of others: declared as one, not written again.

The decorated function maps the method's parameters to those of its steps. Everything else, the
maths, the rounds, the random numbers and the memory, comes from the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cermet.core.compose import compose, signed
from cermet.core.errors import MethodError
from cermet.core.parameters import Limits, Parameter, parameters_of
from cermet.core.registry import Method, call, declared, enrol, takes
from cermet.core.rounds import Kth, Round

__all__ = ["Given", "composition"]

Given = tuple[Mapping[str, Any], ...]
"""What each step is given, by the names of recipes; what is left out has the step's default."""


def composition(
    *steps: Callable[..., Any],
    source: str,
    workspace: float | None = None,
    properties: Sequence[str] = (),
    limits: Mapping[str, Limits] | None = None,
) -> Callable[[Callable[..., Given]], Callable[..., Given]]:
    """Declare a method that is a pipeline; the decorated function is returned unchanged.

    That function takes parameters, and `place` and `count` where it names them, by keyword, and
    returns what each step is given. Its docstring is the method's page.

    Parameters
    ----------
    steps: functions that are declared themselves: transforms, one merge of deltas, transforms.
    source, properties, limits: as for any method.
    workspace: as for any method, where it is less than what the steps ask for one by one.
    """

    def register(function: Callable[..., Given]) -> Callable[..., Given]:
        whole = compose([declared(step) for step in steps])
        parameters = parameters_of(function, set(), limits or {})
        form = _Form(function, whole, tuple(p.argument for p in parameters.values()))
        merge = form.translated(whole.function)
        for name in ("__name__", "__qualname__", "__module__", "__doc__"):
            setattr(merge, name, getattr(function, name))
        found = replace(
            whole,
            name=function.__name__,
            function=merge,
            grain=form.translated(whole.grain),
            rounds=tuple(form.round(spec) for spec in whole.rounds),
            coefficients=whole.coefficients and form.translated(whole.coefficients),
            workspace=whole.workspace if workspace is None else lambda: workspace,
            source=source,
            check=form.check(),
            parameters=parameters,
            properties=frozenset(properties),
            steps=(),
            composed=tuple(step.name for step in whole.steps),
        )
        enrol(found)
        return function

    return register


@dataclass(frozen=True)
class _Form:
    """The functions of a pipeline, to be called with the parameters of the method that it is."""

    function: Callable[..., Given]
    whole: Method
    arguments: tuple[str, ...]  # of the method

    def _steps(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of all steps, by the arguments that the pipeline knows them by."""
        found: dict[str, Any] = {}
        given = call(self.function, **known)
        for step, own in zip(self.whole.steps, given, strict=True):
            wrong = own.keys() - step.parameters.keys()
            wrong |= {n for n, p in step.parameters.items() if p.required and n not in own}
            if wrong:
                raise MethodError(
                    f"'{self.function.__name__}' gives its step '{step.name}' {sorted(own)}; "
                    f"{sorted(wrong)} does not fit (it takes {', '.join(step.parameters)})."
                )
            for name, p in step.parameters.items():
                found[p.argument] = own[name] if name in own else _default(p, known["count"])
        return found

    def translated(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """A function of the pipeline as one of the method."""
        theirs = {p.argument for step in self.whole.steps for p in step.parameters.values()}
        if not takes(inner) & theirs:
            return inner

        def called(*block: Any, **known: Any) -> Any:
            return call(inner, *block, **{**known, **self._steps(known)})

        own = {"count", *self.arguments, *takes(self.function)}
        return signed(called, sorted(takes(inner) - theirs | own))

    def round(self, spec: Round) -> Round:
        """A round of the pipeline as one of the method."""
        found = replace(
            spec,
            of=spec.of and self.translated(spec.of),
            when=spec.when and self.translated(spec.when),
            only=spec.only and self.translated(spec.only),
        )
        if isinstance(found, Kth):
            return replace(found, rank=self.translated(found.rank))
        return found

    def check(self) -> Callable[..., str | None] | None:
        """What the steps say is wrong with their parameters, the first of it."""
        checks = [step.check for step in self.whole.steps if step.check is not None]

        def first(**known: Any) -> str | None:
            return next(filter(None, (call(check, **known) for check in checks)), None)

        names = sorted({name for check in checks for name in takes(check)})
        return self.translated(signed(first, names)) if checks else None


def _default(parameter: Parameter, count: int) -> Any:
    several = parameter.per_model and parameter.default is not None
    return parameter.default * count if several else parameter.default

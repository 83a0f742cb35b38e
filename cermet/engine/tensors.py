"""Any method on tensors in memory, with the code that merges files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from cermet.anatomy import survey
from cermet.checkpoints.dtypes import FLOATS, TORCH
from cermet.checkpoints.reader import MemoryCheckpoint
from cermet.core.compose import compose
from cermet.core.cover import plain_sum
from cermet.core.errors import MethodError, MismatchError, RecipeError
from cermet.core.registry import Method, Parameter, call, find_method, find_step
from cermet.engine.blocks import Input
from cermet.engine.executors import Staged, one_thread
from cermet.engine.group import grouped
from cermet.engine.memory import DEFAULT_BUDGET
from cermet.engine.options import Options, executor_for
from cermet.engine.restore import RestoreJob, parts_of, shares
from cermet.engine.run import job_of, parts_out
from cermet.engine.target import MemoryTarget
from cermet.recipes.assembly import slots_of
from cermet.recipes.plan import Named, Task
from cermet.recipes.settings import convert, unknown

__all__ = ["device_of", "merge_tensors"]

Steps = Sequence[str | tuple[str, Mapping[str, Any]]]
"""A pipeline: names of its steps, each perhaps with its parameters."""


def merge_tensors(
    method: str | Steps,
    base: Mapping[str, torch.Tensor] | None,
    experts: Sequence[Mapping[str, torch.Tensor]],
    *,
    seed: int = 0,
    noise: Mapping[str, torch.Tensor] | None = None,
    needs: Mapping[str, Any] | None = None,
    task: int | Mapping[int, float] | None = None,
    threads: int = 1,
    memory: int = DEFAULT_BUDGET,
    block: int | None = None,
    **parameters: Any,
) -> dict[str, torch.Tensor]:
    """Run any method on tensors in memory, with the code that `merge` runs.

    Parameters
    ----------
    method: name of a method, or the steps of a pipeline: `[("trim", {"density": 0.2}), ...]`.
    base: tensors of the base; None where the method needs none.
    experts: tensors of the experts, with the same names and shapes.
    seed, noise: the seed of random methods, or their draws [experts, *shape] in [0, 1) by
        tensor name; those of several random steps one after another.
    needs: named statistics, for methods that declare them: name -> tensors with the names and
        shapes of the model's, one mapping for all experts or a sequence in their order.
    task: of a method that makes an assembly, the expert whose model is restored from it, or
        experts and their weights; the merged model itself by default.
    threads, memory: workers, and bytes that they may take beside the models; block: elements of
        a block, by default what fits into that.
    parameters: of the method; one that has a value for each model is a number or a sequence
        in the order of the experts.

    Returns the merged tensors, in the dtype of the base (or of the first expert), on the device
    that all models are on, which does the work; an expert of an assembly is restored on the CPU.
    Raises MethodError, MismatchError, NonFiniteError; BudgetError where a whole matrix that the
    method looks at does not fit into the memory.
    """
    found, values = _found(method, parameters, len(experts))
    _refuse(found, len(experts), based=base is not None, drawn=noise is not None)
    models = [*experts, *([base] if base is not None else [])]
    names = [f"expert{i}" for i in range(len(experts))] + ["base"]
    device = device_of(models, names)
    if task is not None:
        models = [{name: t.cpu() for name, t in model.items()} for model in models]
    checkpoints = tuple(MemoryCheckpoint(n, m) for n, m in zip(names, models, strict=False))
    template = len(experts) if base is not None else 0
    held, statistics = _statistics(found, needs or {}, len(experts), len(checkpoints))
    weights = _weights(found, task, len(experts))
    labels = [str(i) for i in range(len(experts))]
    out: dict[str, torch.Tensor] = {}
    kept: dict[str, torch.Tensor] = {}
    work = torch.device("cpu") if task is not None else device
    options = Options(memory, threads, str(work), block=block)
    jobs: list[Staged] = []
    tasks = [
        replace(bare, needs=_needed(bare, statistics, held, len(checkpoints)))
        for bare in _memory_tasks(found, checkpoints, template, values, base is not None)
    ]
    for each in tasks:
        out[each.name] = torch.empty(
            each.shape, dtype=models[template][each.name].dtype, device=work
        )
        for slot in slots_of(each, labels):
            kept[slot.name] = torch.empty(slot.shape, dtype=TORCH[slot.dtype])
        draws = None if noise is None else _draws(noise, each, len(experts))
        jobs.append(
            job_of(
                each, (*checkpoints, *held), MemoryTarget(out[each.name]), options, seed=seed,
                noise=draws,
                parts=parts_out(each, labels, lambda name: MemoryTarget(kept[name])),
            )
        )  # fmt: skip
    _run(jobs, options)
    if weights:
        parts = MemoryCheckpoint("parts", kept)
        restored = _restored(tasks, checkpoints, parts, out, weights, options)
        return {name: tensor.to(device) for name, tensor in restored.items()}
    return out


def _refuse(found: Method, count: int, *, based: bool, drawn: bool) -> None:
    """MethodError where a method is not for what it is given: experts, a base, draws."""
    name = found.name
    if found.on == "factors":
        raise MethodError(f"'{name}' merges LoRA adapters; give them to cermet.merge_adapters.")
    if drawn and not found.noise:
        raise MethodError(f"'{name}' draws no random numbers, so it takes no noise.")
    if found.base in ("required", "first") and not based:
        raise MethodError(f"'{name}' needs a base.")
    if found.base == "none" and based:
        raise MethodError(f"'{name}' takes no base; give it as one of the experts.")
    least, most = found.models
    if count < least or (most is not None and count > most):
        raise MethodError(f"'{name}' does not take {count} experts.")


def device_of(models: Sequence[Mapping[str, torch.Tensor]], names: Sequence[str]) -> torch.device:
    """The device of all tensors; MismatchError where they are on several."""
    first: torch.device | None = None
    for label, model in zip(names, models, strict=False):
        for name, tensor in model.items():
            first = first or tensor.device
            if tensor.device != first:
                raise MismatchError(
                    f"Tensor '{name}' of {label} is on {tensor.device}, others are on {first}; "
                    "move all models to one device."
                )
    return first or torch.device("cpu")


def _run(jobs: Sequence[Staged], options: Options) -> None:
    with one_thread():
        executor_for(options.workers()).run(grouped(jobs))


def _weights(
    method: Method, task: int | Mapping[int, float] | None, count: int
) -> dict[int, float]:
    """Experts to restore and their shares of 1; none where the merged model is wanted."""
    if task is None:
        return {}
    if method.restore is None:
        raise MethodError(f"'{method.name}' makes one model, so there is no task to restore.")
    given = task if isinstance(task, Mapping) else {task: 1.0}
    for index in given:
        if not 0 <= index < count:
            raise MethodError(f"There is no expert {index}; they are 0 to {count - 1}.")
    return shares(given)


def _restored(
    tasks: Sequence[Task],
    checkpoints: tuple[MemoryCheckpoint, ...],
    kept: MemoryCheckpoint,
    merged: Mapping[str, torch.Tensor],
    weights: Mapping[int, float],
    options: Options,
) -> dict[str, torch.Tensor]:
    """The model of some experts out of what a merge has left in memory."""
    source = MemoryCheckpoint("merged", merged)
    out, jobs = dict(merged), []
    for task in tasks:
        if task.method is None:
            continue
        out[task.name] = torch.empty_like(merged[task.name])
        named = task.base
        base = None if named is None else Input(checkpoints[named.model], named.tensor)
        jobs.append(
            RestoreJob(
                task.place, task.method, task.parameters, Input(source, task.name), base, kept,
                [parts_of(task.method, str(i), task.name, kept.tensors) for i in weights],
                list(weights.values()), MemoryTarget(out[task.name]), block=options.block,
            )
        )  # fmt: skip
    _run(jobs, options)
    return out


def _found(method: str | Steps, given: Mapping[str, Any], count: int) -> tuple[Method, Any]:
    """The method, or the pipeline as one, and its arguments."""
    if isinstance(method, str):
        found = find_method(method)
        return found, _values(found, given, count)
    if given:
        raise MethodError(f"The parameters of a pipeline stand beside its steps; move {[*given]}.")
    steps = [(step, {}) if isinstance(step, str) else step for step in method]
    found = compose([find_step(name) for name, _ in steps])
    values: dict[str, Any] = {}
    for step, (_, own) in zip(found.steps, steps, strict=True):
        values |= _values(step, own, count)
    return found, values


def _draws(noise: Mapping[str, torch.Tensor], task: Task, count: int) -> torch.Tensor | None:
    """The draws that a caller gives for a tensor; MethodError where they do not fit it."""
    if task.method is None:
        return None
    wanted = (sum(count if each else 1 for each in task.method.draws.values()), *task.shape)
    given = noise.get(task.name)
    if given is None or tuple(given.shape) != wanted:
        shape = "missing" if given is None else str(list(given.shape))
        raise MethodError(
            f"The noise of tensor '{task.name}' is {shape}; it must be {list(wanted)}, one draw "
            "for each expert and element."
        )
    return given


def _statistics(
    method: Method, given: Mapping[str, Any], count: int, first: int
) -> tuple[list[MemoryCheckpoint], dict[str, list[int]]]:
    """The statistics that a caller gives, and for each name the models that hold it.

    Numbers of models count on from `first`. MethodError where they are not those that the
    method declares.
    """
    known = {need.name: need for need in method.needs}
    for name in given:
        if name not in known:
            wanted = f"takes only {', '.join(known)}" if known else "needs no statistics"
            raise MethodError(f"'{method.name}' {wanted}, but was given '{name}'.")
    held: list[MemoryCheckpoint] = []
    found: dict[str, list[int]] = {}
    for name, need in known.items():
        if name not in given:
            raise MethodError(f"'{method.name}' needs the statistic '{name}' ({need.about}).")
        one = isinstance(given[name], Mapping)
        parts = [given[name]] if one else list(given[name])
        if not one and (not need.per_model or len(parts) != count):
            wanted = f" for {count} experts" if need.per_model else ", but is one for all"
            raise MethodError(f"'{method.name}': '{name}' has {len(parts)} values{wanted}.")
        start = first + len(held)
        held += [MemoryCheckpoint(name if one else f"{name}{i}", p) for i, p in enumerate(parts)]
        places = list(range(start, start + len(parts)))
        found[name] = places * count if one and need.per_model else places
    return held, found


def _needed(
    task: Task, statistics: Mapping[str, list[int]], held: Sequence[MemoryCheckpoint], first: int
) -> dict[str, tuple[Named, ...]]:
    """The statistics of one tensor; MismatchError where one is missing or of another shape."""
    if task.method is None:
        return {}
    known = {"place": task.place, "count": len(task.sources), **task.parameters}
    plain = plain_sum(task.method, **known) is not None
    wanted = {n.name: n.shape(task.place) for n in task.method.needs if n.wanted(plain=plain)}
    for name, shape in wanted.items():
        for model in statistics[name]:
            info = held[model - first].tensors.get(task.name)
            if info is None or info.shape != shape or info.dtype not in FLOATS:
                found = "missing" if info is None else f"{info.dtype} {list(info.shape)}"
                raise MismatchError(
                    f"Tensor '{task.name}' is {found} in the statistics "
                    f"'{held[model - first].path}'; they must hold numbers {list(shape)} for it."
                )
    return {n: tuple(Named(m, task.name) for m in statistics[n]) for n in wanted}


def _values(method: Method, given: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Arguments of a method from what a caller gave by recipe names."""
    spelled = {name.rstrip("_"): value for name, value in given.items()}
    for name in spelled:
        if name not in method.parameters and name not in method.accepts:
            raise unknown(method, name)
    found: dict[str, Any] = {}
    for parameter in method.parameters.values():
        if parameter.name not in spelled and parameter.required:
            raise MethodError(f"'{method.name}' needs '{parameter.name}'.")
        found[parameter.argument] = _value(method, parameter, spelled, count)
    problem = call(method.check, **found) if method.check is not None else None
    if problem is not None:
        raise MethodError(f"'{method.name}': {problem}.")
    return found


def _value(method: Method, parameter: Parameter, spelled: Mapping[str, Any], count: int) -> Any:
    if parameter.name not in spelled:
        default = parameter.default
        return default * count if parameter.per_model and default is not None else default
    value = spelled[parameter.name]
    if not parameter.per_model or value is None:
        return _converted(method, parameter, value)
    several = isinstance(value, Sequence) and not isinstance(value, str)
    values = list(value) if several else [value] * count
    if len(values) != count:
        raise MethodError(
            f"'{method.name}': '{parameter.name}' has {len(values)} values for {count} experts."
        )
    return tuple(_converted(method, parameter, v) for v in values)


def _converted(method: Method, parameter: Parameter, value: Any) -> Any:
    try:
        return convert(parameter, value, f"'{method.name}'")
    except RecipeError as error:  # there is no recipe here
        raise MethodError(str(error)) from error


def _memory_tasks(
    method: Method,
    checkpoints: tuple[MemoryCheckpoint, ...],
    template: int,
    values: Mapping[str, Any],
    with_base: bool,
) -> list[Task]:
    known = checkpoints[template].tensors
    for checkpoint in checkpoints:
        for name in checkpoint.tensors:
            if name not in known:
                raise MismatchError(
                    f"Tensor '{name}' of {checkpoint.path} is missing in "
                    f"{checkpoints[template].path}; all must have the same tensors."
                )
    places = survey({n: t.shape for n, t in known.items()}, {}).places
    tasks = []
    for name, info in known.items():
        for checkpoint in checkpoints:
            other = checkpoint.tensors.get(name)
            if other is None or other.shape != info.shape:
                shape = "missing" if other is None else str(list(other.shape))
                raise MismatchError(
                    f"Tensor '{name}' is {list(info.shape)} in {checkpoints[template].path} but "
                    f"{shape} in {checkpoint.path}."
                )
            if info.dtype in FLOATS and other.dtype not in FLOATS:
                raise MismatchError(
                    f"Tensor '{name}' is {info.dtype} in {checkpoints[template].path} but "
                    f"{other.dtype} in {checkpoint.path}, which is no dtype of weights."
                )
        experts = tuple(Named(i, name) for i in range(len(checkpoints) - (1 if with_base else 0)))
        base = Named(template, name) if with_base else None
        if info.dtype not in FLOATS:
            held = (Named(template, name), *experts)
            tasks.append(Task(name, info.dtype, info.shape, places[name], None, held))
            continue
        if method.base == "first" and base is not None:
            experts, base = (base, *experts), None
        tasks.append(
            Task(name, info.dtype, info.shape, places[name], method, experts, base, (), values)
        )
    return tasks

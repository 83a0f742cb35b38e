"""`cermet evaluate MODEL --pool POOL`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cermet.cli.options import AsJson, Device, Threads
from cermet.cli.sections import print_table
from cermet.core.errors import InputError

if TYPE_CHECKING:
    from cermet.evaluate.report import Evaluation, TaskResult

__all__ = ["evaluate"]

_METRICS = {
    "accuracy": "accuracy",
    "exact_match": "exact match",
    "bits_per_character": "bits/char",
}


class _Split(StrEnum):
    VALIDATION = "validation"
    TEST = "test"


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="Folder, hub name, base+adapter, archive, assembly, or a name of the pool's."
        ),
    ],
    pool: Annotated[
        Path | None, typer.Option(help="pool.yaml, or the folder that holds it.")
    ] = None,
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="A task; can stand often; all by default.")
    ] = None,
    split: Annotated[_Split, typer.Option(help="Which examples.")] = _Split.TEST,
    against: Annotated[
        str | None, typer.Option(help="Another model, to count what is worse than with it.")
    ] = None,
    experts: Annotated[
        bool, typer.Option("--experts", help="Run each task's expert on it too.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take the first examples of each task.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of records and outcomes; known ones are found.")
    ] = None,
    device: Device = "cpu",
    threads: Threads = None,
    lm_eval: Annotated[
        list[str] | None,
        typer.Option(help="Task of lm-evaluation-harness, or of the pool, run by it; A,B too."),
    ] = None,
    include_path: Annotated[
        list[Path] | None, typer.Option(help="Folder with task files for --lm-eval.")
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="Examples in a prompt, with --lm-eval.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Rows of a batch, with --lm-eval.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on the tasks of a pool, or with lm-evaluation-harness."""
    from cermet import evaluation
    from cermet.cli.harness import print_harness, task_names
    from cermet.cli.progress import parts
    from cermet.cli.records import json_of

    ours = {"--task": tasks, "--against": against, "--experts": experts, "--out": out}
    theirs = {"--include-path": include_path, "--num-fewshot": num_fewshot, "--batch": batch}
    _check(pool, lm_eval, ours, theirs)
    if lm_eval is not None:
        with parts() as begin:
            numbers = evaluation.evaluate_with_harness(
                model,
                task_names(lm_eval),
                pool=pool,
                include=include_path or [],
                split=split.value,
                limit=limit,
                shots=num_fewshot,
                batch=batch,
                device=device,
                threads=threads,
                begin=begin,
            )
        if as_json:
            typer.echo(json_of(numbers))
        else:
            print_harness(numbers)
        return
    assert pool is not None
    with parts() as begin:
        found = evaluation.evaluate(
            model,
            pool,
            tasks=tasks,
            split=split.value,
            against=against,
            experts=experts,
            limit=limit,
            out=out,
            device=device,
            threads=threads,
            begin=begin,
        )
    if as_json:
        typer.echo(json_of(found))
        return
    _print(found)
    if out is not None:
        kept = sum(not task.run for task in found.tasks)
        typer.echo(f"{out}: {len(found.tasks)} tasks, {kept} of them found, not run.")


def _check(
    pool: Path | None,
    lm_eval: list[str] | None,
    ours: Mapping[str, object],
    theirs: Mapping[str, object],
) -> None:
    """Refuse options that would not be heard."""
    if pool is None and lm_eval is None:
        raise InputError("Name a pool (--pool), or tasks of lm-evaluation-harness (--lm-eval).")
    for name, value in (theirs if lm_eval is None else ours).items():
        if value is not None and value is not False:
            word = "only with" if lm_eval is None else "without"
            raise InputError(f"{name} goes {word} --lm-eval.")


def _print(found: Evaluation) -> None:
    """One row a task, then what is said of all together."""
    columns = ["task", "metric", "examples", "value", "95 % interval"]
    if found.normalised is not None:
        columns.append("of the expert")
    if found.against is not None:
        columns += ["against", "worse", "agree"]
    columns.append("a second")
    print_table(columns, [_row(found, task) for task in found.tasks], left=(0, 1))
    for line in _summary(found):
        typer.echo(line)


def _row(found: Evaluation, task: TaskResult) -> list[str]:
    shown = _number if task.metric == "bits_per_character" else _percent
    row = [task.task, _METRICS[task.metric], f"{task.examples:,}", shown(task.value)]
    row.append(f"{shown(task.low)} to {shown(task.high)}")
    if found.normalised is not None:
        row.append(_percent(task.normalised))
    if found.against is not None:
        other = "-" if task.other is None else shown(task.other)
        row += [other, _percent(task.negative_flips), _percent(task.agreement)]
    if task.tokens_per_second:
        return [*row, f"{task.tokens_per_second:,.0f} tokens"]
    return [*row, f"{task.examples_per_second:,.0f} examples"]


def _summary(found: Evaluation) -> list[str]:
    lines = []
    if found.mean is not None and len(found.tasks) > 1:
        bits = found.tasks[0].metric == "bits_per_character"
        mean = _number(found.mean) if bits else _percent(found.mean)
        lines.append(f"Mean over {len(found.tasks)} tasks: {mean}.")
    if found.normalised is not None:
        count = sum(task.normalised is not None for task in found.tasks)
        lines.append(f"Of the expert, mean over {count}: {_percent(found.normalised)}.")
    if found.forgetting is not None:
        lines.append(
            f"Of what '{found.against}' could do, '{found.model}' cannot: "
            f"{_percent(found.forgetting)}."
        )
    peak = max(task.peak_bytes for task in found.tasks)
    lines.append(f"Peak memory: {peak / 1e6:,.0f} MB.")
    return lines


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _number(value: float) -> str:
    return f"{value:.3f}"

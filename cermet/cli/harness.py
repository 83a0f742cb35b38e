"""`cermet evaluate MODEL --lm-eval TASK`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cermet.evaluate.harness import HarnessResult
    from cermet.evaluation import HarnessEvaluation

__all__ = ["print_harness", "task_names"]

_FILTER_NONE = "none"


def task_names(written: list[str]) -> list[str]:
    """The names of options that stand often or hold several names, each once."""
    names = [name.strip() for part in written for name in part.split(",")]
    return list(dict.fromkeys(name for name in names if name))


def print_harness(found: HarnessEvaluation) -> None:
    """One row a metric, as the harness would print it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(("task", "metric", "examples", "value", "standard error")):
        table.add_column(column, justify="left" if number < 2 else "right", no_wrap=True)
    for result in found.results:
        error = "-" if result.error is None else f"{result.error:.4f}"
        table.add_row(
            result.task, _metric(result), f"{result.examples:,}", f"{result.value:.4f}", error
        )
    Console().print(table)


def _metric(result: HarnessResult) -> str:
    """With its filter, where there is one, and which way is better."""
    name = result.metric
    if result.filter != _FILTER_NONE:
        name += f" ({result.filter})"
    if result.higher_is_better is None:
        return name
    return f"{name} {'↑' if result.higher_is_better else '↓'}"

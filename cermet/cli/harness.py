"""`cermet evaluate MODEL --lm-eval TASK`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cermet.cli.options import words
from cermet.cli.sections import print_table

if TYPE_CHECKING:
    from cermet.evaluate.harness import HarnessResult
    from cermet.evaluation import HarnessEvaluation

__all__ = ["print_harness", "task_names"]

_FILTER_NONE = "none"


def task_names(written: list[str]) -> list[str]:
    """The names of options that stand often or hold several names, each once."""
    return list(dict.fromkeys(name for part in written for name in words(part)))


def print_harness(found: HarnessEvaluation) -> None:
    """One row a metric, as the harness would print it."""
    titles = ("task", "metric", "examples", "value", "standard error")
    print_table(titles, [_row(result) for result in found.results], left=(0, 1))


def _row(result: HarnessResult) -> list[str]:
    error = "-" if result.error is None else f"{result.error:.4f}"
    return [result.task, _metric(result), f"{result.examples:,}", f"{result.value:.4f}", error]


def _metric(result: HarnessResult) -> str:
    """With its filter, where there is one, and which way is better."""
    name = result.metric
    if result.filter != _FILTER_NONE:
        name += f" ({result.filter})"
    if result.higher_is_better is None:
        return name
    return f"{name} {'↑' if result.higher_is_better else '↓'}"

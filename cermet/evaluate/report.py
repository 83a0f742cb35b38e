"""What an evaluation found, task by task, and the lines of JSON that keep it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cermet.core.errors import DiskError, FormatError
from cermet.evaluate.outcomes import Outcomes
from cermet.evaluate.statistics import agreement, interval, negative_flips, normalised
from cermet.recipes.pool import Kind, Metric, Split, Task

__all__ = ["LEVEL", "RECORDS", "Evaluation", "TaskResult", "mean_of", "result_of", "write_records"]

LEVEL = 0.95
"""Share of resamples that lie inside an interval."""

RECORDS = "records.jsonl"


@dataclass(frozen=True)
class TaskResult:
    """One model on one task.

    Attributes
    ----------
    value: in the metric. low, high: its bootstrap interval at 95 %. examples: how many there were.
    expert: the value of the task's expert, and normalised: the share of it that is reached; None
        where it is not known. other: the value of another model. negative_flips: the share of
        examples that it had right and this one has wrong, and agreement: that both answer the
        same; these two are None of likelihoods, and all three without another model.
    seconds: that the model ran; examples and tokens are those of each second. peak_bytes: the most
        memory of the process, or of the run on the accelerator.
    key: of what decided the outcomes. outcomes: their file, None where they are not kept. run:
        whether they were made just now, and not found.
    """

    task: str
    kind: Kind
    metric: Metric
    split: Split
    value: float
    low: float
    high: float
    examples: int
    expert: float | None
    normalised: float | None
    other: float | None
    negative_flips: float | None
    agreement: float | None
    seconds: float
    examples_per_second: float
    tokens_per_second: float
    peak_bytes: int
    key: str
    outcomes: str | None
    run: bool


@dataclass(frozen=True)
class Evaluation:
    """One model on the tasks of a pool.

    forgetting: of what the other model had right, over all tasks, the share that this one has
    wrong; None without another model, and where all tasks are likelihoods. mean: of the values,
    where all tasks have one metric. normalised: the mean over the tasks whose expert is known.
    """

    model: str
    pool: str
    against: str | None
    device: str
    tasks: tuple[TaskResult, ...]
    forgetting: float | None
    mean: float | None
    normalised: float | None


def result_of(
    task: Task,
    split: Split,
    found: Outcomes,
    *,
    expert: Outcomes | None,
    against: Outcomes | None,
    key: str,
    file: Path | None,
    run: bool,
) -> TaskResult:
    """The numbers of some outcomes, beside those of the task's expert and of another model."""
    low, high = interval(found, LEVEL)
    seconds = max(found.seconds, 1e-9)
    share = None
    if expert is not None and (expert.value > 0 or task.metric == "bits_per_character"):
        share = normalised(found.value, expert.value, task.metric)
    return TaskResult(
        task.name,
        task.kind,
        task.metric,
        split,
        found.value,
        low,
        high,
        len(found),
        None if expert is None else expert.value,
        share,
        None if against is None else against.value,
        None if against is None else negative_flips(against, found),
        None if against is None else agreement(against, found),
        found.seconds,
        len(found) / seconds,
        found.tokens / seconds,
        found.peak_bytes,
        key,
        None if file is None else file.name,
        run,
    )


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of those that are known; None where none is."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def write_records(folder: Path, found: Evaluation) -> None:
    """Put one line for each task into `records.jsonl`, in place of an older one of its key.

    Raises FormatError where the file holds something else, DiskError where it cannot be written.
    """
    path = folder / RECORDS
    rest = {k: v for k, v in asdict(found).items() if k in ("model", "pool", "against", "device")}
    new = [{"format": 1, **rest, **asdict(task)} for task in found.tasks]
    keys = {record["key"] for record in new}
    kept = [record for record in _read(path) if record["key"] not in keys]
    lines = "".join(json.dumps(record) + "\n" for record in [*kept, *new])
    written = path.with_name(f".{path.name}.new")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written.write_text(lines, "utf-8")
        written.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            written.unlink()
        raise DiskError(f"'{path}' cannot be written: {error.strerror or error}.") from error


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except (OSError, ValueError):
        found = [None]
    if not all(isinstance(record, dict) and isinstance(record.get("key"), str) for record in found):
        raise FormatError(f"'{path}' holds other lines than those of evaluations; move it away.")
    return found

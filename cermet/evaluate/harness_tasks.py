"""The tasks of a pool as task files of lm-evaluation-harness.

A file says the same in the harness's words, so that both tools can be asked and compared. The
examples are copied into a parquet file beside it: from JSON lines the harness would take a text
that looks like a date for a date.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FunctionType
from typing import Any

import yaml

from cermet.core.errors import ExtraError, InputError
from cermet.evaluate.examples import read_lines
from cermet.recipes.pool import Kind, Split, Task

__all__ = ["METRIC_OF", "ONCE", "bits", "write_task"]

ONCE = "begins_once"
"""Key of the metadata of these files: a text begins with the beginning token, and one of it."""

METRIC_OF: Mapping[Kind, str] = {
    "likelihood": "bits_per_character",
    "generate": "exact_match",
    "choose": "acc_norm",
}
"""The harness's metric that is the pool's, by kind of task; other kinds are not in its reach."""


def write_task(task: Task, split: Split, folder: Path) -> Path:
    """Write `NAME.yaml` and `NAME.parquet` for one split of a task; the path of the first.

    The harness finds it by the task's name once it is given the folder. Raises InputError for a
    kind of task that the harness does not have, ExtraError without it, and as `read_lines`.
    """
    if task.kind not in _FORMS:
        raise InputError(
            f"Task '{task.name}' is of kind '{task.kind}', which lm-evaluation-harness cannot do; "
            f"it can do {', '.join(_FORMS)}."
        )
    examples = read_lines(task, split)
    rows = [{"text": e} if isinstance(e, str) else asdict(e) for e in examples]
    folder.mkdir(parents=True, exist_ok=True)
    data = folder.absolute() / f"{task.name}.parquet"
    _write_rows(rows, data)
    file = folder / f"{task.name}.yaml"
    written = {
        "task": task.name,
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {split: str(data)}},
        "test_split": split,
        **_FORMS[task.kind](task),
        "metadata": {"version": 1, ONCE: True},
    }
    # The harness reads with PyYAML, which takes other words for booleans than ruamel.yaml.
    file.write_text(yaml.dump(written, Dumper=_Dumper, sort_keys=False), "utf-8")
    return file


def bits(example: Mapping[str, Any], results: Sequence[float]) -> dict[str, tuple[float, int]]:
    """What the harness makes its means of: nats of a text, and characters or bytes of it."""
    (nats,) = results
    text = example["text"]
    return {
        "bits_per_character": (nats, len(text)),
        "bits_per_byte": (nats, len(text.encode())),
    }


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # yaml says nothing of its types
    """Writes a function as the harness finds it again."""


_Dumper.add_representer(
    FunctionType,
    lambda dumper, f: dumper.represent_scalar("!function", f"{f.__module__}.{f.__qualname__}"),
)


def _write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    try:
        from pyarrow import Table, parquet
    except ImportError as error:
        raise ExtraError(
            "Tasks for lm-evaluation-harness need it; install it with: "
            "pip install 'cermet[lm-eval]'"
        ) from error
    parquet.write_table(Table.from_pylist(rows), path)


def _likelihood(task: Task) -> dict[str, Any]:
    return {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "process_results": bits,
        "metric_list": [
            {"metric": name, "aggregation": "bits_per_byte", "higher_is_better": False}
            for name in ("bits_per_character", "bits_per_byte")
        ],
    }


def _generate(task: Task) -> dict[str, Any]:
    return {
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "answer",
        "generation_kwargs": {
            "until": ["\n"],
            "max_gen_toks": task.max_tokens,
            "do_sample": False,
        },
        "metric_list": [
            {
                "metric": "exact_match",
                "aggregation": "mean",
                "higher_is_better": True,
                "regexes_to_ignore": [r"\A\s+", r"\s+\Z"],
            }
        ],
    }


def _choose(task: Task) -> dict[str, Any]:
    return {
        "output_type": "multiple_choice",
        "doc_to_text": "prompt",
        "doc_to_choice": "options",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True}
            for name in ("acc_norm", "acc")
        ],
    }


_FORMS: Mapping[Kind, Callable[[Task], dict[str, Any]]] = {
    "likelihood": _likelihood,
    "generate": _generate,
    "choose": _choose,
}

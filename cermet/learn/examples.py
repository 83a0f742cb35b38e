"""A file of texts, and which of them are learnt from and which are held back for the report."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cermet.core.errors import FormatError, InputError
from cermet.inference.texts import Example

__all__ = ["HELD_BACK", "Parted", "part", "read_examples"]

HELD_BACK = 0.2
"""Share of the distinct texts from which nothing is learnt: the report is about them."""

_KEYS = {"text", "label"}


def read_examples(path: Path) -> list[Example]:
    """The examples of a file of JSON lines, {"text": ...} or {"text": ..., "label": ...}.

    Empty lines are passed over. Raises InputError where there is no such file or it holds no
    examples, FormatError where a line is something else, or some have a label and some none.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"The data '{path}': {error.strerror or error}.") from error
    found = [
        _example(line, f"{path}:{number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not found:
        raise InputError(f"'{path}' holds no examples; write one JSON object a line.")
    if len({example.label is None for example in found}) > 1:
        raise FormatError(f"'{path}': some examples have a label and some have none.")
    return found


def _example(line: bytes, place: str) -> Example:
    try:
        row: Any = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or set(row) - _KEYS:
        raise FormatError(
            f'{place}: an example is written {{"text": ...}} or {{"text": ..., "label": ...}}, one '
            "JSON object a line."
        )
    if not row["text"].strip():
        raise FormatError(f"{place}: the text is empty.")
    label = row.get("label")
    if "label" in row and (isinstance(label, bool) or not isinstance(label, int | str)):
        raise FormatError(f"{place}: a label is a whole number or a name.")
    return Example(row["text"], label)


@dataclass(frozen=True)
class Parted:
    """Examples to learn from, and others to report on; no text is among both."""

    learn: tuple[Example, ...]
    report: tuple[Example, ...]


def part(examples: Sequence[Example], seed: int) -> Parted:
    """Hold a fifth of the distinct texts back, drawn by `seed`; InputError for fewer than two."""
    texts = list(dict.fromkeys(example.text for example in examples))
    if len(texts) < 2:
        raise InputError("A learned soup needs two different texts: one to learn from, one apart.")
    held = set(random.Random(seed).sample(texts, max(1, int(HELD_BACK * len(texts)))))
    return Parted(
        tuple(e for e in examples if e.text not in held),
        tuple(e for e in examples if e.text in held),
    )

"""The examples of a task as its files hold them; what cannot be used is refused by its line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError, safe_open

from cermet.core.errors import FormatError, InputError, NonFiniteError
from cermet.recipes.pool import Kind, Split, Task

__all__ = [
    "Choice",
    "Head",
    "Images",
    "Labelled",
    "Question",
    "read_head",
    "read_images",
    "read_lines",
]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text and its label."""

    text: str
    label: int


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and what has to be written after it."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A prompt, what could follow it, and which of these is right."""

    prompt: str
    options: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Images:
    """Images and their labels."""

    pixels: UInt8[torch.Tensor, "images channels height width"]
    labels: Int[torch.Tensor, "images"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> Images:
        return Images(self.pixels[rows], self.labels[rows])


@dataclass(frozen=True)
class Head:
    """A linear map from vectors to labels; `bias` is None where only angles count."""

    weight: Float[torch.Tensor, "labels width"]
    bias: Float[torch.Tensor, "labels"] | None

    @property
    def labels(self) -> int:
        """How many there are."""
        return len(self.weight)


def read_lines(task: Task, split: Split, labels: int | None = None) -> Sequence[Any]:
    """The examples of a task that is no `images`, in the order of its file.

    Labelled, Question, Choice, or str for a task of kind `likelihood`. Empty lines are passed
    over. labels: how many the head has, where it is known. Raises InputError where the file cannot
    be read or holds none, FormatError with file and line where one is something else.
    """
    path = task.files[split]
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"The data '{path}': {error.strerror or error}.") from error
    keys, form, make = _FORMS[task.kind]
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            example = _example(line, f"{path}:{number}", keys, form, make)
            if labels is not None and example.label >= labels:
                raise FormatError(
                    f"{path}:{number}: label {example.label} is none of the head's {labels}."
                )
            found.append(example)
    if not found:
        raise InputError(f"'{path}' holds no examples; write one JSON object a line.")
    return found


def _example(line: bytes, place: str, keys: set[str], form: str, make: Callable[[Any], Any]) -> Any:
    try:
        row: Any = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or set(row) != keys:
        raise FormatError(f"{place}: an example is written {form}, one JSON object a line.")
    problem = _problem(row)
    if problem is not None:
        raise FormatError(f"{place}: {problem}")
    return make(row)


def _problem(row: Mapping[str, Any]) -> str | None:
    """What is wrong with the values of an example, if anything is."""
    for key in ("text", "prompt"):
        if key in row and not (isinstance(row[key], str) and row[key]):
            return f"'{key}' is a text that is not empty."
    if "label" in row and not _whole(row["label"]):
        return "'label' is a whole number, 0 or more."
    if "options" not in row:
        answer = row.get("answer", "-")
        if not isinstance(answer, str) or not answer.strip() or "\n" in answer.strip():
            return "'answer' is a text of one line that is not empty."
        return None
    options = row["options"]
    if not isinstance(options, list) or not all(isinstance(o, str) and o for o in options):
        return "'options' is a list of texts, none of them empty."
    if len(options) < 2:
        return "there are two options at least."
    if not _whole(row["answer"]) or row["answer"] >= len(options):
        return f"'answer' is the number of an option, from 0 to {len(options) - 1}."
    return None


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _labelled(row: Any) -> Labelled:
    return Labelled(row["text"], row["label"])


_Form = tuple[set[str], str, Callable[[Any], Any]]
_LABELLED: _Form = ({"text", "label"}, '{"text": ..., "label": ...}', _labelled)
_FORMS: Mapping[Kind, _Form] = {
    "embed": _LABELLED,
    "classify": _LABELLED,
    "likelihood": ({"text"}, '{"text": ...}', lambda row: row["text"]),
    "generate": (
        {"prompt", "answer"},
        '{"prompt": ..., "answer": ...}',
        lambda row: Question(row["prompt"], row["answer"]),
    ),
    "choose": (
        {"prompt", "options", "answer"},
        '{"prompt": ..., "options": [...], "answer": ...}',
        lambda row: Choice(row["prompt"], tuple(row["options"]), row["answer"]),
    ),
}


def read_images(task: Task, split: Split) -> Images:
    """Images and labels; FormatError where the file is another, InputError where it is empty."""
    path = task.files[split]
    held = _tensors(path, ("images", "labels"))
    pixels, labels = held["images"], held["labels"]
    if pixels.dtype != torch.uint8 or pixels.ndim != 4:
        raise FormatError(
            f"'{path}': 'images' are uint8 of 4 dimensions (examples, channels, height, width), "
            f"not {pixels.dtype} of {pixels.ndim}."
        )
    if labels.dtype != torch.int64 or labels.shape != pixels.shape[:1]:
        raise FormatError(f"'{path}': 'labels' are int64, one for each of {len(pixels)} images.")
    if not len(pixels):
        raise InputError(f"'{path}' holds no examples.")
    return Images(pixels, labels)


def read_head(task: Task) -> Head:
    """The frozen head of a task of kind `embed` (rows of length 1) or `images`.

    Raises FormatError where the file is no head, NonFiniteError for numbers that are none.
    """
    assert task.head is not None
    linear = task.kind == "images"
    held = _tensors(task.head, ("weight", "bias") if linear else ("head",))
    weight, bias = held["weight" if linear else "head"].float(), held.get("bias")
    if weight.ndim != 2 or 0 in weight.shape:
        raise FormatError(f"'{task.head}': a head has a row for each label, of the vector's width.")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise FormatError(f"'{task.head}': 'bias' has one number for each of {len(weight)} labels.")
    if not bool(torch.isfinite(weight).all() and (bias is None or torch.isfinite(bias).all())):
        raise NonFiniteError(f"'{task.head}' holds NaN or infinity.")
    if not linear:
        weight = torch.nn.functional.normalize(weight, dim=-1)
    return Head(weight, None if bias is None else bias.float())


def _tensors(path: Path, names: Sequence[str]) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, "pt") as file:
            missing = [n for n in names if n not in file.keys()]  # noqa: SIM118 - no mapping
            if missing:
                raise FormatError(f"'{path}' lacks the tensor '{missing[0]}'.")
            return {n: file.get_tensor(n) for n in names}
    except (OSError, SafetensorError) as error:
        raise FormatError(f"'{path}' is not a safetensors file that can be read.") from error

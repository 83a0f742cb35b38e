"""Files of examples: what is read, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cermet.core.errors import FormatError, InputError, NonFiniteError
from cermet.evaluate.evaluator import Evaluator
from cermet.evaluate.examples import (
    Choice,
    Labelled,
    Question,
    read_head,
    read_images,
    read_lines,
)
from cermet.recipes.pool import Kind, Task


def _task(kind: Kind, data: Path, head: Path | None = None) -> Task:
    return Task("t", kind, {"test": data, "validation": data}, None, head, 8)


@pytest.mark.parametrize(
    ("kind", "line", "wanted"),
    [
        ("embed", '{"label": 2, "text": " hé "}', Labelled(" hé ", 2)),
        ("classify", '{"text": "a", "label": 0}', Labelled("a", 0)),
        ("likelihood", '{"text": "a\\n b"}', "a\n b"),
        ("generate", '{"prompt": "a=", "answer": "1\\n"}', Question("a=", "1\n")),
        (
            "choose",
            '{"prompt": "a", "options": [" b", "c"], "answer": 1}',
            Choice("a", (" b", "c"), 1),
        ),
    ],
)
def test_examples_are_read_in_order(kind: Kind, line: str, wanted: Any, tmp_path: Path) -> None:
    (tmp_path / "d").write_text(f"\n{line}\n  \n{line}", "utf-8")
    assert read_lines(_task(kind, tmp_path / "d"), "test") == [wanted, wanted]


_CHOICE = '{"prompt": "a", "options": %s, "answer": %s}'


@pytest.mark.parametrize(
    ("kind", "line", "says"),
    [
        ("embed", "no json", 'written {"text": ..., "label": ...}'),
        ("embed", '["a", 1]', "one JSON object a line"),
        ("embed", '{"text": "a"}', '"label"'),
        ("embed", '{"text": "a", "label": 1, "more": 2}', "one JSON object a line"),
        ("embed", '{"text": "", "label": 1}', "'text' is a text that is not empty"),
        ("embed", '{"text": 3, "label": 1}', "'text' is a text"),
        ("embed", '{"text": "a", "label": -1}', "'label' is a whole number, 0 or more"),
        ("embed", '{"text": "a", "label": true}', "'label' is a whole number"),
        ("embed", '{"text": "a", "label": 1.0}', "'label' is a whole number"),
        ("embed", '{"text": "a", "label": "x"}', "'label' is a whole number"),
        ("embed", '{"text": "a", "label": 1e400}', "'label' is a whole number"),
        ("embed", '{"text": "a", "label": 3}', "label 3 is none of the head's 3"),
        ("embed", "[" * 100_000, "one JSON object a line"),
        ("likelihood", '{"text": "\xff"}', "one JSON object a line"),
        ("likelihood", '{"text": null}', "'text' is a text"),
        ("generate", '{"prompt": "a", "answer": " \\n"}', "'answer' is a text of one line"),
        ("generate", '{"prompt": "a", "answer": "b\\nc"}', "'answer' is a text of one line"),
        ("generate", '{"prompt": "", "answer": "b"}', "'prompt' is a text"),
        ("generate", '{"prompt": "a", "answer": 2}', "'answer' is a text"),
        ("choose", _CHOICE % ('["b"]', 0), "two options at least"),
        ("choose", _CHOICE % ('"bc"', 0), "'options' is a list of texts"),
        ("choose", _CHOICE % ('["b", ""]', 0), "none of them empty"),
        ("choose", _CHOICE % ('["b", 4]', 0), "'options' is a list of texts"),
        ("choose", _CHOICE % ('["b", "c"]', 2), "number of an option, from 0 to 1"),
        ("choose", _CHOICE % ('["b", "c"]', '"b"'), "number of an option"),
    ],
)
def test_a_bad_line_is_named(kind: Kind, line: str, says: str, tmp_path: Path) -> None:
    good = {
        "embed": '{"text": "a", "label": 0}',
        "likelihood": '{"text": "a"}',
        "generate": '{"prompt": "a", "answer": "b"}',
        "choose": _CHOICE % ('["b", "c"]', 1),
    }[kind]
    path = tmp_path / "d.jsonl"
    path.write_bytes(f"{good}\n\n{line}\n".encode("latin-1"))
    with pytest.raises(FormatError) as error:
        read_lines(_task(kind, path), "test", 3 if kind == "embed" else None)
    assert str(error.value).startswith(f"{path}:3: ")
    assert says in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_examples(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(content)
    with pytest.raises(InputError, match="holds no examples"):
        read_lines(_task("likelihood", tmp_path / "d"), "test")
    with pytest.raises(InputError, match="No such file"):
        read_lines(_task("likelihood", tmp_path / "none"), "test")


_PIXELS, _LABELS = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 2])
_WEIGHT, _BIAS = torch.eye(3, 5), torch.zeros(3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"images": _PIXELS.float()}, "'images' are uint8 of 4 dimensions"),
        ({"images": _PIXELS[0]}, "not torch.uint8 of 3"),
        ({"labels": _LABELS.int()}, "'labels' are int64"),
        ({"labels": _LABELS[:1]}, "one for each of 2 images"),
        ({"labels": None}, "lacks the tensor 'labels'"),
        ({"images": _PIXELS[:0], "labels": _LABELS[:0]}, "holds no examples"),
    ],
)
def test_images_that_are_none(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    held = {"images": _PIXELS, "labels": _LABELS, **changes}
    held = {n: t.clone() for n, t in held.items() if t is not None}
    save_file(held, tmp_path / "d.safetensors")
    with pytest.raises((FormatError, InputError), match=says):
        read_images(_task("images", tmp_path / "d.safetensors"), "test")


@pytest.mark.parametrize(
    ("kind", "held", "says"),
    [
        ("embed", {"weight": _WEIGHT}, "lacks the tensor 'head'"),
        ("embed", {"head": _BIAS}, "a row for each label"),
        ("embed", {"head": _WEIGHT[:0]}, "a row for each label"),
        ("images", {"weight": _WEIGHT}, "lacks the tensor 'bias'"),
        ("images", {"weight": _WEIGHT, "bias": _BIAS[:2]}, "one number for each of 3 labels"),
        ("images", {"weight": _WEIGHT, "bias": _BIAS / 0}, "holds NaN"),
        ("embed", {"head": _WEIGHT / 0}, "holds NaN"),
    ],
)
def test_a_head_that_is_none(
    kind: Kind, held: dict[str, torch.Tensor], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "h.safetensors"
    save_file({n: t.clone() for n, t in held.items()}, path)
    with pytest.raises((FormatError, NonFiniteError), match=says):
        read_head(_task(kind, path, path))
    path.write_bytes(b"damaged")
    with pytest.raises(FormatError, match="not a safetensors file"):
        read_head(_task(kind, path, path))


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_of_an_image_outside_of_the_head(label: int, tmp_path: Path) -> None:
    save_file({"weight": _WEIGHT, "bias": _BIAS}, tmp_path / "h.safetensors")
    labels = torch.tensor([0, label])
    save_file({"images": _PIXELS, "labels": labels}, tmp_path / "d.safetensors")
    task = _task("images", tmp_path / "d.safetensors", tmp_path / "h.safetensors")
    with pytest.raises(FormatError, match=f"label {label} of image 1 is none of the head's 3"):
        Evaluator([task]).examples(task, "test")


def test_rows_of_a_head_are_brought_to_length_one(tmp_path: Path) -> None:
    save_file({"head": torch.tensor([[3.0, 4.0], [0.5, 0.0]])}, tmp_path / "h.safetensors")
    head = read_head(_task("embed", tmp_path / "d", tmp_path / "h.safetensors"))
    assert head.weight.flatten().tolist() == pytest.approx([0.6, 0.8, 1.0, 0.0])
    assert head.bias is None
    assert head.labels == 2

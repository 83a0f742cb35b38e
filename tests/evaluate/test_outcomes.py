"""Outcomes come back from their file as they were, and no other file is taken for one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cermet.core.errors import DiskError, FormatError
from cermet.evaluate.outcomes import Outcomes, key_of

_HASH = -(1 << 63)  # of a text that was written: any whole number of 64 bits


def _outcomes() -> Outcomes:
    return Outcomes(
        "t.x", "bits_per_character", np.array([3.5, 0.0], np.float32),
        np.array([2, 1], np.float32), np.array([_HASH, 7], np.int64), 1.25, 9, 1 << 40,
    )  # fmt: skip


def test_outcomes_come_back(tmp_path: Path) -> None:
    before, path = _outcomes(), tmp_path / "new" / "t.safetensors"
    before.save(path, "key")
    after = Outcomes.load(path)
    for name in ("scores", "sizes", "answers"):
        found, wanted = getattr(after, name), getattr(before, name)
        assert found.dtype == wanted.dtype
        assert found.tolist() == wanted.tolist()
    assert (after.task, after.metric, after.seconds) == ("t.x", "bits_per_character", 1.25)
    assert (after.tokens, after.peak_bytes, len(after)) == (9, 1 << 40, 2)
    assert after.value == before.value == 3.5 / 3
    assert key_of(path) == "key"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_there_is_no_key_where_there_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"no")
    assert key_of(tmp_path / "none") is None
    assert key_of(tmp_path / "bad") is None


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="cannot be written"):
        _outcomes().save(tmp_path / "file" / "t.safetensors")


_REST = {"task": "t", "metric": "accuracy", "seconds": 1.0}


@pytest.mark.parametrize(
    ("tensors", "rest"),
    [
        ({}, _REST),
        ({"answers": torch.ones(2)}, _REST),
        ({"scores": torch.ones(3)}, _REST),
        ({"scores": torch.ones(2, dtype=torch.float64)}, _REST),
        ({n: torch.ones(1, 2) for n in ("scores", "sizes")}, _REST),
        (None, {**_REST, "metric": "beauty"}),
        (None, {"task": "t"}),
        (None, {**_REST, "colour": 1}),
        (None, None),
    ],
)
def test_another_file_is_refused(
    tensors: dict[str, torch.Tensor] | None, rest: object, tmp_path: Path, unchecked: None
) -> None:
    whole = {n: torch.ones(2) for n in ("scores", "sizes")}
    whole["answers"] = torch.ones(2, dtype=torch.int64)
    given = whole if tensors is None else {**whole, **tensors} if tensors else tensors
    said = {} if rest is None else {"outcomes": json.dumps(rest), "key": ""}
    save_file(given, tmp_path / "f.safetensors", metadata=said)
    with pytest.raises(FormatError, match="not a file of outcomes"):
        Outcomes.load(tmp_path / "f.safetensors")

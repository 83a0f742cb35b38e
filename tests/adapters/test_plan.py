"""`cermet plan` on adapters: what will be written, and how much they overlap."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cermet.checkpoints.adapters import adapter_of
from cermet.engine.interference import interference
from tests.adapters.nets import save_adapter
from tests.cli.commands import Cermet

_CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}


@pytest.fixture
def cermet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cermet:
    """The command line in this process."""
    monkeypatch.setenv("COLUMNS", "300")
    return Cermet(monkeypatch, capsys)


def test_the_table_and_its_json(cermet: Cermet, tmp_path: Path) -> None:
    save_adapter(tmp_path / "a", 1, ["up", "conv"], r=2, lora_alpha=4)
    save_adapter(tmp_path / "b", 2, ["up"], r=3, lora_alpha=4)
    lines = [f"  - {{model: {tmp_path / n}, parameters: {{weight: 1}}}}" for n in "ab"]
    (tmp_path / "r.yaml").write_text("\n".join(["merge_method: lora_sum", "models:", *lines, ""]))
    done = cermet("plan", tmp_path / "r.yaml")
    assert done.code == 0
    assert "merges  2 modules with lora_sum, rank 2-5" in done.out
    found = json.loads(cermet("plan", tmp_path / "r.yaml", "--json").out)
    (pair,) = found["interference"]
    assert (pair["modules"], pair["worst"]["module"]) == (1, "up")
    assert {f"{pair[key]:.3f}" for key in ("outputs", "inputs", "cosine")} <= set(done.out.split())
    assert {m["module"]: m["rank"] for m in found["modules"]} == {"up": 5, "conv": 2}
    merged = cermet("merge", tmp_path / "r.yaml", tmp_path / "out")
    written = sum(t["bytes"] for t in found["adapters"])
    assert (merged.code, found["bytes_written"]) == (0, written)


def test_orthogonal_and_equal_adapters() -> None:
    eye = torch.eye(6)

    def one(rows: slice, columns: slice) -> object:
        tensors = {"x.lora_A.weight": eye[rows], "x.lora_B.weight": eye[:, columns]}
        return adapter_of(tensors, _CONFIG, "one")

    left, right = slice(0, 2), slice(2, 4)
    same, apart, across = interference([one(left, left), one(right, right), one(left, right)])
    assert (same.outputs, same.inputs, same.cosine) == (0.0, 0.0, 0.0)
    assert (apart.outputs, apart.inputs, apart.cosine) == (0.0, pytest.approx(1.0), 0.0)
    assert (across.outputs, across.inputs) == (pytest.approx(1.0), 0.0)
    assert same.chance == pytest.approx(2 / 6)
    (pair,) = interference([one(left, left), one(left, left)])
    assert (pair.outputs, pair.cosine) == (pytest.approx(1.0), pytest.approx(1.0))

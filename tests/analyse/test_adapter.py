"""Adapters: the size of their products by hand, alone and on their base."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import cermet
from cermet.analyse.adapter import is_adapter
from tests.recipes.pools import llama, save_llama

_MODULE = "base_model.model.model.layers.1.self_attn.q_proj"


def _adapter(
    folder: Path, factors: Mapping[str, torch.Tensor] | None = None, **config: Any
) -> Path:
    """Of rank 1 on one matrix: outputs (3, 4, 0, ...), inputs (0, 2, 0, ...)."""
    folder.mkdir()
    a, b = torch.zeros(1, 16), torch.zeros(16, 1)
    a[0, 1] = 2.0
    b[0], b[1] = 3.0, 4.0
    factors = factors or {f"{_MODULE}.lora_A.weight": a, f"{_MODULE}.lora_B.weight": b}
    save_file(dict(factors), folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 8, "base_model_name_or_path": "the/base"}
    (folder / "adapter_config.json").write_text(json.dumps({**settings, **config}))
    return folder


def test_an_adapter_on_its_own(tmp_path: Path) -> None:
    found = cermet.inspect(_adapter(tmp_path / "lora"))
    assert (found.kind, found.contents, found.tensors) == ("adapter", None, ())
    own = found.adapter
    assert own is not None
    assert (own.base, own.ranks, own.alphas, own.scales) == ("the/base", (1,), (8,), (8.0,))
    assert (own.modules, own.parameters, own.dtypes) == ({"q_proj": 1}, 32, ("F32",))
    (change,) = own.changes
    assert (change.stack, change.role, change.tensors) == ("model.layers", "q", 1)
    assert change.norm == pytest.approx(8 * 5 * 2)
    assert change.relative is None


def test_headers_alone_read_no_factors(tmp_path: Path) -> None:
    own = cermet.inspect(_adapter(tmp_path / "lora"), headers=True).adapter
    assert own is not None
    assert (own.ranks, own.changes) == ((1,), ())


def test_an_adapter_on_its_base(tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base")
    folder = _adapter(tmp_path / "lora")
    found = cermet.inspect(f"{base}+{folder}")
    assert found.kind == "model"
    assert found.adapter is not None
    (change,) = found.adapter.changes
    before = llama()["model.layers.1.self_attn.q_proj.weight"].double().norm().item()
    assert change.norm == pytest.approx(80.0, rel=1e-6)
    assert change.relative == pytest.approx(80.0 / before, rel=1e-6)
    record = next(t for t in found.tensors if t.name.endswith("1.self_attn.q_proj.weight"))
    assert record.largest == pytest.approx(64.0, abs=0.5)  # 8 * 4 * 2, and the base's own


def test_ranks_scales_and_whole_tensors_are_told(tmp_path: Path) -> None:
    key = _MODULE.replace("q_proj", "v_proj")
    factors = {
        f"{_MODULE}.lora_A.weight": torch.ones(1, 16),
        f"{_MODULE}.lora_B.weight": torch.ones(16, 1),
        f"{key}.lora_A.weight": torch.ones(4, 16),
        f"{key}.lora_B.weight": torch.ones(16, 4),
        "base_model.model.lm_head.modules_to_save.weight": torch.ones(40, 16),
    }
    folder = _adapter(
        tmp_path / "lora", factors, rank_pattern={"v_proj": 4}, use_rslora=True, lora_alpha=2
    )
    own = cermet.inspect(folder).adapter
    assert own is not None
    assert (own.ranks, own.scales, own.rslora, own.replaced) == ((1, 4), (1.0, 2.0), True, 1)
    sizes = {c.role: c.norm for c in own.changes}
    assert sizes == {"q": pytest.approx(2 * 16), "v": pytest.approx(1 * 4 * 16)}


def test_a_model_with_an_adapter_beside_its_weights_is_a_model(tmp_path: Path) -> None:
    base = Path(save_llama(tmp_path / "base"))
    assert not is_adapter(base)
    (base / "adapter_config.json").write_text("{}")
    assert not is_adapter(base)
    assert is_adapter(_adapter(tmp_path / "lora"))
    assert cermet.inspect(base).kind == "model"


def test_the_norm_of_a_transposed_adapter_is_the_same(tmp_path: Path) -> None:
    own = cermet.inspect(_adapter(tmp_path / "lora", fan_in_fan_out=True)).adapter
    assert own is not None
    assert math.isclose(own.changes[0].norm, 80.0)

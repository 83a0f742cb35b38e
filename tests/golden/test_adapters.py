"""Merged adapters: the deltas that PEFT makes of its factors, and the true sum."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import cermet
from tests.golden.adapt import golden_folder, load
from tests.golden.by_adapters import BY_ADAPTERS, merged_adapter

FILES = [
    path
    for path in sorted(golden_folder().glob("lora_*.safetensors"))
    if load(path).method in BY_ADAPTERS
]
_every_file = pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
_MODULES = ("fc1", "fc2")


def _held(path: Path, group: str) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        return {module: file.get_tensor(f"{group}/{module}") for module in _MODULES}


def _deltas(adapter: tuple[dict[str, Tensor], dict[str, object]]) -> dict[str, Tensor]:
    tensors, config = adapter
    scale = float(str(config["lora_alpha"])) / float(str(config["r"]))
    return {
        m: scale * tensors[f"{m}.lora_B.weight"] @ tensors[f"{m}.lora_A.weight"] for m in _MODULES
    }


@_every_file
def test_the_delta_is_that_of_peft(path: Path) -> None:
    found, expected = _deltas(merged_adapter(load(path))), _held(path, "delta")
    for module in _MODULES:
        torch.testing.assert_close(found[module], expected[module], rtol=0, atol=1e-5)


@_every_file
def test_lora_sum_is_the_true_sum(path: Path) -> None:
    """Whatever PEFT makes of the adapters, the weighted sum of the deltas that it was given."""
    case = load(path)
    weights = case.parameters["weights"]
    adapters = [
        (expert, {"peft_type": "LORA", **{k: case.parameters[k][i] for k in _SETTINGS}})
        for i, expert in enumerate(case.experts)
    ]
    found = _deltas(cermet.merge_adapters("lora_sum", adapters, weight=weights))
    for module in _MODULES:
        given = [_held(path, f"delta_in{i}")[module] for i in range(len(weights))]
        expected = sum(w * d.double() for w, d in zip(weights, given, strict=True))
        torch.testing.assert_close(found[module].double(), expected, rtol=0, atol=2e-6)


_SETTINGS = ("r", "lora_alpha", "use_rslora")

"""Reversible merging: the mean, a basis that all experts share, and coefficients for each row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import cermet
from cermet import merge_tensors
from tests.methods.forms import pool
from tests.recipes.pools import save_llama

SHAPES = {"w": (20, 30), "b": (13,), "short": (9, 2), "cube": (2, 3, 5), "one": (1,), "no": (0, 4)}


def _error(experts: list[dict[str, Tensor]], directions: int, name: str = "w") -> float:
    """The squared error of all experts together."""
    base = {name: torch.zeros_like(experts[0][name])}
    only = [{name: e[name]} for e in experts]
    found = [
        merge_tensors("rmm", base, only, directions=directions, task=i)[name]
        for i in range(len(experts))
    ]
    pairs = zip(found, only, strict=True)
    return sum(float((f.double() - e[name].double()).square().sum()) for f, e in pairs)


@pytest.mark.parametrize("with_base", [True, False])
def test_with_all_directions_every_expert_comes_back(with_base: bool) -> None:
    base, experts = pool(4, SHAPES)
    for index, expert in enumerate(experts):
        given = base if with_base else None
        found = merge_tensors("rmm", given, experts, directions=3, task=index)
        for name, value in expert.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=2e-6)


def test_the_merged_model_is_the_mean() -> None:
    base, experts = pool(3, SHAPES)
    merged = merge_tensors("rmm", base, experts, directions=1)
    mean = merge_tensors("rmm", base, experts, directions=2, task={0: 1.0, 1: 1.0, 2: 1.0})
    for name in base:
        expected = torch.stack([e[name] for e in experts]).mean(dim=0)
        torch.testing.assert_close(merged[name], expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(mean[name], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("directions", [1, 2, 3])
def test_the_error_is_what_the_singular_values_leave_out(directions: int) -> None:
    """Of each row by itself, and less with every direction."""
    _, experts = pool(5, {"w": (20, 30)})
    rows = torch.stack([e["w"] for e in experts], dim=1).double()
    values = torch.linalg.svdvals(rows - rows.mean(dim=1, keepdim=True))
    expected = float(values[:, directions:].square().sum())
    assert _error(experts, directions) == pytest.approx(expected, rel=1e-4)
    assert _error(experts, directions + 1) < 0.95 * expected


def test_the_order_of_the_experts_does_not_matter() -> None:
    base, experts = pool(4, {"w": (12, 16)})
    one = merge_tensors("rmm", base, experts, directions=1, task=0)["w"]
    other = merge_tensors("rmm", base, experts[::-1], directions=1, task=3)["w"]
    torch.testing.assert_close(one, other, rtol=0, atol=2e-6)


def test_equal_experts_need_no_directions() -> None:
    base, (expert,) = pool(1, {"w": (6, 8), "b": (5,)})
    for experts in ([expert], [expert] * 3):
        found = merge_tensors("rmm", base, experts, task=0)
        for name, value in expert.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)


def test_an_assembly_keeps_the_basis_once(tmp_path: Path) -> None:
    """Its size; and several experts by weights, which read the basis once, without their base."""
    names = [save_llama(tmp_path / f"m{i}", i) for i in range(4)]
    recipe = {
        "merge_method": "rmm",
        "base_model": names[0],
        "models": [{"model": name} for name in names[1:]],
        "parameters": {"directions": 1},
    }
    done = cermet.merge(recipe, tmp_path / "out")
    parts = load_file(tmp_path / "out" / "parts.safetensors")
    kept = [name for name in parts if name.startswith("basis/")]
    assert kept == [n for n in kept if n.startswith("basis/*/")]
    weights = sum(parts[name].numel() for name in kept)
    assert weights == sum(t.numel() for t in cermet.open(tmp_path / "out").values())
    manifest = json.loads((tmp_path / "out" / "assembly.json").read_text())
    own = sum(expert["bytes"] for expert in manifest["experts"])
    assert own == sum(v.nbytes for n, v in parts.items() if n.startswith("coefficients/"))
    assert done.experts == ("m1", "m2", "m3")
    (tmp_path / "m0").rename(tmp_path / "gone")
    cermet.restore(tmp_path / "out", tmp_path / "mean", task={"m1": 1, "m2": 1, "m3": 1})
    found, merged = cermet.open(tmp_path / "mean"), cermet.open(tmp_path / "out")
    for name, value in merged.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=2e-6)
    assert cermet.verify(tmp_path / "mean").problems == []


def test_parts_of_many_blocks_are_read_back(tmp_path: Path) -> None:
    """Blocks of 64 elements: the digest of a part is that of all blocks of a piece."""
    base, *experts = (save_llama(tmp_path / f"m{i}", i) for i in range(4))
    recipe = {
        "merge_method": "rmm",
        "base_model": base,
        "models": [{"model": expert} for expert in experts],
    }
    cermet.merge(recipe, tmp_path / "small", block=64, threads=1)
    cermet.merge(recipe, tmp_path / "whole", threads=1)
    for folder in ("small", "whole"):
        cermet.restore(tmp_path / folder, tmp_path / f"{folder} m1", task="m1")
    one, other = (cermet.open(tmp_path / f"{folder} m1") for folder in ("small", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in other)

"""The algebra of the recipes in docs/published.md: what they must give at their ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import cermet
from tests.reliability.runs import weights, write_model

SHAPE = (12, 8)


@pytest.fixture
def pool(tmp_path: Path) -> dict[str, Path]:
    """A base, an instruct model and a domain model of one family, in float32."""
    found = {}
    for seed, name in enumerate(("base", "instruct", "domain")):
        tensors = {
            n: t.float() if t.is_floating_point() else t for n, t in weights(2, SHAPE, seed).items()
        }
        found[name] = write_model(tmp_path / name, tensors)
    return found


def _merged(recipe: Mapping[str, Any], out: Path) -> dict[str, Tensor]:
    cermet.merge(recipe, out)
    return {n: t.clone() for n, t in cermet.open(out).items()}


def _held(folder: Path) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in cermet.open(folder).items()}


def _residual(base: Path, instruct: Path, domain: Path, factor: float) -> dict[str, Any]:
    """Chat Vector: domain + factor · (instruct − base)."""
    graft = {"model": str(instruct), "delta_of": str(base), "parameters": {"weight": factor}}
    return {"merge_method": "task_arithmetic", "base_model": str(domain), "models": [graft]}


def _close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)


def test_chat_vector_onto_the_base_is_the_instruct_model(
    pool: dict[str, Path], tmp_path: Path
) -> None:
    found = _merged(_residual(pool["base"], pool["instruct"], pool["base"], 1), tmp_path / "out")
    _close(found, _held(pool["instruct"]))


def test_chat_vector_of_nothing_is_the_domain_model(pool: dict[str, Path], tmp_path: Path) -> None:
    for number, recipe in enumerate(
        (
            _residual(pool["base"], pool["base"], pool["domain"], 1),
            _residual(pool["base"], pool["instruct"], pool["domain"], 0),
        )
    ):
        found = _merged(recipe, tmp_path / f"out{number}")
        assert all(torch.equal(found[n], t) for n, t in _held(pool["domain"]).items())


def test_chat_vector_is_symmetric_in_domain_and_instruction(
    pool: dict[str, Path], tmp_path: Path
) -> None:
    one = _merged(_residual(pool["base"], pool["instruct"], pool["domain"], 1), tmp_path / "one")
    two = _merged(_residual(pool["base"], pool["domain"], pool["instruct"], 1), tmp_path / "two")
    _close(one, two)


def test_negating_twice_gives_the_model_back(pool: dict[str, Path], tmp_path: Path) -> None:
    recipe = {"merge_method": "task_arithmetic", "base_model": str(pool["base"])}
    less = {"model": str(pool["instruct"]), "parameters": {"weight": -1}}
    _merged({**recipe, "models": [less]}, tmp_path / "less")
    again = {"model": str(tmp_path / "less"), "parameters": {"weight": -1}}
    found = _merged({**recipe, "models": [again]}, tmp_path / "again")
    _close(found, _held(pool["instruct"]))


def test_shadow_ft_is_chat_vector_on_linear_layers(pool: dict[str, Path], tmp_path: Path) -> None:
    graft = {"model": str(pool["domain"]), "delta_of": str(pool["base"])}
    recipe = {"merge_method": "shadow_ft", "base_model": str(pool["instruct"]), "models": [graft]}
    found = _merged(recipe, tmp_path / "out")
    whole = _merged(
        _residual(pool["base"], pool["domain"], pool["instruct"], 1), tmp_path / "whole"
    )
    instruct = _held(pool["instruct"])
    for name, value in found.items():
        assert torch.equal(value, whole[name] if "up_proj" in name else instruct[name])


def test_a_gradient_of_weights_is_lines(pool: dict[str, Path], tmp_path: Path) -> None:
    models = [{"model": str(pool[n])} for n in ("instruct", "domain")]
    recipe = {"merge_method": "lines", "base_model": str(pool["base"]), "models": models}
    found = _merged({**recipe, "parameters": {"alpha": 0.3, "beta": 0.5}}, tmp_path / "lines")
    graded = {**recipe, "merge_method": "task_arithmetic", "parameters": {"weight": [0.3, 0.8]}}
    _close(found, _merged(graded, tmp_path / "graded"))

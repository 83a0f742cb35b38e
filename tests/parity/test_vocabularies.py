"""The random recipes that change the vocabulary: valid here, drawn alike, judged by token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from cermet import api
from parity.vocabularies import difference, draw_recipe, write_models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_models(tmp_path_factory.mktemp("models"), 0)


def test_recipes_are_valid_and_drawn_alike(models: dict[str, Path]) -> None:
    drawn = [draw_recipe(models, np.random.default_rng([0, i])) for i in range(12)]
    assert drawn == [draw_recipe(models, np.random.default_rng([0, i])) for i in range(12)]
    words = repr(drawn)
    for part in ("tokenizer_source", "union", "base", "pad_to_multiple_of", "force", "zero"):
        assert f"'{part}'" in words
    for recipe in drawn:
        assert api.plan(recipe).tasks


def test_a_wrong_row_is_a_difference(models: dict[str, Path], tmp_path: Path) -> None:
    recipe = {**draw_recipe(models, np.random.default_rng(1)), "tokenizer_source": "union"}
    recipe.pop("tokenizer", None)
    for name in ("one", "two"):
        api.merge(recipe, tmp_path / name)
    assert difference(tmp_path / "one", tmp_path / "two") is None
    path = tmp_path / "two" / "model.safetensors"
    tensors = {n: t.clone() for n, t in load_file(path).items()}
    tensors["lm_head.weight"][-1] += 1
    save_file(tensors, path)
    found = difference(tmp_path / "one", tmp_path / "two")
    assert found is not None
    assert found.startswith("lm_head.weight differs by")

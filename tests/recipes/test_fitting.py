"""How the models of a recipe are seen before they are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cermet.anatomy import Anatomy, survey
from cermet.recipes import fitting
from tests.recipes.pools import planned, save_llama


def test_models_of_one_form_are_surveyed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One anatomy for all that have its shapes and its config, another for the others."""
    looked: list[dict[str, Any]] = []

    def counted(shapes: Any, config: Any) -> Anatomy:
        looked.append(config)
        return survey(shapes, config)

    monkeypatch.setattr(fitting, "survey", counted)
    alike = [save_llama(tmp_path / str(i), i) for i in range(3)]
    other = save_llama(tmp_path / "other", 3, rope_theta=5e5)
    recipe = {"merge_method": "linear", "parameters": {"weight": 1}, "dtype": "float32"}
    plan = planned({**recipe, "models": [{"model": m} for m in (*alike, other)]})
    assert [config.get("rope_theta") for config in looked][-1] == 5e5
    assert len(looked) == 2
    assert len({task.place.layer for task in plan.tasks}) == 3  # two layers, and what is outside

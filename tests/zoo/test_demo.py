"""The demo's table, made with tiny experts and a stand-in for the merge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cermet import demo
from cermet.core.errors import InputError
from cermet.demo import AVERAGE, MERGES, DemoTable, Row
from cermet.zoo.base import base_folder
from cermet.zoo.catalogue import Wanted, find_entry
from cermet.zoo.demo import demo_pool, generated_subjects
from cermet.zoo.steps import Progress
from cermet.zoo.templates import DOMAINS
from cermet.zoo.train import Course


def _row(name: str, kind: str, accuracy: float, kept: float) -> Row:
    shares = {"bank": accuracy, "home": accuracy - 0.1}
    seconds = 0.25 if kind == "merge" else None
    rest = {"bank": kept, "home": kept - 0.02}
    return Row(name, kind, shares, accuracy - 0.05, accuracy - 0.1, rest, seconds, 90_000_000)


def _made() -> DemoTable:
    rows = (
        _row("base", "base", 0.6, 0.6),
        _row("expert: bank", "expert", 0.8, 1.0),
        _row("expert: home", "expert", 0.8, 1.0),
        _row(AVERAGE, "merge", 0.7, 0.8),
        _row("ties", "merge", 0.9, 0.97),
    )
    return DemoTable(0, "abc", rows, ("bank",), 12.5)


def test_conclusion_says_what_the_numbers_say() -> None:
    first, second = _made().conclusion()
    assert first.startswith("ties does the work of 2 models (180 MB) in 90 MB")
    assert "keeps 96.0% of the experts' accuracy, and 95.0% in the domain" in first
    assert "mean accuracy is 85.0%: 20.0 points above the plain average (65.0%)" in second
    assert second.endswith("the base has 55.0%.")


def test_record_holds_every_row_and_recipe() -> None:
    record = _made().record()
    assert [row["name"] for row in record["rows"]][-1] == "ties"
    assert record["rows"][-1]["kept_worst"] == pytest.approx(0.95)
    assert [recipe["method"] for recipe in record["recipes"]] == [m.method for m in MERGES]
    assert record["generator"] == "abc"


def test_five_merges_with_the_plain_average_among_them() -> None:
    names = [merge.method for merge in MERGES]
    assert len(set(names)) == 5
    assert AVERAGE in names


def test_recipes_name_every_expert_and_the_base_where_it_is_needed() -> None:
    pool = SimpleNamespace(base="b", experts={"bank": "x", "home": "y"})
    for merge in MERGES:
        recipe: Mapping[str, Any] = demo.recipe_of(merge, pool, 4)  # type: ignore[arg-type]
        assert [m["model"] for m in recipe["models"]] == ["x", "y"]
        assert recipe["seed"] == 4
        assert ("base_model" in recipe) == merge.on_base


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="seed is -1"):
        demo.run(tmp_path, -1)


def test_run_builds_a_pool_and_measures_base_experts_and_merges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tiny experts; the base stands in for every merge."""
    monkeypatch.setattr(
        demo, "generated_subjects", lambda seed: generated_subjects(seed, DOMAINS[:2], 2)
    )
    asked: list[Mapping[str, Any]] = []
    said: list[str] = []

    def merge(recipe: Mapping[str, Any], out: Path, *, overwrite: bool) -> Any:
        assert overwrite
        asked.append(recipe)
        out.parent.mkdir(parents=True, exist_ok=True)
        if not out.exists():
            out.symlink_to(base_folder())
        return SimpleNamespace(seconds=0.5, bytes=7)

    tiny = Course(batch=32, rate=1e-4, epochs=1)
    table = demo.run(tmp_path, 0, Progress(said.append), merge, tiny)
    assert [r["merge_method"] for r in asked] == [m.method for m in MERGES]
    assert asked[-1]["base_model"] == str(tmp_path / "seed-0/base")
    assert [r.kind for r in table.rows] == ["base", "expert", "expert", *["merge"] * 5]
    base, *experts = table.rows[:3]
    for row in table.rows[3:]:
        assert row.accuracy == base.accuracy
        assert (row.seconds, row.bytes) == (0.5, 7)
    assert [row.kept[name] for row, name in zip(experts, DOMAINS, strict=False)] == [1.0, 1.0]
    assert base.bytes == (base_folder() / "model.safetensors").stat().st_size
    assert table.trained == DOMAINS[:2]
    assert any(line.startswith("experts/bank: made in") for line in said)
    again = demo.run(tmp_path, 0, merge=merge, course=tiny)
    assert again.trained == ()
    assert again.rows == table.rows


def test_the_experts_of_the_catalogue_are_those_of_the_demo() -> None:
    """`cermet zoo build demo` and `cermet demo` find each other's steps in the cache."""
    listed = find_entry("demo").draw(Wanted(3))
    own = demo_pool(3, generated_subjects(3)).blueprint()
    assert [(s.name, s.stands) for s in listed.steps] == [(s.name, s.stands) for s in own.steps]

"""pool.yaml: paths from its folder, names that exist, one sentence for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from cermet.core.errors import InputError, RecipeError
from cermet.recipes.pool import read_pool

_POOL = """\
cermet_pool: 1
name: mine
base: base
experts: {one: experts/one, two: someone/two}
adapters: {two: base+adapters/two}
tasks:
  one: {kind: embed, validation: v.jsonl, test: t.jsonl, head: h.safetensors}
  other: {kind: generate, expert: two, validation: v.jsonl, test: t.jsonl, max_tokens: 8}
  apart: {kind: likelihood, validation: v.jsonl, test: t.jsonl}
"""


def _written(folder: Path, text: str = _POOL) -> Path:
    for name in ("v.jsonl", "t.jsonl", "h.safetensors"):
        (folder / name).touch()
    for name in ("base", "experts/one"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "pool.yaml").write_text(text)
    return folder


def test_folders_beside_the_file_are_absolute_and_hub_names_stay(tmp_path: Path) -> None:
    pool = read_pool(_written(tmp_path))
    assert pool.base == str(tmp_path / "base")
    assert dict(pool.experts) == {"one": str(tmp_path / "experts/one"), "two": "someone/two"}
    assert pool.adapters["two"] == f"{tmp_path / 'base'}+adapters/two"
    assert pool.multi_task is None


def test_a_task_belongs_to_the_expert_of_its_name_or_the_one_it_names(tmp_path: Path) -> None:
    tasks = read_pool(_written(tmp_path) / "pool.yaml").tasks
    assert [t.expert for t in tasks] == ["one", "two", None]
    assert [t.metric for t in tasks] == ["accuracy", "exact_match", "bits_per_character"]
    assert tasks[0].files["test"] == tmp_path / "t.jsonl"
    assert tasks[1].max_tokens == 8


def test_a_part_has_the_tasks_of_its_experts(tmp_path: Path) -> None:
    part = read_pool(_written(tmp_path)).part(1)
    assert list(part.experts) == ["one"]
    assert [t.name for t in part.tasks] == ["one"]
    assert part.adapters == {}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kind: embed", "kind: embedd", r":7: tasks.one.kind: input should be 'embed'"),
        ("max_tokens", "max_token", r":8: unknown key 'max_token' .*Did you mean 'max_tokens'"),
        ("expert: two", "expert: three", r":8: there is no expert 'three'; the pool has one, two"),
        ("{two: base", "{three: base", r":5: there is no expert 'three'"),
        (", head: h.safetensors", "", r":7: a task of kind 'embed' needs a 'head'"),
        ("base: base\n", "", r":1: 'base' is missing"),
        ("t.jsonl, head", "u.jsonl, head", r":7: there is no file '.*u.jsonl'"),
        ("cermet_pool: 1", "cermet_pool: 2", r":1: cermet_pool: input should be 1"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in _POOL
    with pytest.raises((RecipeError, InputError), match=said):
        read_pool(_written(tmp_path, _POOL.replace(old, new)))


def test_no_pool_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no pool at .*pool\.yaml"):
        read_pool(tmp_path)

"""The pool `sight`, tiny: whole folders, the same bytes each time, and splits that stay apart."""

from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cermet import plan
from cermet.core.errors import ExtraError
from cermet.recipes.pool import read_pool
from cermet.zoo import vision
from cermet.zoo.cache import MARK
from cermet.zoo.catalogue import Wanted, find_entry
from cermet.zoo.images import DIGITS, TASKS, Sizes, labels_of, splits
from cermet.zoo.scenes import scenes
from cermet.zoo.sight import Settings, blueprint
from cermet.zoo.steps import Built, build
from cermet.zoo.train import Course
from cermet.zoo.vision import Form

_SIZES = Sizes(train=60, validation=12, test=24)
_COURSE = Course(epochs=1, batch=20, rate=1e-3, pull=0.0)
_TINY = Settings(
    form=Form(width=16, layers=1, heads=2, inner=16, patch=12),
    sizes=_SIZES,
    scenes=40,
    shots=2,
    base=_COURSE,
    expert=_COURSE,
    multi_task=_COURSE,
)


def _built(root: Path, seed: int = 0) -> Built:
    return build(blueprint(Wanted(seed), _TINY), root)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sight")
    _built(root)
    return root


def _bytes(root: Path) -> dict[str, bytes]:
    files = (f for f in root.rglob("*") if f.is_file() and f.name != MARK)  # it holds seconds
    return {str(f.relative_to(root)): f.read_bytes() for f in files}


def test_two_builds_give_the_same_bytes_and_another_seed_others(pool: Path, tmp_path: Path) -> None:
    _built(tmp_path / "again")
    _built(tmp_path / "other", 1)
    first, again, other = (_bytes(p) for p in (pool, tmp_path / "again", tmp_path / "other"))
    assert first == again
    for name in ("base/model.safetensors", *(f"tasks/{t}.test.safetensors" for t in TASKS)):
        assert first[name] != other[name]


def test_a_build_goes_on_where_it_was_stopped(pool: Path) -> None:
    assert _built(pool).made == ()
    weights = pool / "experts/counts/model.safetensors"
    before = weights.read_bytes()
    (pool / "experts/counts" / MARK).write_text("{}")
    assert _built(pool).made == ("experts/counts",)
    assert weights.read_bytes() == before


def test_the_pool_is_read_with_its_files(pool: Path) -> None:
    found = read_pool(pool)
    assert tuple(found.experts) == TASKS
    for task in found.tasks:
        assert task.head is not None
        head = load_file(task.head)
        assert head["weight"].shape == (len(labels_of(task.name)), 16)
        assert head["bias"].shape == (len(labels_of(task.name)),)
        for split, count in (("validation", 12), ("test", 24)):
            held = load_file(task.files[split])  # type: ignore[index]
            assert held["images"].shape == (count, 1, 24, 24)
            assert (held["images"].dtype, held["labels"].dtype) == (torch.uint8, torch.int64)
    recipe = {"merge_method": "linear", "parameters": {"weight": 1.0},
              "models": [{"model": path} for path in found.experts.values()]}  # fmt: skip
    plan(recipe)


def test_training_moves_the_encoder_and_not_the_head(pool: Path) -> None:
    base, expert = (
        load_file(pool / name / "model.safetensors") for name in ("base", "experts/shapes")
    )
    assert base.keys() == expert.keys()
    assert not any(name.startswith("pooler") for name in base)
    moved = {name for name in base if not torch.equal(base[name], expert[name])}
    assert moved
    assert moved == {name for name, weight in base.items() if weight.dim() == 2}


@pytest.mark.parametrize("task", TASKS)
def test_no_image_is_in_two_splits_nor_twice_in_one(task: str) -> None:
    sizes = Sizes(train=700, validation=100, test=200)
    found = {s: [p.tobytes() for p in i.pixels] for s, i in splits(task, 0, sizes).items()}
    assert {split: len(rows) for split, rows in found.items()} == {
        "train": 700, "validation": 100, "test": 200,
    }  # fmt: skip
    assert all(len(set(rows)) == len(rows) for rows in found.values())
    assert all(not set(a) & set(b) for a, b in combinations(found.values(), 2))


def test_a_figure_that_was_seen_is_drawn_again() -> None:
    """With the same stream again, all that comes first was seen before."""
    from cermet.zoo.images import _draw

    seen: set[bytes] = set()
    first = _draw("shapes", np.random.default_rng(0), 16, seen)
    again = _draw("shapes", np.random.default_rng(0), 16, seen)
    assert len(seen) == 32
    assert (first.labels == again.labels).all()


def test_every_label_is_drawn_and_ink_shows() -> None:
    for task in TASKS:
        train = splits(task, 3, Sizes(train=120, validation=4, test=4))["train"]
        assert set(train.labels) == set(range(len(labels_of(task))))
        assert (train.pixels.reshape(len(train), -1).std(axis=1) > 5).all()


def test_scenes_are_told_by_finite_numbers() -> None:
    pixels, told = scenes(np.random.default_rng(0), 50)
    assert pixels.shape == (50, 1, 24, 24)
    assert len(told) == 50
    assert np.isfinite(told).all()
    assert (told.std(axis=0) > 0).all()


def test_a_discriminant_tells_clouds_apart() -> None:
    noise = torch.Generator().manual_seed(0)
    labels = np.arange(90) % 3
    centres = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    found = centres[labels] + torch.randn(90, 2, generator=noise) * 0.5
    head = vision.fit_head(found, labels)
    assert (head(found).argmax(dim=1).numpy() == labels).all()
    assert float(head.bias.sum()) == pytest.approx(0, abs=1e-4)
    assert float(head(found).std(dim=1).mean()) == pytest.approx(2)


def test_digits_without_scikit_learn_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ExtraError, match=r"pip install 'cermet\[zoo\]'"):
        splits(DIGITS, 0, _SIZES)


def test_the_catalogue_has_it() -> None:
    assert find_entry("sight").draw(Wanted()).steps[0].name == "base"

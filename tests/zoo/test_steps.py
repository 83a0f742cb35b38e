"""Building a pool: what is whole is found, what has changed is made again with what needs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cermet.core.errors import InputError, OutputError
from cermet.zoo.catalogue import Entry, Wanted, find_entry
from cermet.zoo.steps import Blueprint, Built, Step, Tick, build


def _step(name: str, text: str, after: tuple[str, ...] = ()) -> Step:
    def make(new: Path, root: Path, tick: Tick) -> None:
        before = "".join((root / a / "text").read_text() for a in after)
        (new / "text").write_text(before + text)
        tick(1, 1)

    return Step(name, {"text": text}, make, after)


def _built(root: Path, base: str = "a", other: str = "c") -> Built:
    steps = [_step("base", base), _step("experts/one", "b", ("base",)), _step("tasks", other)]
    pools: Mapping[str, Mapping[str, Any]] = {"pool.yaml": {"name": "toy"}}
    return build(Blueprint(steps, pools), root)


def test_a_second_build_finds_everything(tmp_path: Path) -> None:
    assert _built(tmp_path).made == ("base", "experts/one", "tasks")
    assert (tmp_path / "experts/one/text").read_text() == "ab"
    assert (tmp_path / "pool.yaml").read_text() == "name: toy\n"
    again = _built(tmp_path)
    assert again.made == ()
    assert set(again.seconds) == {"base", "experts/one", "tasks"}


def test_what_is_stale_is_made_again_with_what_was_made_from_it(tmp_path: Path) -> None:
    _built(tmp_path)
    assert _built(tmp_path, other="d").made == ("tasks",)
    assert _built(tmp_path, base="x", other="d").made == ("base", "experts/one")
    assert (tmp_path / "experts/one/text").read_text() == "xb"


def test_a_step_that_fails_leaves_what_was_there_and_the_next_build_goes_on(tmp_path: Path) -> None:
    def fail(new: Path, root: Path, tick: Tick) -> None:
        (new / "half").write_text("")
        raise KeyboardInterrupt

    steps = [_step("base", "a"), Step("experts/one", {}, fail, ("base",))]
    with pytest.raises(KeyboardInterrupt):
        build(Blueprint(steps, {}), tmp_path)
    assert list((tmp_path / "experts").iterdir()) == []
    assert _built(tmp_path).made == ("experts/one", "tasks")


def test_a_folder_of_someone_else_stays(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base/thesis").write_text("mine")
    with pytest.raises(OutputError, match="in the way"):
        _built(tmp_path)
    assert (tmp_path / "base/thesis").read_text() == "mine"


def _entry(data_required: bool = True) -> Entry:
    def blueprint(wanted: Wanted) -> Blueprint:
        return Blueprint([], {})

    return Entry(
        "toy", "A toy.", 1, 1, blueprint, {"adapters": "LoRA experts."}, "x", data_required
    )


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Wanted(extras=("adapter",)), "has no extra 'adapter'; it has adapters"),
        (Wanted(), "needs --data: a folder with x"),
        (Wanted(data=Path("/nowhere")), "no folder '/nowhere'"),
        (Wanted(seed=-1), "seed is -1"),
    ],
)
def test_what_cannot_be_built_is_refused_before_it_starts(wanted: Wanted, said: str) -> None:
    with pytest.raises(InputError, match=said):
        _entry().draw(wanted)


def test_an_unknown_pool_is_refused() -> None:
    with pytest.raises(InputError, match="no pool 'voicez' to build"):
        find_entry("voicez")

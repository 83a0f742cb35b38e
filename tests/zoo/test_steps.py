"""Building a pool: what is whole is found, what has changed is made again with what needs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cermet.core.errors import InputError, OutputError
from cermet.zoo.cards import Card
from cermet.zoo.catalogue import Entry, Wanted, find_entry
from cermet.zoo.steps import Blueprint, Built, Progress, Step, Tick, build


def _step(name: str, text: str, after: tuple[str, ...] = (), asked: bool = True) -> Step:
    def make(new: Path, root: Path, tick: Tick) -> None:
        before = "".join((root / a / "text").read_text() for a in after)
        (new / "text").write_text(before + text)
        tick(1, 1)

    return Step(name, {"text": text}, make, after, card=Card(f"{name}.", ["d"]), asked=asked)


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


def _extra(root: Path, asked: bool, base: str = "a", second: str = "c") -> tuple[str, ...]:
    """Build a pool with two adapters; what the lines of progress say."""
    steps = [
        _step("base", base),
        _step("adapters/one", "b", ("base",), asked),
        _step("adapters/two", second, ("base",), asked),
    ]
    adapters = {name: f"adapters/{name}" for name in ("one", "two")}
    said: list[str] = []
    pools = {"pool.yaml": {"name": "toy", "adapters": adapters, "base": "base"}}
    build(Blueprint(steps, pools), root, Progress(said.append))
    return tuple(line.split(" in ")[0] for line in said)


def test_an_extra_that_is_not_asked_for_is_not_made(tmp_path: Path) -> None:
    assert _extra(tmp_path, asked=False) == ("base: made",)
    assert (tmp_path / "pool.yaml").read_text() == "name: toy\nbase: base\n"
    assert not (tmp_path / "adapters").exists()


def test_an_extra_that_was_built_stays_in_the_pool(tmp_path: Path) -> None:
    _extra(tmp_path, asked=True)
    whole = (tmp_path / "pool.yaml").read_text()
    assert "  two: adapters/two\n" in whole
    found = ("base: found", "adapters/one: found", "adapters/two: found")
    assert _extra(tmp_path, asked=False) == found
    assert (tmp_path / "pool.yaml").read_text() == whole


def test_a_stale_extra_is_left_out_and_said_and_stays_on_disk(tmp_path: Path) -> None:
    _extra(tmp_path, asked=True)
    said = _extra(tmp_path, asked=False, second="d")
    assert said[2] == "adapters/two: stale and not asked for, so left out of the pool"
    assert (tmp_path / "pool.yaml").read_text() == (
        "name: toy\nadapters:\n  one: adapters/one\nbase: base\n"
    )
    _extra(tmp_path, asked=False, base="x")
    assert (tmp_path / "pool.yaml").read_text() == "name: toy\nbase: base\n"
    assert (tmp_path / "adapters/two/text").read_text() == "ac"


def test_a_card_is_written_and_no_part_of_the_digest(tmp_path: Path) -> None:
    _built(tmp_path)
    card = tmp_path / "base/README.md"
    assert card.read_text() == "base.\n\nData:\n\n- d\n"
    card.write_text("mine")
    assert _built(tmp_path).made == ()
    assert card.read_text() == "mine"


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

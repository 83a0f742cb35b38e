"""`cermet clean` lists and removes what abandoned runs have left, and nothing else."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from cermet import api
from cermet.core.errors import InputError, OutputError
from tests.reliability.forked import Forked
from tests.reliability.runs import (
    ended,
    forked,
    interrupted,
    recipe,
    snapshot,
    wait_until_recorded,
    working,
    write_pool,
    write_recipe,
)


@pytest.fixture
def pool(tmp_path: Path) -> list[Path]:
    return write_pool(tmp_path / "pool", 2, (40, 30))


def test_it_lists_and_then_removes(pool: list[Path], tmp_path: Path) -> None:
    left = [interrupted(recipe(pool), tmp_path / name, 3) for name in ("a", "b")]
    around = snapshot([tmp_path])
    sizes = [sum(p.stat().st_size for p in folder.iterdir()) for folder in left]
    assert api.clean(tmp_path, remove=False) == list(zip(left, sizes, strict=True))
    assert snapshot([tmp_path]) == around
    assert api.clean(tmp_path, remove=True) == list(zip(left, sizes, strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["pool"]
    assert api.clean(tmp_path, remove=True) == []


def test_the_command(pool: list[Path], tmp_path: Path) -> None:
    folder = interrupted(recipe(pool), tmp_path / "a", 3)
    code, text = forked("clean", tmp_path)
    assert (code, f"left over: {folder}" in text, "--remove" in text) == (0, True, True)
    assert folder.is_dir()
    code, text = forked("clean", tmp_path, "--remove")
    assert (code, f"removed: {folder}" in text) == (0, True)
    assert not folder.exists()


def test_what_a_merge_is_using_stays(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", 12, (1024, 1024))
    path = write_recipe(tmp_path / "recipe.yaml", recipe(pool, "della"))
    left = interrupted(recipe(pool), tmp_path / "abandoned", 3)
    process = Forked("merge", path, tmp_path / "out", "--threads", "1")
    wait_until_recorded(process, tmp_path / "out", 2)
    process.send_signal(signal.SIGSTOP)
    found = api.clean(tmp_path, remove=True)
    process.send_signal(signal.SIGCONT)
    assert [path for path, _ in found] == [left]
    assert ended(process)[0] == 0
    assert api.verify(tmp_path / "out").problems == []


@pytest.mark.parametrize("name", [".out.cermet", ".out.cermet-old"])
@pytest.mark.parametrize("inside", ["notes.txt", "lock", "journal.jsonl", "cermet.json"])
def test_foreign_folders_stay(tmp_path: Path, name: str, inside: str) -> None:
    """The name alone does not make a folder ours; an output beside it changes nothing."""
    (tmp_path / name).mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / name / inside).write_text("mine", "utf-8")
    before = snapshot([tmp_path])
    assert api.clean(tmp_path, remove=True) == []
    assert snapshot([tmp_path]) == before


def test_a_foreign_folder_inside_stops_it(pool: list[Path], tmp_path: Path) -> None:
    """Cermet makes no folders in its working folder, so it removes none."""
    folder = interrupted(recipe(pool), tmp_path / "a", 3)
    (folder / "keep").mkdir()
    (folder / "keep" / "notes.txt").write_text("mine", "utf-8")
    before = snapshot([folder])
    with pytest.raises(OutputError, match="which Cermet did not write"):
        api.clean(tmp_path, remove=True)
    assert snapshot([folder]) == before


def test_the_only_copy_of_an_output_stays(pool: list[Path], tmp_path: Path) -> None:
    """A run that was killed between its two renames has moved the old output aside."""
    api.merge(recipe(pool), tmp_path / "out")
    aside = tmp_path / ".out.cermet-old"
    os.replace(tmp_path / "out", aside)
    assert api.clean(tmp_path, remove=True) == []
    api.merge(recipe(pool, seed=9), tmp_path / "out2")
    os.replace(tmp_path / "out2", tmp_path / "out")
    assert [path for path, _ in api.clean(tmp_path, remove=True)] == [aside]
    assert not aside.exists()
    assert api.verify(tmp_path / "out").problems == []


def test_after_a_kill_before_the_journal(pool: list[Path], tmp_path: Path) -> None:
    """A signed lock alone is a run that had just begun."""
    folder = interrupted(recipe(pool), tmp_path / "a", 1)
    for path in folder.iterdir():
        if path.name != "lock":
            path.unlink()
    assert [path for path, _ in api.clean(tmp_path, remove=True)] == [folder]
    assert not working(tmp_path / "a").exists()


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no folder"):
        api.clean(tmp_path / "nowhere", remove=False)

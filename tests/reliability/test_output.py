"""Outputs that exist, and two runs at one place: nothing is lost that Cermet did not write."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from cermet import api
from cermet.core.errors import MismatchError, OutputError
from tests.reliability.forked import Forked
from tests.reliability.runs import (
    contents,
    ended,
    forked,
    interrupted,
    recipe,
    snapshot,
    wait_until_recorded,
    weights,
    working,
    write_model,
    write_pool,
    write_recipe,
)

_SHAPE = (40, 30)


@pytest.fixture
def pool(tmp_path: Path) -> list[Path]:
    return write_pool(tmp_path / "pool", 2, _SHAPE)


def _refused(pool: list[Path], out: Path, words: str, **options: bool) -> None:
    """One sentence, exit code 2, and every file around it as it was."""
    around = snapshot([out.parent])
    with pytest.raises(OutputError, match=words) as caught:
        api.merge(recipe(pool), out, **options)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert snapshot([out.parent]) == around
    assert not working(out).exists()


def test_an_output_is_not_overwritten_by_chance(pool: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    api.merge(recipe(pool), out)
    _refused(pool, out, "exists. Choose another name, or use --overwrite")
    _refused(pool, out, "exists", resume=True)


def test_overwrite_replaces_what_cermet_wrote(pool: list[Path], tmp_path: Path) -> None:
    """All of it: the old shards do not stay beside the new file."""
    out = tmp_path / "out"
    api.merge(recipe(pool), out, shard_size=1000)
    assert len(list(out.glob("*.safetensors"))) > 2
    api.merge(recipe(pool, seed=9), out, overwrite=True)
    api.merge(recipe(pool, seed=9), tmp_path / "calm")
    assert contents(out) == contents(tmp_path / "calm")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["calm", "out", "pool"]


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "checkpoints/step1.pt"])
def test_a_foreign_file_keeps_an_output(pool: list[Path], tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    api.merge(recipe(pool), out)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine", "utf-8")
    _refused(pool, out, "which Cermet did not write", overwrite=True)


@pytest.mark.parametrize("record", [None, "{", "[]", "{}", '{"files": 3}', '{"files": {}}'])
def test_a_folder_of_others_is_kept(pool: list[Path], tmp_path: Path, record: str | None) -> None:
    out = write_model(tmp_path / "out", weights(2, _SHAPE, 5))
    if record is not None:
        (out / "cermet.json").write_text(record, "utf-8")
    _refused(pool, out, "which Cermet did not write", overwrite=True)


def test_a_file_is_kept(pool: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine", "utf-8")
    _refused(pool, tmp_path / "out", "is a file; the output is a folder", overwrite=True)


def test_an_empty_folder_is_taken(pool: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    api.merge(recipe(pool), tmp_path / "out")
    assert api.verify(tmp_path / "out").problems == []


def test_a_link_leads_to_the_output(pool: list[Path], tmp_path: Path) -> None:
    """A link to another disk stays a link, and the files go where it leads."""
    (tmp_path / "disk" / "real").mkdir(parents=True)
    out = tmp_path / "out"
    out.symlink_to(tmp_path / "disk" / "real")
    api.merge(recipe(pool), out)
    api.merge(recipe(pool, seed=9), out, overwrite=True)
    assert out.is_symlink()
    assert sorted(p.name for p in (tmp_path / "disk").iterdir()) == ["real"]
    assert api.verify(tmp_path / "disk" / "real").problems == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_source_is_never_replaced(pool: list[Path], tmp_path: Path, overwrite: bool) -> None:
    """Not even one that Cermet wrote, and not under another name."""
    mine = tmp_path / "merged"
    api.merge(recipe(pool), mine)
    link = tmp_path / "link"
    link.symlink_to(mine)
    (tmp_path / "pool" / "linked").mkdir()
    for file in mine.iterdir():
        (tmp_path / "pool" / "linked" / file.name).symlink_to(file)
    for named, out in ((mine, mine), (mine, link), (link, mine), (pool[0].parent / "linked", mine)):
        _refused([pool[0], named, pool[2]], out, "is merged", overwrite=overwrite)
    for file in (pool[0] / "tokenizer.json", mine / "model.safetensors"):
        assert file.is_file()


def test_the_tokenizer_of_an_output_is_not_replaced(pool: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    api.merge(recipe(pool), out)
    with pytest.raises(OutputError, match="is merged"):
        api.merge(recipe(pool, tokenizer_source=str(out)), out, overwrite=True)
    assert (out / "tokenizer.json").is_file()


def test_an_output_inside_of_a_source(pool: list[Path]) -> None:
    """It adds a folder there, and touches no file."""
    before = snapshot(pool)
    api.merge(recipe(pool), pool[1] / "merged")
    shutil.move(pool[1] / "merged", pool[0].parent / "merged")
    assert snapshot(pool) == before


@pytest.mark.parametrize("name", [".out.cermet", ".out.cermet-old"])
@pytest.mark.parametrize("inside", ["notes.txt", "lock", "journal.jsonl", "model.safetensors"])
def test_a_folder_of_our_name_is_kept(
    pool: list[Path], tmp_path: Path, name: str, inside: str
) -> None:
    """A working folder is one by its lock, not by its name."""
    (tmp_path / name).mkdir()
    (tmp_path / name / inside).write_text("mine", "utf-8")
    around = snapshot([tmp_path])
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(OutputError, match="in the way, and Cermet did not write it"):
            api.merge(recipe(pool), tmp_path / "out", **options)
        assert snapshot([tmp_path]) == around


def test_two_at_once(tmp_path: Path) -> None:
    """The second is refused in one sentence, and the first one ends well."""
    pool = write_pool(tmp_path / "pool", 12, (1024, 1024))
    path, out = write_recipe(tmp_path / "recipe.yaml", recipe(pool, "della")), tmp_path / "out"
    first = Forked("merge", path, out, "--threads", "1")
    wait_until_recorded(first, out, 2)
    first.send_signal(signal.SIGSTOP)  # it holds its lock all the same
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(OutputError, match="Another merge is writing"):
            api.merge(recipe(pool), out, **options)
    first.send_signal(signal.SIGCONT)
    assert ended(first)[0] == 0
    code, text = forked("merge", path, out)
    assert (code, text.count("\n")) == (2, 1), text
    assert api.verify(out).problems == []


def test_many_at_once(pool: list[Path], tmp_path: Path) -> None:
    """Exactly one of eight wins, and no other leaves or removes anything."""
    out, results, gate = tmp_path / "out", [], threading.Barrier(8)

    def merge() -> None:
        gate.wait()
        try:
            api.merge(recipe(pool), out, threads=1)
            results.append("done")
        except OutputError:
            results.append("refused")

    threads = [threading.Thread(target=merge) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["done"] + ["refused"] * 7
    assert api.verify(out).problems == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "pool"]


def test_somebody_takes_the_name_meanwhile(pool: list[Path], tmp_path: Path) -> None:
    """What appears under the output's name during the merge is not replaced."""
    out = tmp_path / "out"

    def take(name: str, size: int) -> None:
        out.mkdir(exist_ok=True)
        (out / "theirs.txt").write_text("theirs", "utf-8")

    with pytest.raises(OutputError, match="exists"):
        api.merge(recipe(pool), out, progress=take)
    assert [p.name for p in out.iterdir()] == ["theirs.txt"]
    shutil.rmtree(out)
    assert api.merge(recipe(pool), out, resume=True).resumed_pieces > 0


class _Killed(BaseException):
    """The process is gone."""


def _die_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """From the step-th change of a folder on, nothing that this process does has an effect."""
    left = iter(range(step))

    def mortal(real: Callable[..., object]) -> Callable[..., object]:
        def act(*arguments: object, **options: object) -> object:
            if next(left, None) is None:
                raise _Killed
            return real(*arguments, **options)

        return act

    for name in ("replace", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, mortal(getattr(os, name)))


_STEPS = 10  # two renames, journal and lock, the five files of the old output and its folder


@pytest.mark.parametrize("step", range(_STEPS + 1))
def test_killed_while_it_publishes(
    pool: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Old or new stands under the name, or is brought back there by the next run."""
    out = tmp_path / "out"
    api.merge(recipe(pool, "task_arithmetic", parameters={}), out)
    old = contents(out)
    api.merge(recipe(pool), tmp_path / "calm")
    new = contents(tmp_path / "calm")
    interrupted_merge = interrupted(recipe(pool), tmp_path / "other", 5)
    os.replace(interrupted_merge, working(out))
    with monkeypatch.context() as patch:
        _die_at(patch, step)
        try:
            api.merge(recipe(pool), out, resume=True, overwrite=True)
        except _Killed:
            assert step < _STEPS
        else:
            assert step == _STEPS
    _is_whole(out, old, new)
    api.merge(recipe(pool), out, resume=True, overwrite=True)
    assert contents(out) == new
    assert sorted(p.name for p in tmp_path.iterdir()) == ["calm", "out", "pool"]


def _is_whole(out: Path, old: Mapping[str, str], new: Mapping[str, str]) -> None:
    place = out if out.exists() else out.parent / f".{out.name}.cermet-old"
    found = {k: v for k, v in contents(place).items() if k not in ("lock", "journal.jsonl")}
    assert found in (old, new)


def test_data_error_leaves_nothing(pool: list[Path], tmp_path: Path) -> None:
    """A merge that cannot succeed is not kept for later."""
    broken = weights(2, _SHAPE, 7)
    broken["model.position_ids"] = torch.arange(7).flip(0)
    write_model(pool[1], broken)
    with pytest.raises(MismatchError, match="position_ids"):
        api.merge(recipe(pool), tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pool"]

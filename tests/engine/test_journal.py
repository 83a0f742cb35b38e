"""The journal: what was recorded is read again by the same run, and by no other.

How a merge goes on from damaged journals is held in tests/reliability/test_resume.py.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cermet.core.errors import OutputError
from cermet.engine.done import Done
from cermet.engine.journal import Journal


def _done(start: int) -> Done:
    return Done(start, start + 10, (1 << 64) - 1 - start, [start, 2 * start])


def _written(path: Path, pieces: int = 3) -> Path:
    journal = Journal(path, "plan", resume=False)
    for piece in range(pieces):
        journal.record(piece % 2, _done(10 * piece))
    journal.close()
    return path


def test_read_again(tmp_path: Path) -> None:
    journal = Journal(_written(tmp_path / "j"), "plan", resume=True)
    assert journal.done == {0: {0: _done(0), 20: _done(20)}, 1: {10: _done(10)}}


def test_a_resumed_journal_is_only_added_to(tmp_path: Path) -> None:
    """So a kill at any moment of a resumed run loses nothing that was done before."""
    path = _written(tmp_path / "j")
    before = path.read_bytes()
    journal = Journal(path, "plan", resume=True)
    assert path.read_bytes() == before
    journal.record(1, _done(30))
    journal.close()
    assert path.read_bytes().startswith(before)
    assert set(Journal(path, "plan", resume=True).done[1]) == {10, 30}


def test_damage_is_cut_off(tmp_path: Path) -> None:
    """What comes after it is written in its place, not behind it."""
    path = _written(tmp_path / "j")
    sound = path.read_bytes()
    path.write_bytes(sound + b"[7,")
    journal = Journal(path, "plan", resume=True)
    assert path.read_bytes() == sound
    journal.record(9, _done(90))
    assert 9 in Journal(path, "plan", resume=True).done


@pytest.mark.parametrize("options", [{"resume": False}, {"resume": True, "intact": False}])
def test_starting_over(tmp_path: Path, options: dict[str, bool]) -> None:
    path = _written(tmp_path / "j")
    journal = Journal(path, "plan", **options)
    journal.record(5, _done(50))
    assert set(journal.done) == {5}
    assert set(Journal(path, "plan", resume=True).done) == {5}


def test_another_plan_is_refused_and_kept(tmp_path: Path) -> None:
    path = _written(tmp_path / "j")
    before = path.read_bytes()
    with pytest.raises(OutputError, match="another recipe"):
        Journal(path, "other", resume=True)
    with pytest.raises(OutputError, match="another recipe"):
        Journal(path, "other", resume=True, intact=False)
    assert path.read_bytes() == before


def test_another_boot_is_void(tmp_path: Path) -> None:
    path = _written(tmp_path / "j")
    path.write_bytes(path.read_bytes().replace(b'"boot":"', b'"boot":"x'))
    assert Journal(path, "plan", resume=True).done == {}


def test_many_threads(tmp_path: Path) -> None:
    """Lines of several threads do not run into each other."""
    journal = Journal(tmp_path / "j", "plan", resume=False)

    def record(task: int) -> None:
        for piece in range(200):
            journal.record(task, _done(piece))

    threads = [threading.Thread(target=record, args=(task,)) for task in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = Journal(tmp_path / "j", "plan", resume=True)
    assert {task: len(pieces) for task, pieces in again.done.items()} == dict.fromkeys(
        range(4), 200
    )


def test_a_closed_journal_takes_nothing(tmp_path: Path) -> None:
    """A thread that was not waited for must not write into a file that now has its number."""
    journal = Journal(tmp_path / "j", "plan", resume=False)
    journal.close()
    with (tmp_path / "other").open("w"), pytest.raises(OSError, match="Bad file descriptor"):
        journal.record(0, _done(0))
    assert (tmp_path / "other").read_bytes() == b""

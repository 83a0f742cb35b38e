"""A disk that is full or cannot be written: one sentence, exit code 4, nothing lost.

The real command runs on a small tmpfs and on a read-only one where this user may mount them in a
namespace of his own; where not, under a limit on the size of files and below a folder that is
none. The faults that only a race can make are put in by hand.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from cermet import api
from cermet.core.errors import DiskError
from tests.reliability.runs import (
    contents,
    interrupted,
    recipe,
    run,
    snapshot,
    start,
    working,
    write_pool,
    write_recipe,
)

_MACHINE = 4
_SHAPE = (1100, 1000)  # the output has 4.4 MB


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pool(tmp_path_factory.mktemp("disk"), 2, _SHAPE)


@pytest.fixture
def script(pool: list[Path], tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "recipe.yaml", recipe(pool))


def _can_mount() -> bool:
    """Whether this user may mount a tmpfs in a namespace of his own."""
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(
        ["unshare", "-rm", "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True, check=False
    )
    return tried.returncode == 0


def _on_tmpfs(place: Path, options: str, afterwards: str = "true") -> list[str]:
    """A prefix that runs a command with a tmpfs on a folder, and something before and after it."""
    mount = f"mount -t tmpfs -o {options} none {shlex.quote(str(place))}"
    last = f'"$@"; code=$?; {afterwards}; exit $code'
    return ["unshare", "-rm", "sh", "-c", f"{mount} && {last}", "sh"]


def _one_sentence(text: str) -> str:
    """What a failed command printed: one line, no traceback."""
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("cermet: ")
    assert lines[0].endswith(".")
    return lines[0]


def test_a_small_disk(script: Path, pool: list[Path], tmp_path: Path) -> None:
    """Refused before a weight is read; the disk is as empty as before."""
    before, place = snapshot(pool), tmp_path / "disk"
    place.mkdir()
    if _can_mount():
        prefix = _on_tmpfs(place, "size=3m", f"ls -A {shlex.quote(str(place))} >&2")
    else:
        prefix = ["sh", "-c", 'ulimit -f 1000; exec "$@"', "sh"]
    code, text = run("merge", script, place / "out", prefix=prefix)
    assert code == _MACHINE, text
    assert "GB" in _one_sentence(text)
    assert list(place.iterdir()) == []
    assert snapshot(pool) == before


def test_a_read_only_disk(script: Path, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    if _can_mount():
        code, text = run("merge", script, place / "out", prefix=_on_tmpfs(place, "ro"))
        assert "Read-only file system" in text
    else:
        code, text = run("merge", script, "/proc/out")
    assert code == _MACHINE, text
    assert "cannot be written" in _one_sentence(text)


def test_a_limit_on_files(script: Path, tmp_path: Path) -> None:
    """The space for a shard is reserved before its first byte, so this is seen at once."""
    prefix = ["sh", "-c", 'ulimit -f 1000; exec "$@"', "sh"]
    process = start("merge", script, tmp_path / "out", prefix=prefix)
    out, err = process.communicate(timeout=60)
    assert process.returncode == _MACHINE, out + err
    assert "model.safetensors' (0.00 GB) cannot be created: File too large." in _one_sentence(err)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("recipe.yaml/out", "File exists|Not a directory"),
        ("recipe.yaml/a/b/out", "Not a directory"),
        ("x" * 250, "File name too long"),
        ("y" * 300, "File name too long"),
        ("circle/out", "symbolic links|File exists"),
    ],
    ids=["in a file", "deep in a file", "long hidden name", "long name", "links in a circle"],
)
def test_an_impossible_place(script: Path, tmp_path: Path, out: str, words: str) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(DiskError, match=words) as caught:
        api.merge(script, tmp_path / out)
    assert caught.value.exit_code == _MACHINE
    assert sorted(p.name for p in tmp_path.iterdir()) == ["circle", "recipe.yaml"]


_FAULTS = {
    "shard": (os, "posix_fallocate", 0),
    "journal": (os, "write", 4),
    "fsync": (os, "fsync", 0),
    "tokenizer": (shutil, "copyfile", 0),
    "rename": (os, "replace", 0),
}


def _fault(patch: pytest.MonkeyPatch, where: str) -> None:
    """Let one kind of write fail, at first or after some calls."""
    module, name, calls = _FAULTS[where]
    real, left = getattr(module, name), iter(range(calls))

    def fill(*arguments: object, **options: object) -> object:
        if next(left, None) is None:
            raise OSError(28, "No space left on device")
        return real(*arguments, **options)

    patch.setattr(module, name, fill)


@pytest.mark.parametrize("where", _FAULTS)
def test_it_fills_up_during_the_merge(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Nothing is left behind by a run that cannot end, and an old output stays."""
    out = tmp_path / "out"
    api.merge(script, out)
    old = snapshot([out])
    with monkeypatch.context() as patch:
        _fault(patch, where)
        with pytest.raises(DiskError, match="No space left on device") as caught:
            api.merge(script, out, overwrite=True, threads=2)
    assert "\n" not in str(caught.value)
    assert snapshot([out]) == old
    assert not working(out).exists()


def test_it_is_full_when_a_merge_goes_on(
    script: Path, pool: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier run has made is not thrown away for that."""
    api.merge(script, tmp_path / "calm", shard_size=3_000_000)
    out = tmp_path / "out"
    work = interrupted(recipe(pool), out, 3, shard_size=3_000_000)
    (work / "model-00002-of-00002.safetensors").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
        with pytest.raises(DiskError, match=r"has 0\.00 GB free"):
            api.merge(script, out, resume=True, shard_size=3_000_000)
    assert (work / "model-00001-of-00002.safetensors").is_file()
    api.merge(script, out, resume=True, shard_size=3_000_000)
    assert contents(out) == contents(tmp_path / "calm")


def test_what_is_there_already_needs_no_space(
    script: Path, pool: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of an unfinished merge have their final size, so a full disk is no hindrance."""
    out = tmp_path / "out"
    interrupted(recipe(pool), out, 3)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    assert api.merge(script, out, resume=True).resumed_pieces == 3

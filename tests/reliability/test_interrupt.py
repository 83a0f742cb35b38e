"""Ctrl-C and SIGTERM end the command cleanly, and what it prints is how to go on."""

from __future__ import annotations

import os
import shlex
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from cermet import api
from tests.reliability.forked import Forked
from tests.reliability.runs import (
    Files,
    Interrupt,
    contents,
    ended,
    forked,
    recipe,
    recorded,
    start,
    wait_until_recorded,
    working,
    write_pool,
    write_recipe,
)

_INTERRUPTED = 130
_PIECES = 3 * 12 + 1


@dataclass(frozen=True)
class Scene:
    """A recipe, and what an undisturbed run makes of it."""

    recipe: Path
    pool: list[Path]
    expected: Files


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    root = tmp_path_factory.mktemp("interrupt")
    pool = write_pool(root, 12, (2048, 768))
    path = write_recipe(root / "a recipe.yaml", recipe(pool, "della"))
    api.merge(path, root / "calm", threads=2)
    return Scene(path, pool, contents(root / "calm"))


def _interrupted(scene: Scene, out: Path, number: int, *options: str) -> str:
    """Send a signal in the middle of a merge; the last line that it printed."""
    process = Forked("merge", scene.recipe, out, "--threads", "2", *options)
    wait_until_recorded(process, out, _PIECES // 3)
    process.send_signal(number)
    code, text = ended(process)
    assert code == _INTERRUPTED, text
    assert "Traceback" not in text
    return text.strip().splitlines()[-1]


def _command(line: str) -> list[str]:
    """The arguments of the command that a message tells to run."""
    name, *arguments = shlex.split(line.partition("Continue with: ")[2])
    assert name == "cermet"
    return arguments


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_the_printed_command_goes_on(scene: Scene, tmp_path: Path, number: int) -> None:
    out = tmp_path / "an out"
    line = _interrupted(scene, out, number)
    assert line.startswith("cermet: interrupted.")
    assert not out.exists()
    assert recorded(out) >= _PIECES // 3
    code, text = forked(*_command(line))
    assert code == 0, text
    assert "pieces were there already" in text
    assert contents(out) == scene.expected


def test_the_printed_command_keeps_the_options(scene: Scene, tmp_path: Path) -> None:
    """Without --overwrite and --shard-size it would be refused; --resume stands there once."""
    out = tmp_path / "out"
    api.merge(recipe(scene.pool[:2], "task_arithmetic", parameters={}), out)
    old = contents(out)
    options = ("--overwrite", "--shard-size", "20MB")
    line = _interrupted(scene, out, signal.SIGINT, *options, "--resume")
    assert contents(out) == old
    arguments = _command(line)
    assert arguments.count("--resume") == 1
    code, text = forked(*arguments)
    assert code == 0, text
    assert len(list(out.glob("*.safetensors"))) == 2


def test_twice_does_not_hang(scene: Scene, tmp_path: Path) -> None:
    """The second Ctrl-C does not wait for the pieces under way; the merge can still go on."""
    out = tmp_path / "out"
    process = start("merge", scene.recipe, out, "--threads", "2")
    wait_until_recorded(process, out, _PIECES // 3)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    while process.poll() is None and time.monotonic() < began + 5:
        process.send_signal(signal.SIGINT)
        time.sleep(0.005)
    code, _ = ended(process)
    assert code in (_INTERRUPTED, -signal.SIGINT)
    assert time.monotonic() < began + 5
    api.merge(scene.recipe, out, threads=2, resume=True)
    assert contents(out) == scene.expected


@pytest.mark.parametrize("threads", [1, 2])
def test_in_python_it_stays_a_keyboard_interrupt(
    scene: Scene, tmp_path: Path, threads: int
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        api.merge(scene.recipe, out, threads=threads, progress=Interrupt(9))
    assert not out.exists()
    done = api.merge(scene.recipe, out, threads=threads, resume=True)
    assert done.resumed_pieces >= 9
    assert contents(out) == scene.expected


def test_before_anything_was_written(scene: Scene, tmp_path: Path) -> None:
    """Nothing is left behind where nothing was done."""

    def stop(plan: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.merge(scene.recipe, tmp_path / "out", planned=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", [0, 1])
def test_while_the_output_is_exchanged(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Between the two renames the old output is put back under its name."""
    out = tmp_path / "out"
    api.merge(recipe(scene.pool[:2], "task_arithmetic", parameters={}), out)
    old, replace, calls = contents(out), os.replace, iter(range(step))

    def counted(source: Path, target: Path) -> None:
        if next(calls, None) is None:
            monkeypatch.setattr(os, "replace", replace)
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", counted)
    with pytest.raises(KeyboardInterrupt):
        api.merge(scene.recipe, out, threads=2, overwrite=True)
    assert contents(out) == old
    done = api.merge(scene.recipe, out, threads=2, resume=True, overwrite=True)
    assert done.resumed_pieces == _PIECES
    assert contents(out) == scene.expected
    assert not working(out).exists()

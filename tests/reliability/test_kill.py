"""kill -9 at any moment, then `--resume`: the bytes of a run that nobody disturbed.

A pool of 150 MB is merged by the real command on two threads. Each of the kills waits for
its share of the journal, so that all stages of a run are hit; after each, the output name is free,
the inputs are as they were, and the merge goes on to the same files.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from cermet import api
from tests.reliability.forked import Forked
from tests.reliability.runs import (
    Files,
    contents,
    ended,
    forked,
    recipe,
    recorded,
    snapshot,
    wait_until_recorded,
    working,
    write_pool,
    write_recipe,
)

_LAYERS, _SHAPE = 16, (2048, 768)  # two pieces a matrix, one a norm, one buffer
_PIECES = 3 * _LAYERS + 1
_OPTIONS = ("--threads", "2", "--shard-size", "20MB")


@dataclass(frozen=True)
class Scene:
    """A recipe, its models, and what an undisturbed run makes of them."""

    recipe: Path
    pool: list[Path]
    expected: Files


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    root = tmp_path_factory.mktemp("kill")
    pool = write_pool(root, _LAYERS, _SHAPE)
    path = write_recipe(root / "recipe.yaml", recipe(pool, "della"))
    code, text = forked("merge", path, root / "calm" / "out", *_OPTIONS)
    assert code == 0, text
    expected = contents(root / "calm" / "out")
    shutil.rmtree(root / "calm")
    return Scene(path, pool, expected)


def _kill(scene: Scene, out: Path, pieces: int, *options: str) -> int:
    """Start the command, kill it at a moment of its journal; how many pieces were recorded."""
    process = Forked("merge", scene.recipe, out, *_OPTIONS, *options)
    wait_until_recorded(process, out, pieces)
    process.kill()
    code, text = ended(process)
    assert code in (0, -9), text
    return recorded(out)


def _resume(scene: Scene, out: Path) -> int:
    """Go on in this process, which takes less time; how many pieces were there already."""
    done = api.merge(scene.recipe, out, threads=2, shard_size=20_000_000, resume=True)
    return done.resumed_pieces


@pytest.mark.parametrize("kills", [7, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_all_over_the_journal(scene: Scene, tmp_path: Path, kills: int) -> None:
    """At least three of four land between 5 and 95 % of it."""
    before = snapshot(scene.pool)
    chance = random.Random(5)
    landed = []
    for number in range(kills):
        out = tmp_path / f"out{number}"
        share = _kill(scene, out, round((number + chance.random()) / kills * _PIECES)) / _PIECES
        if not out.exists():  # else the kill came too late, and the output must be whole
            landed.append(share)
            if number % 7 == 3:
                code, text = forked("merge", scene.recipe, out, *_OPTIONS, "--resume")
                assert code == 0, text
                assert "pieces were there already" in text
            else:
                assert _resume(scene, out) == round(share * _PIECES)
        assert contents(out) == scene.expected, f"other bytes after a kill at {share:.0%}"
        assert not working(out).exists()
        shutil.rmtree(out)
    assert sum(0.05 <= share <= 0.95 for share in landed) >= 3 * kills // 4, landed
    assert snapshot(scene.pool) == before, "a merge has touched its inputs"


def test_killed_again_and_again(scene: Scene, tmp_path: Path) -> None:
    """A run that goes on can be killed too; nothing that was done is done again."""
    out = tmp_path / "out"
    kept = [_kill(scene, out, 8)]
    for pieces in (18, 28, 38):
        kept.append(_kill(scene, out, pieces, "--resume"))
        assert not out.exists()
    assert kept == sorted(kept)
    assert _resume(scene, out) == kept[-1]
    assert contents(out) == scene.expected


def test_killed_while_it_overwrites(scene: Scene, tmp_path: Path) -> None:
    """The old output stays as it was, until the new one is complete."""
    out = tmp_path / "out"
    api.merge(recipe(scene.pool[:2], "task_arithmetic", parameters={}), out)
    old = snapshot([out])
    _kill(scene, out, _PIECES // 2, "--overwrite")
    assert snapshot([out]) == old
    code, text = forked("merge", scene.recipe, out, *_OPTIONS, "--resume", "--overwrite")
    assert code == 0, text
    assert "pieces were there already" in text
    assert contents(out) == scene.expected
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]

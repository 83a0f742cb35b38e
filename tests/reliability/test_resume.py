"""What `resume` goes on from, what it refuses, and that neither can end in other bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cermet import api
from cermet.core.errors import DiskError, OutputError
from cermet.engine import journal
from tests.reliability.runs import (
    contents,
    interrupted,
    recipe,
    recorded,
    snapshot,
    weights,
    working,
    write_model,
    write_pool,
)

_LAYERS, _SHAPE = 2, (1100, 1000)  # two pieces a matrix, one a norm, one buffer
_PIECES = 3 * _LAYERS + 1
_SHARD = 3_000_000  # a matrix alone has 2.2 MB


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pool(tmp_path_factory.mktemp("resume"), _LAYERS, _SHAPE, 4)


def _merged(data: Mapping[str, Any], out: Path, **options: Any) -> dict[str, str]:
    """Digests of what an undisturbed run writes."""
    api.merge(data, out, **options)
    return contents(out)


@pytest.mark.parametrize("after", range(1, _PIECES + 1))
def test_after_any_piece(pool: list[Path], tmp_path: Path, after: int) -> None:
    expected = _merged(recipe(pool), tmp_path / "calm", shard_size=_SHARD)
    out = tmp_path / "out"
    interrupted(recipe(pool), out, after, shard_size=_SHARD)
    done = api.merge(recipe(pool), out, resume=True, shard_size=_SHARD)
    assert done.resumed_pieces == after
    assert contents(out) == expected
    assert not working(out).exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"merge_method": "della"},
        {"merge_method": "breadcrumbs"},
        {"merge_method": "model_stock", "parameters": {}, "models": "unweighted"},
        {"merge_method": "nuslerp", "parameters": {}, "models": "two"},
        {
            "merge_method": "nuslerp",
            "parameters": {"nuslerp_flatten": False},
            "models": "two",
        },
        {"merge_method": "ties", "out_dtype": "float32"},
    ],
    ids=["by rows", "two cutoffs", "a Gram matrix", "a tensor's angle", "by columns", "float32"],
)
def test_any_kind_of_work(pool: list[Path], tmp_path: Path, changes: dict[str, Any]) -> None:
    data = {**recipe(pool), **changes}
    if data["models"] == "unweighted":
        data["models"] = [{"model": str(p)} for p in pool[1:]]
    elif data["models"] == "two":
        data["models"] = recipe(pool[:3])["models"]
    expected = _merged(data, tmp_path / "calm")
    out = tmp_path / "out"
    interrupted(data, out, 3)
    assert api.merge(data, out, resume=True).resumed_pieces == 3
    assert contents(out) == expected


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"threads": 1}, {"threads": 2}),
        ({"threads": 2}, {"threads": 1}),
        ({"threads": 1, "memory": 2_000_000_000}, {"threads": 2, "memory": 64_000_000}),
        ({"threads": 1, "block": 65_537}, {"threads": 1, "block": 10_007}),
    ],
    ids=["more threads", "fewer threads", "less memory", "other blocks"],
)
def test_with_other_settings(
    pool: list[Path], tmp_path: Path, before: dict[str, int], after: dict[str, int]
) -> None:
    """Settings that change no byte may change between the two runs."""
    expected = _merged(recipe(pool, "della"), tmp_path / "calm")
    out = tmp_path / "out"
    interrupted(recipe(pool, "della"), out, 3, **before)
    assert api.merge(recipe(pool, "della"), out, resume=True, **after).resumed_pieces >= 3
    assert contents(out) == expected


def test_only_what_is_missing_is_made(pool: list[Path], tmp_path: Path) -> None:
    """Progress of the second run counts the other pieces, and no more."""
    out = tmp_path / "out"
    interrupted(recipe(pool), out, 4)
    seen: list[int] = []
    api.merge(recipe(pool), out, resume=True, progress=lambda name, size: seen.append(size))
    assert len(seen) == _PIECES - 4


def test_nothing_to_go_on_from(pool: list[Path], tmp_path: Path) -> None:
    """`--resume` without an unfinished merge is a merge."""
    done = api.merge(recipe(pool), tmp_path / "out", resume=True)
    assert done.resumed_pieces == 0
    assert contents(tmp_path / "out") == _merged(recipe(pool), tmp_path / "calm")


_DAMAGE: Mapping[str, tuple[Callable[[list[bytes]], bytes], int]] = {
    "cut in the last line": (lambda lines: b"\n".join(lines[:5])[:-3], 3),
    "without its last line's end": (lambda lines: b"\n".join(lines[:5]), 3),
    "garbage at the end": (lambda lines: b"\n".join(lines[:5]) + b"\n\xff\x00\x1b]\n", 4),
    "zeros at the end": (lambda lines: b"\n".join(lines[:5]) + b"\n" + bytes(4096), 4),
    "zero lines": (lambda lines: b"\n".join(lines[:5]) + b"\n" + b"\0\n" * 9, 4),
    "a number for a line": (lambda lines: b"\n".join([*lines[:3], b"5", *lines[3:5], b""]), 2),
    "a line of text": (lambda lines: b"\n".join([*lines[:3], b'"x"', *lines[3:5], b""]), 2),
    "a piece too short": (lambda lines: b"\n".join([*lines[:3], b"[1,2,3]", b""]), 2),
    "a piece of words": (lambda lines: b"\n".join([*lines[:3], b'["a",0,1,2,[]]', b""]), 2),
    "endless brackets": (lambda lines: b"\n".join([*lines[:3], b"[" * 200_000, b""]), 2),
    "two lines in one": (lambda lines: b"\n".join([*lines[:2], lines[2] + lines[3], b""]), 1),
    "only its head": (lambda lines: lines[0] + b"\n", 0),
    "half its head": (lambda lines: lines[0][:9], 0),
    "a list for a head": (lambda lines: b"\n".join([b"[1]", *lines[1:5], b""]), 0),
    "no head": (lambda lines: b"\n".join([*lines[1:5], b""]), 0),
    "nothing": (lambda lines: b"", 0),
}


@pytest.mark.parametrize("damage", _DAMAGE)
def test_damaged_journal(pool: list[Path], tmp_path: Path, damage: str) -> None:
    """What stands before the damage counts; the rest is made again, to the same bytes."""
    spoil, kept = _DAMAGE[damage]
    expected = _merged(recipe(pool), tmp_path / "calm")
    out = tmp_path / "out"
    file = interrupted(recipe(pool), out, 6) / "journal.jsonl"
    file.write_bytes(spoil(file.read_bytes().split(b"\n")))
    assert api.merge(recipe(pool), out, resume=True).resumed_pieces == kept
    assert contents(out) == expected


def test_a_damaged_journal_is_mended(pool: list[Path], tmp_path: Path) -> None:
    """The lines after the damage are not read again by a third run."""
    out = tmp_path / "out"
    file = interrupted(recipe(pool), out, 2) / "journal.jsonl"
    with file.open("ab") as journal_file:
        journal_file.write(b"[0,0")
    interrupted(recipe(pool), out, 2, resume=True)
    assert recorded(out) == 4
    assert api.merge(recipe(pool), out, resume=True).resumed_pieces == 4


@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_lost_shard(pool: list[Path], tmp_path: Path, damage: str) -> None:
    """A journal that tells of bytes which are gone is not believed."""
    expected = _merged(recipe(pool), tmp_path / "calm", shard_size=_SHARD)
    out = tmp_path / "out"
    shard = sorted(interrupted(recipe(pool), out, 5, shard_size=_SHARD).glob("*.safetensors"))[0]
    if damage == "missing":
        shard.unlink()
    else:
        os.truncate(shard, 1000)
    interrupted(recipe(pool), out, 1, shard_size=_SHARD, resume=True)
    assert recorded(out) == 1
    api.merge(recipe(pool), out, resume=True, shard_size=_SHARD)
    assert contents(out) == expected


def test_after_a_crash_of_the_machine(
    pool: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages that were not on the disk are gone then, so all is made again, and nothing stays."""
    expected = _merged(recipe(pool, "della"), tmp_path / "calm")
    out = tmp_path / "out"
    interrupted(recipe(pool), out, 5, shard_size=_SHARD)
    monkeypatch.setattr(journal, "_boot", lambda: "another boot")
    assert api.merge(recipe(pool, "della"), out, resume=True).resumed_pieces == 0
    assert contents(out) == expected


def _refused(data: Mapping[str, Any], out: Path, words: str, **options: Any) -> None:
    """Resuming ends in one sentence, and leaves everything as it was."""
    before = snapshot([working(out)])
    with pytest.raises(OutputError, match=words) as caught:
        api.merge(data, out, **{"resume": True, **options})
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert snapshot([working(out)]) == before
    assert not out.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 4},
        {"merge_method": "task_arithmetic", "parameters": {}},
        {"parameters": {"density": 0.25}},
        {"out_dtype": "float32"},
        {"dtype": "float16", "out_dtype": "bfloat16"},
        {"models": "reversed"},
    ],
    ids=["seed", "method", "density", "output type", "input type", "order of models"],
)
def test_another_recipe_is_refused(
    pool: list[Path], tmp_path: Path, changes: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    interrupted(recipe(pool), out, 5)
    data = {**recipe(pool), **changes}
    if data["models"] == "reversed":
        data["models"] = recipe(pool)["models"][::-1]
    _refused(data, out, "another recipe")
    assert api.merge(recipe(pool), out, resume=True).resumed_pieces == 5


def test_another_shard_size_is_refused(pool: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(recipe(pool), out, 5)
    _refused(recipe(pool), out, "--shard-size", shard_size=_SHARD)


def test_changed_input_is_refused(tmp_path: Path) -> None:
    pool = write_pool(tmp_path, _LAYERS, _SHAPE)
    out = tmp_path / "out"
    interrupted(recipe(pool), out, 5)
    write_model(pool[1], weights(_LAYERS, _SHAPE, 9))
    _refused(recipe(pool), out, "its inputs have changed")


def test_changed_adapter_is_refused(pool: list[Path], tmp_path: Path) -> None:
    """An adapter's files hold no tensor of the model, and count all the same."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    target = "base_model.model.model.layers.0.mlp.up_proj"

    def write(value: float) -> None:
        factors = {
            f"{target}.lora_A.weight": torch.full((2, _SHAPE[1]), value),
            f"{target}.lora_B.weight": torch.full((_SHAPE[0], 2), value),
        }
        save_file(factors, adapter / "adapter_model.safetensors")

    config = '{"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["up_proj"]}'
    (adapter / "adapter_config.json").write_text(config, "utf-8")
    write(0.1)
    data = recipe([pool[0], Path(f"{pool[1]}+{adapter}"), pool[2]])
    out = tmp_path / "out"
    interrupted(data, out, 5)
    write(0.2)
    _refused(data, out, "its inputs have changed")


def test_unfinished_merge_is_not_lost_by_chance(pool: list[Path], tmp_path: Path) -> None:
    """Without --resume or --overwrite nobody knows what was meant."""
    out = tmp_path / "out"
    interrupted(recipe(pool), out, 5)
    _refused(recipe(pool), out, "Continue it with --resume", resume=False)
    assert api.merge(recipe(pool), out, overwrite=True).resumed_pieces == 0


def test_full_disk_does_not_lose_it(
    pool: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that goes on and fails for the machine's sake can go on once more."""
    out = tmp_path / "out"
    shards = sorted(interrupted(recipe(pool), out, 5, shard_size=_SHARD).glob("*.safetensors"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _no_space)
        with pytest.raises(DiskError, match="No space left"):
            api.merge(recipe(pool), out, resume=True, shard_size=_SHARD)
    assert sorted(working(out).glob("*.safetensors")) == shards
    done = api.merge(recipe(pool), out, resume=True, shard_size=_SHARD)
    assert done.resumed_pieces == _PIECES


def _no_space(*arguments: object) -> None:
    raise OSError(28, "No space left on device")

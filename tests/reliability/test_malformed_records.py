"""`cermet.json` of a merge, damaged: `verify` ends in a FormatError that names it, or a finding."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cermet import api
from cermet.core.errors import FormatError
from tests.reliability.malformed import HEAD, WEIGHTS, Pool, Q, bounded, holds_message, snapshot

Change = Callable[[dict[str, Any]], object]
RECORD = "cermet.json"
GROUP = "damaged records"


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound merge, with its sources beside it."""
    pool = Pool(tmp_path_factory.mktemp("merged"))
    api.merge(pool.save_recipe(), pool.root / "out", threads=1)
    return pool.root / "out"


def _tensor(record: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = record["tensors"][Q]
    return found


BYTES: dict[str, bytes] = {
    "empty": b"",
    "cut short": b'{"format": 1, "recipe": {',
    "list": b"[]",
    "list of keys": b'["recipe", "models", "tensors", "run"]',
    "text": b'"recipe"',
    "null": b"null",
    "not UTF-8": b'{"recipe": "\xff"}',
    "UTF-16": '{"recipe": {}}'.encode("utf-16"),
    "nested deep": b'{"recipe":' * 100_000,
    "key twice": b'{"recipe": {}, "recipe": {}}',
    "millions of parts": b'{"x": [' + b"0," * 5_000_000 + b"0]}",
}

CHANGES: dict[str, tuple[str, Change]] = {
    "no recipe": ("recipe", lambda r: r.pop("recipe")),
    "no models": ("models", lambda r: r.pop("models")),
    "no tensors": ("tensors", lambda r: r.pop("tensors")),
    "no run": ("run", lambda r: r.pop("run")),
    "recipe text": ("recipe", lambda r: r.update(recipe="/etc/passwd")),
    "recipe list": ("recipe", lambda r: r.update(recipe=[])),
    "models mapping": ("models", lambda r: r.update(models={})),
    "model without a name": ("name", lambda r: r["models"][0].pop("name")),
    "model's name is a number": ("name", lambda r: r["models"][0].update(name=1)),
    "tensors list": ("tensors", lambda r: r.update(tensors=[])),
    "tensor null": (Q, lambda r: r["tensors"].update({Q: None})),
    "no digest": ("digest", lambda r: _tensor(r).pop("digest")),
    "digest number": ("digest", lambda r: _tensor(r).update(digest=1)),
    "no shard": ("shard", lambda r: _tensor(r).pop("shard")),
    "no method": ("method", lambda r: _tensor(r).pop("method")),
    "no sources": ("sources", lambda r: _tensor(r).pop("sources")),
    "sources mapping": ("sources", lambda r: _tensor(r).update(sources={})),
    "source without a digest": ("digest", lambda r: _tensor(r)["sources"][0].pop("digest")),
    "run list": ("run", lambda r: r.update(run=[])),
    "no device": ("device", lambda r: r["run"].pop("device")),
    "device of tomorrow": ("device", lambda r: r["run"].update(device="tpu")),
    "device with a command": ("device", lambda r: r["run"].update(device="cpu; ls")),
    "folder number": ("folder", lambda r: r["run"].update(folder=1)),
    "beside leaves its folder": ("beside", lambda r: r["beside"].update({"../x": "0"})),
    "beside list": ("beside", lambda r: r.update(beside=[])),
    "origins mapping": ("origins", lambda r: r.update(origins={})),
    "origin of a strange part": ("part", lambda r: r["origins"][0].update(part="all")),
    "versions list": ("versions", lambda r: r.update(versions=[])),
    "machine of numbers": ("machine", lambda r: r["machine"].update(system=1)),
    "size of a file is text": ("bytes", lambda r: r["models"][0]["files"][0].update(bytes="1")),
    "folder with a zero": ("folder", lambda r: r["run"].update(folder="a\0b")),
}


def _copy(merged: Path, tmp_path: Path) -> Path:
    shutil.copytree(merged, tmp_path / "out")
    return tmp_path / "out"


def _is_refused(folder: Path, *places: str) -> None:
    before = snapshot(folder)
    with bounded(), pytest.raises(FormatError) as caught:
        api.verify(folder, threads=1)
    holds_message(caught.value, FormatError, (f"out/{RECORD}", *places))
    assert snapshot(folder) == before


@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_are_no_record_are_refused(name: str, merged: Path, tmp_path: Path) -> None:
    folder = _copy(merged, tmp_path)
    (folder / RECORD).write_bytes(BYTES[name])
    _is_refused(folder)


def test_a_record_over_100_mb_is_refused(merged: Path, tmp_path: Path) -> None:
    folder = _copy(merged, tmp_path)
    os.truncate(folder / RECORD, 100_000_001)
    _is_refused(folder, "100 MB")


@pytest.mark.parametrize("name", CHANGES)
def test_records_of_another_form_are_refused(name: str, merged: Path, tmp_path: Path) -> None:
    folder = _copy(merged, tmp_path)
    place, change = CHANGES[name]
    record = json.loads((folder / RECORD).read_text("utf-8"))
    change(record)
    (folder / RECORD).write_text(json.dumps(record), "utf-8")
    _is_refused(folder, place)


FINDINGS: dict[str, tuple[str, Change]] = {
    "digest of another": (Q, lambda r: _tensor(r).update(digest=r["tensors"][HEAD]["digest"])),
    "digest nonsense": (Q, lambda r: _tensor(r).update(digest="x")),
    "tensor too many": ("invented", lambda r: r["tensors"].update(invented=_tensor(r))),
    "tensor too few": (Q, lambda r: r["tensors"].pop(Q)),
    "no tensors": (Q, lambda r: r.update(tensors={})),
    "fewer sources": ("sources", lambda r: [t["sources"].pop() for t in r["tensors"].values()]),
    "recipe empty": ("made again", lambda r: r.update(recipe={})),
    "recipe with unknown method": ("tise", lambda r: r["recipe"].update(merge_method="tise")),
    "recipe with other weight": (
        "made again", lambda r: r["recipe"]["models"][0]["parameters"].update(weight=0.75)
    ),
    "recipe with a bad weight": (
        "weight", lambda r: r["recipe"]["models"][0]["parameters"].update(weight="x")
    ),
    "models that are gone": (
        "made again", lambda r: r["recipe"]["models"][0].update(model="./gone")
    ),
    "other sources": ("sources", lambda r: r["recipe"].update(base_model=r["models"][1]["name"])),
}  # fmt: skip


@pytest.mark.parametrize("name", FINDINGS)
def test_records_that_are_not_true_are_findings(name: str, merged: Path, tmp_path: Path) -> None:
    """A sound form that says something else than the files: a problem that names the place."""
    folder = _copy(merged, tmp_path)
    place, change = FINDINGS[name]
    record = json.loads((folder / RECORD).read_text("utf-8"))
    change(record)
    (folder / RECORD).write_text(json.dumps(record), "utf-8")
    before = snapshot(folder)
    with bounded():
        found = api.verify(folder, threads=1)
    assert any(place in problem for problem in found.problems), found.problems
    assert snapshot(folder) == before


@pytest.mark.parametrize("damage", [b"", b"x", b"\x08\0\0\0\0\0\0\0{}      "])
def test_damaged_weights_beside_a_sound_record(damage: bytes, merged: Path, tmp_path: Path) -> None:
    folder = _copy(merged, tmp_path)
    (folder / WEIGHTS).write_bytes(damage)
    try:
        problems = api.verify(folder, threads=1).problems
    except FormatError as error:
        problems = [str(error)]
    assert any(WEIGHTS in p or "is missing" in p for p in problems)

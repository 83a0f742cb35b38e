"""Delta archives that are cut short, changed, or not what they say: one line each, exit code 3."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import cermet
from tests.codecs.pools import PARAMETERS, pair


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an expert, and an archive of every codec."""
    root = tmp_path_factory.mktemp("pool")
    models = pair(root, torch.bfloat16)
    for codec, given in PARAMETERS.items():
        cermet.compress(*models, root / codec, codec=codec, **given)
    return root


def _copy(pool: Path, codec: str, tmp_path: Path) -> Path:
    return shutil.copytree(pool / codec, tmp_path / "delta")


def _refused(archive: Path, pool: Path, said: str) -> None:
    out = archive.parent / "out"
    with pytest.raises(cermet.FormatError, match=said) as error:
        cermet.restore(archive, out, base=pool / "base")
    assert "\n" not in str(error.value)
    assert sorted(p.name for p in archive.parent.iterdir()) == ["delta"]


def _file(archive: Path) -> Path:
    return next(archive.glob("*.safetensors"))


@pytest.mark.parametrize("codec", sorted(PARAMETERS))
def test_a_flipped_bit_anywhere_in_the_parts(codec: str, pool: Path, tmp_path: Path) -> None:
    archive = _copy(pool, codec, tmp_path)
    whole, pick = _file(archive).read_bytes(), random.Random(7)
    begin = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(6):
        data = bytearray(whole)
        data[pick.randrange(begin, len(data))] ^= 1 << pick.randrange(8)
        _file(archive).write_bytes(data)
        _refused(archive, pool, "has changed since it was written|cannot be decoded")
        found = cermet.verify(archive)
        assert len(found.problems) == 1
        assert "has changed since it was written" in found.problems[0]


@pytest.mark.parametrize("file", ["delta.safetensors", "delta.json", "config.json"])
def test_files_that_are_cut_short_or_gone(file: str, pool: Path, tmp_path: Path) -> None:
    archive = _copy(pool, "bitdelta", tmp_path)
    data = (archive / file).read_bytes()
    for length in (0, 5, len(data) // 2, len(data) - 2):
        (archive / file).write_bytes(data[:length])
        _refused(archive, pool, "cut short|not valid JSON|has changed|not a safetensors file")
    (archive / file).unlink()
    if file == "delta.json":
        with pytest.raises(cermet.InputError, match=r"holds no assembly.json"):
            cermet.restore(archive, tmp_path / "out", task="x")
    else:
        _refused(archive, pool, "lacks the file|holds no delta.safetensors")


def test_a_flipped_bit_anywhere_in_the_manifest(pool: Path, tmp_path: Path) -> None:
    archive = _copy(pool, "dare_sparse", tmp_path)
    whole, pick = (archive / "delta.json").read_bytes(), random.Random(8)
    for _ in range(40):
        data = bytearray(whole)
        data[pick.randrange(len(data))] ^= 1 << pick.randrange(7)
        (archive / "delta.json").write_bytes(data)
        _refused(archive, pool, "has changed|not valid JSON|is of format|not a JSON object")


def _resealed(archive: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest as somebody would who knows the format."""
    path = archive / "delta.json"
    data = json.loads(path.read_text("utf-8"))
    del data["sha256"]
    change(data)
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    data["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(data), "utf-8")


_NAME = "model.layers.0.mlp.up_proj.weight"


def _entry(data: dict[str, Any], **changes: Any) -> None:
    data["tensors"][_NAME].update(changes)


def _part(data: dict[str, Any], **changes: Any) -> None:
    next(iter(data["tensors"][_NAME]["parts"].values())).update(changes)


@pytest.mark.parametrize(
    ("codec", "change", "said"),
    [
        ("int8", lambda d: d.update(format=2), "is of format 2, and this Cermet reads format 1"),
        ("int8", lambda d: d.update(codec="int9"), "codec 'int9', which this Cermet does not have"),
        ("int8", lambda d: d.update(parameters={}), "another version of 'int8'"),
        ("int8", lambda d: d["parameters"].update(group=-1), "'group' must be at least 8"),
        ("int8", lambda d: d["parameters"].update(group=64), "cannot be decoded by 'int8'"),
        ("int8", lambda d: d.update(surprise=1), "surprise: extra inputs are not permitted"),
        ("int8", lambda d: d.pop("seed"), "seed: field required"),
        ("int8", lambda d: _part(d, name="elsewhere"), "lacks the part 'elsewhere'"),
        ("int8", lambda d: _part(d, shape=[3]), r"but I8 \[3\] in its manifest"),
        ("int8", lambda d: _part(d, stride=100), "cannot be decoded"),
        ("int8", lambda d: _entry(d, parts={}), "holds '.*', which is not in its manifest"),
        ("int8", lambda d: _entry(d, dtype="F8"), "is damaged"),
        ("int8", lambda d: _entry(d, how="expert"), "is damaged"),
        ("int8", lambda d: _entry(d, how="guess"), "how: input should be"),
        ("bitdelta", lambda d: _entry(d, numbers={}), "cannot be decoded by 'bitdelta'"),
        ("compeft", lambda d: _part(d, ends=[9, 3]), "is not cut as its manifest says"),
        ("compeft", lambda d: d["files"].update({"../config.json": "0"}), "lacks the file"),
        ("tsv_compress", lambda d: _entry(d, how="same"), "."),
    ],
)  # fmt: skip
def test_manifests_that_lie(
    codec: str,
    change: Callable[[dict[str, Any]], None],
    said: str,
    pool: Path,
    tmp_path: Path,
) -> None:
    archive = _copy(pool, codec, tmp_path)
    _resealed(archive, change)
    if said != ".":
        _refused(archive, pool, said)
    else:  # a manifest that is whole is believed: the digests of its parts are in it
        with pytest.raises(cermet.FormatError, match="has changed since it was written"):
            cermet.restore(archive, tmp_path / "out", base=pool / "base")


def test_parts_that_are_not_in_the_manifest(pool: Path, tmp_path: Path) -> None:
    archive = _copy(pool, "int8", tmp_path)
    parts = load_file(archive / "delta.safetensors")
    save_file(parts | {"more": torch.ones(1)}, archive / "delta.safetensors")
    _refused(archive, pool, "holds 'more', which is not in its manifest")

"""`cermet.json` holds all that is needed to check a merge and to make it again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from cermet import __version__, api
from cermet.core.fingerprint import digest_bytes, digest_hex
from tests.reliability.runs import interrupted, recipe, snapshot, write_pool

_SHAPE = (1100, 1000)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path, dict[str, Any]]:
    """A pool, a merge of it, and its record."""
    root = tmp_path_factory.mktemp("record")
    pool = write_pool(root / "pool", 2, _SHAPE)
    density = [{"filter": "up_proj", "value": [0.2, 0.6]}, {"value": 0.9}]
    data = recipe(pool, parameters={"density": density})
    api.merge(data, root / "out", threads=2, memory=100_000_000, shard_size=3_000_000)
    return pool, root / "out", json.loads((root / "out" / "cermet.json").read_text("utf-8"))


def _of(path: Path, name: str) -> str:
    raw = api.open(path)[name].reshape(-1).view(torch.uint8).numpy()
    return digest_hex(digest_bytes(raw, 0), raw.size)


def test_the_recipe_resolved(made: tuple[list[Path], Path, dict[str, Any]]) -> None:
    """As it was written, and for every tensor the method and the numbers that it came to."""
    _, _, record = made
    assert record["recipe"]["merge_method"] == "ties"
    assert record["seed"] == 3
    numbers = {name: t["parameters"] for name, t in record["tensors"].items()}
    assert numbers["model.layers.0.mlp.up_proj.weight"]["density"] == [0.2, 0.2]
    assert numbers["model.layers.1.mlp.up_proj.weight"]["density"] == [0.6, 0.6]
    assert numbers["model.layers.1.input_layernorm.weight"]["density"] == [0.9, 0.9]
    assert numbers["model.layers.1.input_layernorm.weight"]["weight"] == [0.5, 0.5]
    assert record["tensors"]["model.position_ids"]["method"] == "copy"


def test_versions(made: tuple[list[Path], Path, dict[str, Any]]) -> None:
    versions = made[2]["versions"]
    assert versions["cermet"] == __version__
    assert versions["torch"] == importlib.metadata.version("torch")
    assert set(versions) == {"python", "cermet", "torch", "safetensors", "numpy"}


def test_hashes_of_sources_and_output(made: tuple[list[Path], Path, dict[str, Any]]) -> None:
    pool, out, record = made
    for name, entry in record["tensors"].items():
        assert entry["digest"] == _of(out, name)
        for source in entry["sources"]:
            assert source["digest"] == _of(Path(record["models"][source["model"]]["name"]), name)
    assert {m["name"] for m in record["models"]} == {str(p) for p in pool}
    for model in record["models"]:
        (file,) = model["files"]
        assert file["bytes"] == (Path(model["name"]) / file["file"]).stat().st_size
        assert re.fullmatch("[0-9a-f]{64}", file["header_sha256"])


def test_shards_and_files(made: tuple[list[Path], Path, dict[str, Any]]) -> None:
    """With the record itself these are all the files, so --overwrite knows its own."""
    _, out, record = made
    assert {*record["files"], "cermet.json"} == {p.name for p in out.iterdir()}
    index = json.loads((out / "model.safetensors.index.json").read_text("utf-8"))
    assert {n: t["shard"] for n, t in record["tensors"].items()} == index["weight_map"]


def test_the_run(made: tuple[list[Path], Path, dict[str, Any]]) -> None:
    """Times and memory are real numbers of this run."""
    run = made[2]["run"]
    assert (run["threads"], run["memory_budget"], run["device"]) == (2, 100_000_000, "cpu")
    assert 0 < run["merge_seconds"] < 600
    assert 0 <= run["sync_seconds"] < 600
    assert 20_000_000 < run["peak_private_bytes"] < 64_000_000_000
    assert run["resumed_pieces"] == 0


def test_a_resumed_run_says_so(
    made: tuple[list[Path], Path, dict[str, Any]], tmp_path: Path
) -> None:
    """And its record is otherwise that of a run in one go."""
    pool, _, _ = made
    interrupted(recipe(pool), tmp_path / "out", 4)
    api.merge(recipe(pool), tmp_path / "out", resume=True)
    api.merge(recipe(pool), tmp_path / "calm")
    resumed, calm = (
        json.loads((tmp_path / name / "cermet.json").read_text("utf-8")) for name in ("out", "calm")
    )
    assert resumed.pop("run")["resumed_pieces"] == 4
    del calm["run"]
    assert resumed == calm


def test_the_recipe_makes_the_same_again(
    made: tuple[list[Path], Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, out, record = made
    api.merge(record["recipe"], tmp_path / "again", shard_size=3_000_000)
    weights = {p.name: s for p, s in snapshot([out]).items() if p.suffix == ".safetensors"}
    for name, (_, _, digest) in weights.items():
        made_again = (tmp_path / "again" / name).read_bytes()
        assert hashlib.sha256(made_again).hexdigest() == digest

"""What every codec promises: the figures it prints, the bytes it says, the same on any threads."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import cermet
from cermet.checkpoints.reader import open_checkpoint
from cermet.core.codec import CHUNK, all_codecs
from cermet.core.registry import call
from cermet.engine.archive import read_archive
from cermet.engine.pairs import pairs
from tests.codecs.pools import PARAMETERS, deltas, pair, save, weights

_every_codec = pytest.mark.parametrize("codec", sorted(PARAMETERS))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return pair(tmp_path_factory.mktemp("pool"))


def _restored(folder: Path) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in cermet.open(folder).items()}


def _digest(folder: Path) -> str:
    files = [*sorted(folder.glob("*.safetensors")), folder / "delta.json"]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files if f.is_file())).hexdigest()


def test_every_codec_is_here() -> None:
    assert set(all_codecs()) == set(PARAMETERS)


@_every_codec
def test_figures_bytes_and_restored_model(
    codec: str, pool: tuple[Path, Path], tmp_path: Path
) -> None:
    """The error and the size that are reported are those of the files; rooms and threads agree."""
    base, expert = pool
    done = cermet.compress(base, expert, tmp_path / "one", codec=codec, threads=1, seed=5,
                           **PARAMETERS[codec])  # fmt: skip
    cermet.compress(base, expert, tmp_path / "two", codec=codec, threads=2, seed=5,
                    shard_size=10**9, **PARAMETERS[codec])  # fmt: skip
    assert _digest(tmp_path / "one") == _digest(tmp_path / "two")
    for threads in (1, 2):
        cermet.restore(tmp_path / "one", tmp_path / f"out{threads}", threads=threads)
    assert _digest_of_model(tmp_path / "out1") == _digest_of_model(tmp_path / "out2")
    assert cermet.verify(tmp_path / "out1").problems == []
    one, own, out = (_restored(f) for f in (base, expert, tmp_path / "out1"))
    assert list(out) == list(own)
    off, change = deltas(own, out), deltas(one, own)
    assert done.error == pytest.approx(off / change, rel=1e-6)
    files = [*(tmp_path / "one").glob("*.safetensors"), tmp_path / "one" / "delta.json"]
    assert done.bytes == sum(file.stat().st_size for file in files)
    assert done.bits_per_weight == pytest.approx(8 * done.bytes / done.weights)
    assert sum(row.bytes for row in done.roles) == sum(row.bytes for row in done.layers)
    assert sum(row.weights for row in done.roles) == done.weights


def _digest_of_model(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@_every_codec
def test_the_size_that_headers_tell(codec: str, pool: tuple[Path, Path], tmp_path: Path) -> None:
    found = all_codecs()[codec]
    if found.size is None:
        assert codec in ("compeft", "dare_sparse", "lora", "pruned")  # it depends on the numbers
        return
    base, expert = pool
    cermet.compress(base, expert, tmp_path / "out", codec=codec, **PARAMETERS[codec])
    archive = read_archive(tmp_path / "out")
    places = {p.place.name: p.place for p in pairs(open_checkpoint(expert), open_checkpoint(base))}
    parts = load_file(tmp_path / "out" / "delta.safetensors")
    coded = {name: entry for name, entry in archive.tensors.items() if entry.how == "coded"}
    assert coded
    for name, entry in coded.items():
        size = call(found.size, place=places[name], itemsize=4, **archive.parameters)
        assert size == sum(parts[part.name].nbytes for part in entry.parts.values()), name


@_every_codec
def test_what_is_not_covered_comes_back_bit_for_bit(
    codec: str, pool: tuple[Path, Path], tmp_path: Path
) -> None:
    base, expert = pool
    for rest in ("expert", "base"):
        out = tmp_path / rest
        cermet.compress(base, expert, out, codec=codec, rest=rest, **PARAMETERS[codec])
        cermet.restore(out, tmp_path / f"{rest}-out")
        models = {m: _restored(f) for m, f in (("expert", expert), ("base", base))}
        found = _restored(tmp_path / f"{rest}-out")
        for name, entry in read_archive(out).tensors.items():
            if entry.how in models:
                assert torch.equal(found[name], models[entry.how][name]), name
        assert torch.equal(found["model.position_ids"], torch.arange(7))


@_every_codec
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_narrow_models(codec: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """The restored dtype is the expert's, rounded once."""
    base, expert = pair(tmp_path, dtype)
    done = cermet.compress(base, expert, tmp_path / "d", codec=codec, **PARAMETERS[codec])
    cermet.restore(tmp_path / "d", tmp_path / "out")
    found, own = _restored(tmp_path / "out"), _restored(expert)
    assert {t.dtype for t in found.values()} == {dtype, torch.int64}
    change = deltas(_restored(base), own)
    assert done.error == pytest.approx(deltas(own, found) / change, rel=1e-6)


@_every_codec
def test_nothing_changed_costs_nothing(codec: str, pool: tuple[Path, Path], tmp_path: Path) -> None:
    base, _ = pool
    shutil.copytree(base, tmp_path / "same")
    done = cermet.compress(base, tmp_path / "same", tmp_path / "d", codec=codec)
    assert done.error == 0
    assert {how for row in done.roles for how in row.kept} == {"same"}
    assert not list((tmp_path / "d").glob("*.safetensors"))
    cermet.restore(tmp_path / "d", tmp_path / "out", base=base)
    found = _restored(tmp_path / "out")
    for name, value in _restored(base).items():
        assert torch.equal(found[name], value), name


@_every_codec
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused_by_name(
    codec: str, value: float, pool: tuple[Path, Path], tmp_path: Path
) -> None:
    tensors = weights(1)
    tensors["model.layers.1.self_attn.q_proj.weight"][3, 5] = value
    broken = save(tmp_path / "broken", tensors)
    with pytest.raises(cermet.NonFiniteError, match=rf"q_proj.weight' of model '{broken}'.*77"):
        cermet.compress(pool[0], broken, tmp_path / "d", codec=codec, **PARAMETERS[codec])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken"]


def test_a_run_is_what_the_format_says() -> None:
    assert CHUNK == 262_144


@pytest.mark.parametrize("codec", ["tsv_compress", "dare_sparse", "pruned"])
def test_an_exact_limit(codec: str, tmp_path: Path) -> None:
    """All of the rank or all of the values: the expert itself, in no more bytes than its own."""
    base, expert = pair(tmp_path, torch.bfloat16)
    more = {} if codec == "tsv_compress" else {"precision": "float32"}
    done = cermet.compress(base, expert, tmp_path / "d", codec=codec, density=1.0, **more)
    cermet.restore(tmp_path / "d", tmp_path / "out")
    found = _restored(tmp_path / "out")
    for name, value in _restored(expert).items():
        assert torch.equal(found[name], value), name
    assert done.error == 0
    assert sum(row.bytes for row in done.roles) <= done.expert_bytes


def test_the_record_holds_the_report(pool: tuple[Path, Path], tmp_path: Path) -> None:
    done = cermet.compress(*pool, tmp_path / "d", codec="compeft", density=0.1)
    record = json.loads((tmp_path / "d" / "cermet.json").read_text("utf-8"))
    held = record["compression"]
    assert held["codec"] == "compeft"
    assert held["bits_per_weight"] == done.bits_per_weight
    assert held["bound"] == pytest.approx(0.569, abs=2e-3)  # H(0.1) + 0.1
    kept = sum(row.bytes for row in done.roles if row.name == "up")
    assert 8 * kept / (9_001 * 61) == pytest.approx(held["bound"], rel=0.05)

"""A merge stays inside the memory that it was given, or is refused before it begins."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from cermet import api
from cermet.checkpoints.header import encode_header
from cermet.core.errors import BudgetError, InputError
from cermet.core.registry import all_methods, find_method
from cermet.engine import run
from cermet.engine.geometry import LEAF
from cermet.engine.memory import MemoryGauge, block_bytes, block_elements, parse_size
from cermet.maths.native.compiled import kernels

_SLACK = 40_000_000  # Python's objects, and what the allocator rounds up


@given(
    st.sampled_from(sorted(all_methods())),
    st.integers(1, 60),
    st.integers(1, 1_000_000),
    st.integers(1_000_000, 10_000_000_000),
    st.integers(1, 64),
    st.booleans(),
)
def test_blocks_fit_the_budget(
    name: str, models: int, unit: int, budget: int, threads: int, whole: bool
) -> None:
    """All threads together; or the least that the method must see does not fit."""
    method = find_method(name)
    needed = block_bytes(method, models) * threads
    if unit > int(budget / needed):
        with pytest.raises(BudgetError, match="Tensor 'w' needs"):
            block_elements(method, models, unit, budget, threads, "w", whole=whole)
        return
    block = block_elements(method, models, unit, budget, threads, "w", whole=whole)
    assert block >= unit
    assert block * needed <= budget


@pytest.mark.parametrize(("native", "blocks"), [("1", 16 * LEAF), ("0", 4 * LEAF)])
def test_compiled_kernels_work_on_whole_pieces(
    native: str, blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they do not hold in memory need not be in small blocks; the budget is kept all the
    same, and with torch blocks are as before.
    """
    monkeypatch.setenv("CERMET_NATIVE", native)
    if native == "1" and kernels() is None:
        pytest.skip("no C compiler here, or no AVX2")
    for i in range(3):
        (tmp_path / f"m{i}").mkdir()
        save_file({"w": torch.randn(3, 100_000)}, tmp_path / f"m{i}" / "model.safetensors")
    models = [{"model": str(tmp_path / f"m{i}"), "parameters": {"weight": 1}} for i in (1, 2)]
    recipe = {
        "merge_method": "ties", "base_model": str(tmp_path / "m0"), "models": models,
        "parameters": {"density": 0.5},
    }  # fmt: skip
    cuts, real = [], run.job_of

    def spy(*given: Any, **more: Any) -> Any:
        job = real(*given, **more)
        cuts.append(job.cut)
        return job

    monkeypatch.setattr(run, "job_of", spy)
    api.merge(recipe, tmp_path / "out", memory=500_000_000, threads=2)
    assert {cut.block for cut in cuts} == {blocks}
    cuts.clear()
    api.merge(recipe, tmp_path / "narrow", memory=4_000_000, threads=2)
    assert all(cut.block < LEAF for cut in cuts)
    whole, narrow = (tmp_path / n / "model.safetensors" for n in ("out", "narrow"))
    assert whole.read_bytes() == narrow.read_bytes()


def test_a_row_that_does_not_fit(tmp_path: Path) -> None:
    """Refused before anything is written, naming the tensor and a way out."""
    models = []
    for i in range(3):
        (tmp_path / f"m{i}").mkdir()
        save_file({"w": torch.randn(2, 200_000)}, tmp_path / f"m{i}" / "model.safetensors")
        models.append({"model": str(tmp_path / f"m{i}"), "parameters": {"weight": 1}})
    recipe = {
        "merge_method": "della", "base_model": str(tmp_path / "m0"), "models": models[1:],
        "parameters": {"density": 0.5},
    }  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BudgetError, match="Tensor 'w' needs 200,000 elements of 2 models at once"):
        api.merge(recipe, tmp_path / "out", memory=10_000_000, threads=2)
    assert sorted(tmp_path.rglob("*")) == before
    api.merge(recipe, tmp_path / "out", memory=200_000_000, threads=2)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("256MB", 256_000_000), ("2GB", 2_000_000_000), ("1.5GiB", 3 << 29), ("5000000", 5_000_000),
        ("64 mb", 64_000_000), ("1k", 1000), ("1KiB", 1024), ("7B", 7), (" 3T ", 3 * 10**12),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MB", "-1GB", "0", "0.2", "1e3", "2XB", "1,5GB", "9" * 30, "inf", "nan", "2 GB GB"]
)
def test_no_sizes(text: str) -> None:
    with pytest.raises(InputError, match="is not a size"):
        parse_size(text)


def test_the_gauge_sees_memory() -> None:
    gauge = MemoryGauge()
    before = gauge.peak
    # Pages of its own: a tensor may be put where another test has freed one.
    size = 80_000_000
    held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held.write(b"1" * size)
    for _ in range(8):
        gauge.look()
    assert gauge.peak >= before + 0.9 * size
    held.close()
    top = gauge.peak
    gauge.look()
    assert gauge.peak == top


def _hollow(folder: Path, rows: int) -> Path:
    """A checkpoint of zeros in bf16 that takes no space on the disk."""
    folder.mkdir(parents=True)
    shape = (rows, 4096)
    header = encode_header({"w": ("BF16", shape, 2 * rows * 4096)})
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 2 * rows * 4096)
    return folder


def _measure(
    root: Path, method: str, models: int, rows: int, memory: int, **parameters: Any
) -> dict[str, int]:
    """Growth of a merge of large tensors, after one of the same kind of small tensors."""
    files = []
    for name, size in (("warm", 64), ("large", rows)):
        paths = [_hollow(root / f"{name}{i}", size) for i in range(models + 1)]
        recipe: dict[str, Any] = {
            "merge_method": method,
            "models": [{"model": str(p), "parameters": {"weight": 1}} for p in paths[1:]],
            "parameters": parameters,
        }
        if method != "linear":
            recipe["base_model"] = str(paths[0])
        files.append(root / f"{name}.yaml")
        files[-1].write_text(json.dumps(recipe), "utf-8")
    script = Path(__file__).with_name("growth.py")
    done = subprocess.run(
        [sys.executable, script, files[1], files[0], root / "out", str(memory), "2"],
        capture_output=True, text=True, check=False, cwd=script.parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("method", "parameters"),
    [("ties", {"density": 0.5, "rescale": True}), ("della", {"density": 0.5}), ("linear", {})],
)
def test_growth_stays_inside_the_budget(
    tmp_path: Path, method: str, parameters: dict[str, Any]
) -> None:
    """Tensors of 4 million elements: 48 MB of float32 if the three were read whole, and more."""
    budget = 32_000_000
    found = _measure(tmp_path, method, 3, 1024, budget, **parameters)
    assert found["growth"] <= budget + _SLACK
    assert found["reported"] <= found["peak"] + _SLACK


def test_forty_models_need_their_blocks(tmp_path: Path) -> None:
    """1.3 GB of float32 if they were read whole; a sum needs four blocks a thread for them all."""
    found = _measure(tmp_path, "linear", 40, 2048, 1_000_000_000)
    assert found["growth"] <= 2 * 4 * 4 * (4 * LEAF) + _SLACK


def test_forty_models_in_little_memory(tmp_path: Path) -> None:
    found = _measure(tmp_path, "linear", 40, 1024, 30_000_000)
    assert found["growth"] <= 30_000_000 + _SLACK

"""Pools, recipes and the floor of the benchmark, on the smallest shape."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench import cgroup
from bench.floor import read_all_copy_one
from bench.measure import run_command
from bench.pool import SHAPES, build_pool
from bench.recipes import METHODS, SHELF, models_of, recipe
from bench.scaling import default_threads
from bench.shelf import planned_passes
from cermet.core.registry import all_methods


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    return build_pool(tmp_path_factory.mktemp("bench"), SHAPES["tiny"], 3)


def test_the_shape_of_the_issue_has_its_size() -> None:
    assert SHAPES["1.1B"].parameters == 1_100_048_384
    assert 140e6 < SHAPES["160M"].parameters < 170e6


def test_models_have_the_tensors_of_the_shape(pool: tuple[Path, ...]) -> None:
    assert len(pool) == 4
    for model in pool:
        tensors = load_file(model / "model.safetensors")
        assert {n: tuple(t.shape) for n, t in tensors.items()} == SHAPES["tiny"].tensors
        assert all(t.dtype == torch.bfloat16 for t in tensors.values())
        assert all(bool(t.isfinite().all()) for t in tensors.values())


def test_experts_are_near_the_base_and_differ(pool: tuple[Path, ...]) -> None:
    base, first, second = (load_file(m / "model.safetensors") for m in pool[:3])
    name = "model.layers.0.mlp.up_proj.weight"
    move = (first[name].float() - base[name].float()).norm() / base[name].float().norm()
    assert 0.01 < float(move) < 0.1
    assert not torch.equal(first[name], second[name])


def test_a_pool_that_is_there_is_not_written_again(pool: tuple[Path, ...]) -> None:
    before = [(m / "model.safetensors").stat().st_mtime_ns for m in pool]
    assert build_pool(pool[0].parent.parent, SHAPES["tiny"], 3) == pool
    assert [(m / "model.safetensors").stat().st_mtime_ns for m in pool] == before


@pytest.mark.parametrize("threads", [1, 2])
def test_the_floor_reads_all_and_copies_one(
    pool: tuple[Path, ...], tmp_path: Path, threads: int
) -> None:
    files = [model / "model.safetensors" for model in pool]
    count = read_all_copy_one(files, tmp_path / "copy", threads)
    assert count == sum(file.stat().st_size for file in files)
    assert (tmp_path / "copy").read_bytes() == files[0].read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_recipes_name_models_and_parameters_once(method: str, pool: tuple[Path, ...]) -> None:
    found = recipe(method, pool)
    models = [entry["model"] for entry in found["models"]]
    assert models == [str(m) for m in models_of(method, pool)]
    assert len(models) == (2 if method in ("slerp", "nuslerp") else 4)
    weighted = [e for e in found["models"] if "parameters" in e]
    assert all(e["model"] != found.get("base_model") for e in weighted)


@pytest.mark.parametrize("method", SHELF)
def test_recipes_of_the_shelf_are_planned(method: str, pool: tuple[Path, ...]) -> None:
    content = recipe(method, pool)
    assert {entry["model"] for entry in content["models"]} == {
        str(m) for m in models_of(method, pool)
    }
    named = content.get("merge_method", "ties_official")
    either = named == "widen"  # it looks at matrices in one round, at vectors in another
    assert planned_passes(content) == all_methods()[named].passes - either


def test_the_shelf_is_all_that_mergekit_has_not() -> None:
    """Of the methods on elements; frank came with vision-language models."""
    own = {n for n, m in all_methods().items() if ".elementwise." in m.function.__module__}
    theirs = set(METHODS) | {
        "arcee_fusion", "breadcrumbs_ties", "dare_linear", "della_linear", "nearswap",
        "passthrough", "ram", "ramplus_tl",
    }  # fmt: skip
    assert own - theirs - {"frank"} == {n for n in SHELF if " > " not in n}


def test_a_command_is_measured_and_its_failure_told() -> None:
    good = run_command([sys.executable, "-c", "x = bytearray(60_000_000); print(len(x))"], {})
    assert good.problem is None
    assert good.seconds > 0
    bad = run_command([sys.executable, "-c", "raise SystemExit('no such model')"], {})
    assert bad.problem == "exit 1: no such model"


def test_a_folder_that_is_no_control_group_is_refused_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "_UNIFIED", tmp_path)
    monkeypatch.setattr("shutil.which", lambda _: None)
    reason = cgroup.open_cage(1 << 30)
    assert isinstance(reason, str)
    assert "is not a unified hierarchy" in reason
    assert "systemd-run is not installed" in reason
    assert list(tmp_path.iterdir()) == []


def test_threads_double_up_to_the_cores() -> None:
    assert default_threads()[0] == 1
    assert all(b == 2 * a for a, b in zip(default_threads(), default_threads()[1:], strict=False))

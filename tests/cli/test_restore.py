"""`cermet restore`: an assembly on disk, its experts back again, and everything that is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import cermet as package
from tests.cli.commands import Cermet
from tests.reliability.runs import write_pool

SHAPE = (96, 700)  # of more elements than a piece has bits in a whole number of bytes


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pool(tmp_path_factory.mktemp("pool"), 2, SHAPE, 4)


def _recipe(pool: list[Path], method: str) -> dict[str, object]:
    models = [{"model": str(path)} for path in pool[1:]]
    return {"merge_method": method, "base_model": str(pool[0]), "models": models}


@pytest.fixture
def assembly(pool: list[Path], tmp_path: Path) -> Path:
    package.merge(_recipe(pool, "tall_mask"), tmp_path / "made")
    return tmp_path / "made"


@pytest.mark.parametrize("method", ["emr", "rmm", "tall_mask", "tall_mask_ties", "twin_merging"])
def test_files_give_what_tensors_give(
    cermet: Cermet, pool: list[Path], tmp_path: Path, method: str
) -> None:
    made = package.merge(_recipe(pool, method), tmp_path / "made", shard_size=200_000)
    assert made.experts == ("m1", "m2", "m3")
    parts = sum(p.stat().st_size for p in (tmp_path / "made").glob("parts*"))
    assert made.parts_bytes == parts
    done = cermet("restore", tmp_path / "made", tmp_path / "out", "--task", "m2")
    assert (done.code, done.err) == (0, "")
    models = [dict(package.open(path)) for path in pool]
    expected = package.merge_tensors(method, models[0], models[1:], task=1)
    found = package.open(tmp_path / "out")
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert cermet("verify", tmp_path / "out").code == 0
    assert cermet("verify", tmp_path / "made").code == 0


def test_the_manifest_and_the_plan_tell_its_size(
    cermet: Cermet, pool: list[Path], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(_recipe(pool, "tall_mask")), "utf-8")
    planned = cermet("plan", recipe)
    done = cermet("merge", recipe, tmp_path / "made")
    manifest = json.loads((tmp_path / "made" / "assembly.json").read_text("utf-8"))
    assert [e["name"] for e in manifest["experts"]] == ["m1", "m2", "m3"]
    assert manifest["experts"][0]["bytes"] == 2 * (96 * 700 // 8 + -(-700 // 8))
    assert manifest["base"] == str(pool[0])
    parts = (tmp_path / "made" / "parts.safetensors").stat().st_size
    assert manifest["parts_bytes"] == parts
    assert "to restore m1, m2, m3" in planned.out
    assert "beside it restore m1, m2, m3" in done.out
    assert "cermet restore FOLDER OUT --task m1" in (tmp_path / "made" / "README.md").read_text()


def test_several_experts_by_weights(cermet: Cermet, assembly: Path, tmp_path: Path) -> None:
    given = ("--task", "m1=3", "--task", "m3")
    assert cermet("restore", assembly, tmp_path / "out", *given).code == 0
    alone = {}
    for name in ("m1", "m3"):
        package.restore(assembly, tmp_path / name, task=name)
        alone[name] = package.open(tmp_path / name)
    found = package.open(tmp_path / "out")
    for name, one in alone["m1"].items():
        if one.is_floating_point():
            mean = 0.75 * one.float() + 0.25 * alone["m3"][name].float()
            torch.testing.assert_close(found[name], mean.bfloat16())


def test_experts_of_one_name_are_told_apart(pool: list[Path], tmp_path: Path) -> None:
    for place in ("a", "b"):
        shutil.copytree(pool[1], tmp_path / place / "model")
    recipe = _recipe(pool, "emr")
    recipe["models"] = [{"model": str(tmp_path / p / "model")} for p in ("a", "b")]
    assert package.merge(recipe, tmp_path / "out").experts == ("model", "model-2")


def test_the_base_may_have_moved(
    cermet: Cermet, pool: list[Path], assembly: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(pool[0], moved)
    manifest = assembly / "assembly.json"
    gone = tmp_path / "gone"
    manifest.write_text(manifest.read_text("utf-8").replace(str(pool[0]), str(gone)), "utf-8")
    refused = cermet("restore", assembly, tmp_path / "out", "--task", "m1")
    assert refused.code == 2
    assert "is not where it was" in refused.said
    assert "--base" in refused.said
    done = cermet("restore", assembly, tmp_path / "out", "--task", "m1", "--base", moved)
    assert done.code == 0


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ((), 2, "Name an expert with --task. '"),
        (("--task", "m9"), 2, "Its tasks: m1, m2, m3."),
        (("--task", "m1=much"), 2, "'m1=much' is no task: write NAME or NAME=WEIGHT."),
        (("--task", "m1", "--task", "m1=2"), 2, "The task 'm1' is named twice."),
        (("--task", "m1=-1"), 2, "positive numbers, not m1=-1"),
        (("--task", "m1=0"), 2, "positive numbers, not m1=0"),
        (("--task", "m1=nan"), 2, "positive numbers, not m1=nan"),
    ],
)
def test_wrong_tasks(
    cermet: Cermet, assembly: Path, tmp_path: Path, options: tuple[str, ...], code: int, said: str
) -> None:
    done = cermet("restore", assembly, tmp_path / "out", *options)
    assert done.code == code
    assert said in done.said
    assert not (tmp_path / "out").exists()


def test_another_base_is_refused(
    cermet: Cermet, pool: list[Path], assembly: Path, tmp_path: Path
) -> None:
    done = cermet("restore", assembly, tmp_path / "out", "--task", "m1", "--base", pool[3])
    assert done.code == 3
    assert "is not the base that" in done.said
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("file", ["model.safetensors", "parts.safetensors"])
def test_a_changed_assembly_is_refused(
    cermet: Cermet, assembly: Path, tmp_path: Path, file: str
) -> None:
    data = bytearray((assembly / file).read_bytes())
    data[-3] ^= 4
    (assembly / file).write_bytes(data)
    done = cermet("restore", assembly, tmp_path / "out", "--task", "m3")
    assert done.code == 3
    assert "has changed since it was written" in done.said
    checked = cermet("verify", assembly)
    assert checked.code == 3
    assert "has changed since it was written" in checked.err
    assert not (tmp_path / "out").exists()


def test_what_is_no_assembly(
    cermet: Cermet, pool: list[Path], assembly: Path, tmp_path: Path
) -> None:
    done = cermet("restore", pool[1], tmp_path / "out", "--task", "m1")
    assert (done.code, "holds no assembly.json" in done.said) == (2, True)
    (assembly / "assembly.json").write_text('{"format": 1, "experts": 3}', "utf-8")
    done = cermet("restore", assembly, tmp_path / "out", "--task", "m1")
    assert (done.code, "the manifest is damaged" in done.said) == (3, True)


def test_lost_parts(cermet: Cermet, assembly: Path, tmp_path: Path) -> None:
    kept = load_file(assembly / "parts.safetensors")
    (assembly / "parts.safetensors").unlink()
    done = cermet("restore", assembly, tmp_path / "out", "--task", "m1")
    assert (done.code, "holds no parts.safetensors" in done.said) == (2, True)
    del kept["mask/m1/model.layers.0.mlp.up_proj.weight"]
    save_file(kept, assembly / "parts.safetensors")
    done = cermet("restore", assembly, tmp_path / "out", "--task", "m1")
    assert (done.code, "lacks 'mask/m1/model.layers.0.mlp" in done.said) == (3, True)


def test_an_output_that_exists_or_is_the_input(
    cermet: Cermet, pool: list[Path], assembly: Path, tmp_path: Path
) -> None:
    assert cermet("restore", assembly, tmp_path / "out", "--task", "m1").code == 0
    again = cermet("restore", assembly, tmp_path / "out", "--task", "m2")
    assert (again.code, "--overwrite" in again.said) == (2, True)
    assert cermet("restore", assembly, tmp_path / "out", "--task", "m2", "--overwrite").code == 0
    for place in (assembly, pool[0]):
        done = cermet("restore", assembly, place, "--task", "m1", "--overwrite")
        assert (done.code, "cannot be the output" in done.said) == (2, True)

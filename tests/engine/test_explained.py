"""`verify` says of every mismatch which file or tensor it is, what it means and what to do."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cermet import api
from cermet.engine.findings import Findings, Kind
from tests.reliability.runs import recipe, weights, write_model, write_pool

_UP = "model.layers.1.mlp.up_proj.weight"
_SHAPE = (40, 30)


@pytest.fixture
def pool(tmp_path: Path) -> list[Path]:
    return write_pool(tmp_path / "pool", 2, _SHAPE)


@pytest.fixture
def out(pool: list[Path], tmp_path: Path) -> Path:
    api.merge(recipe(pool), tmp_path / "out", shard_size=3000, threads=1)
    return tmp_path / "out"


def _edit(out: Path, change: Callable[[dict[str, Any]], object]) -> Findings:
    """What `verify` finds once the record is changed."""
    record = json.loads((out / "cermet.json").read_text("utf-8"))
    change(record)
    (out / "cermet.json").write_text(json.dumps(record), "utf-8")
    return api.verify(out, threads=1)


def _forget(record: dict[str, Any]) -> None:
    """Make every recorded output another one."""
    for entry in record["tensors"].values():
        entry["digest"] = "0" * 16 + "-0"


def test_a_sound_folder_needs_no_advice(out: Path) -> None:
    found = api.verify(out, threads=1)
    assert (found.problems, found.kinds, found.advice) == ([], [], [])


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
def test_a_file_beside_the_weights_that_was_edited(name: str, out: Path) -> None:
    (out / name).write_text((out / name).read_text("utf-8") + "\n", "utf-8")
    found = api.verify(out, threads=1)
    assert found.problems == [f"'{name}' has changed since it was written"]
    assert found.kinds == [Kind.OUTPUT]


def test_a_file_beside_the_weights_that_is_gone(out: Path) -> None:
    (out / "tokenizer.json").unlink()
    (problem,) = api.verify(out, threads=1).problems
    assert problem.startswith("'tokenizer.json' cannot be read: No such file")


def test_the_card_is_there_to_be_edited(out: Path) -> None:
    (out / "README.md").write_text("# Mine\n", "utf-8")
    assert api.verify(out, threads=1).problems == []


def test_the_same_bytes_under_another_form(out: Path) -> None:
    """A header that was rewritten: no digest of bytes would show it."""
    file = next(f for f in sorted(out.glob("*.safetensors")) if _UP in load_file(f))
    values = {n: t.clone() for n, t in load_file(file).items()}
    values[_UP] = values[_UP].view(30, 40)
    save_file(values, file)
    problems = api.verify(out, threads=1).problems
    wanted = f"tensor '{_UP}' in '{file.name}' has the shape [30, 40]; it was written as [40, 30]"
    assert wanted in problems


def test_a_source_that_was_trained_on_is_named_with_its_shard(pool: list[Path], out: Path) -> None:
    changed = {name: t + 1 for name, t in weights(2, _SHAPE, 1).items() if t.is_floating_point()}
    write_model(pool[1], {**weights(2, _SHAPE, 1), **changed})
    found = api.verify(out, threads=1)
    assert found.kinds == [Kind.SOURCE]
    assert all(f"in 'model.safetensors' of '{pool[1]}'" in problem for problem in found.problems)
    assert "model@commit" in found.advice[0]


def test_a_source_in_another_form_is_told_by_its_size(pool: list[Path], out: Path) -> None:
    values = {
        n: t.float() if t.is_floating_point() else t for n, t in weights(2, _SHAPE, 1).items()
    }
    before = (pool[1] / "model.safetensors").stat().st_size
    write_model(pool[1], values)
    found = api.verify(out, threads=1)
    after = (pool[1] / "model.safetensors").stat().st_size
    assert (
        f"'model.safetensors' of '{pool[1]}' has changed since the merge: it has {after:,} bytes, "
        f"and had {before:,}"
    ) in found.problems
    assert found.kinds == [Kind.SOURCE]


def test_a_source_whose_file_has_another_name(pool: list[Path], out: Path) -> None:
    (pool[1] / "model.safetensors").rename(pool[1] / "other.safetensors")
    found = api.verify(out, threads=1)
    assert found.problems == [f"'{pool[1]}' has no file 'model.safetensors' any more"]


def test_sources_that_are_gone_are_all_named_with_where_they_were_looked_for(
    pool: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [path.relative_to(tmp_path) for path in pool]
    api.merge(recipe(names), "out", threads=1)
    for path in pool[1:]:
        path.rename(path.with_name(f"moved-{path.name}"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = api.verify(tmp_path / "out", threads=1)
    assert found.kinds == [Kind.MISSING]
    assert len(found.problems) == 2
    for name, problem in zip(names[1:], found.problems, strict=True):
        assert problem.startswith(f"nothing could be made again: There is no folder '{name}'")
        assert f"'{tmp_path / name}' and '{tmp_path / 'elsewhere' / name}'" in problem


def test_a_damaged_source(pool: list[Path], out: Path) -> None:
    (pool[2] / "model.safetensors").write_bytes(b"x")
    found = api.verify(out, threads=1)
    assert found.kinds == [Kind.SOURCE]
    assert str(pool[2] / "model.safetensors") in found.problems[0]


def test_an_edited_recipe(out: Path) -> None:
    found = _edit(out, lambda r: r["recipe"]["parameters"].update(density=0.25))
    assert found.kinds == [Kind.RECIPE]
    assert found.problems[0] == "the recipe in the record has changed since the merge"
    assert any("its density is [0.25, 0.25] by the recipe" in p for p in found.problems)


def test_an_edited_recipe_of_models_that_are_nowhere(out: Path) -> None:
    found = _edit(out, lambda r: r["recipe"]["models"][0].update(model="./gone"))
    assert found.kinds == [Kind.RECIPE, Kind.MISSING]


def test_an_edited_record_of_numbers(out: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        for entry in record["tensors"].values():
            if entry["parameters"]:
                entry["parameters"]["weight"] = [0.1, 0.2]

    found = _edit(out, change)
    assert found.kinds == [Kind.RECORD]
    assert (
        "its weight is [0.5, 0.5] by the recipe and [0.1, 0.2] in the record" in found.problems[0]
    )


def _only_remade(found: Findings) -> list[str]:
    return [problem for problem in found.problems if "made again, comes out different" in problem]


@pytest.mark.parametrize(
    ("part", "key", "kind"),
    [("versions", "torch", Kind.VERSIONS), ("machine", "processor", Kind.MACHINE)],
)
def test_other_libraries_and_machines_are_told_from_damage(
    part: str, key: str, kind: Kind, out: Path
) -> None:
    def change(record: dict[str, Any]) -> None:
        _forget(record)
        record[part][key] = "of old"

    found = _edit(out, change)
    now = torch.__version__ if key == "torch" else platform.machine()
    assert kind in found.kinds
    problems = _only_remade(found)
    assert len(problems) == found.remade > 0
    assert all(f"({key} of old then, {now} now)" in problem for problem in problems)


def test_other_versions_that_come_out_the_same_are_no_problem(out: Path) -> None:
    found = _edit(out, lambda r: r["versions"].update(torch="0.1"))
    assert found.problems == []


def test_what_nothing_explains(out: Path) -> None:
    assert Kind.UNEXPLAINED in _edit(out, _forget).kinds


def test_a_hub_model_at_another_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name leads to a newer snapshot."""
    import huggingface_hub

    snapshots = tmp_path / "hub" / "models--org--m" / "snapshots"
    commits = ["1" * 40, "2" * 40]
    for seed, commit in enumerate(commits):
        write_model(snapshots / commit, weights(2, _SHAPE, seed))
    current = [commits[0]]
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *a, **k: str(snapshots / current[0])
    )
    monkeypatch.chdir(tmp_path)
    data = {"merge_method": "passthrough", "models": [{"model": "org/m"}]}
    api.merge(data, "out", threads=1)
    assert api.verify("out", threads=1).problems == []
    current[0] = commits[1]
    found = api.verify("out", threads=1)
    assert found.kinds == [Kind.SOURCE]
    assert found.problems[0] == (
        f"'org/m' is at the revision {commits[1]}; it was merged at {commits[0]}"
    )


def test_records_from_before_are_checked_as_far_as_they_go(out: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        for key in ("recipe_sha256", "origins", "licences", "beside", "machine", "versions"):
            del record[key]
        for model in record["models"]:
            model["files"] = [{"file": f["file"]} for f in model["files"]]

    assert _edit(out, change).problems == []

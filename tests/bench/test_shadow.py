"""Shadow-FT on a tiny pool: grafts are what they are by hand, and the claim reads the record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.__main__ import main
from bench.literature import literature
from bench.shadow import measure_shadow
from cermet.evaluation import evaluate
from tests.proving.pools import KINDS, write_pool

_KINDS = ("cats", "dogs")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool whose tuned model is the expert on dogs, and whose direct experts are exchanged."""
    root = write_pool(tmp_path_factory.mktemp("shadow"), _KINDS)
    shutil.copytree(root / "experts" / "dogs", root / "multi_task")
    content = _read(root / "pool.yaml")
    _write(root / "pool.yaml", {**content, "multi_task": "multi_task"})
    for name, other in zip(_KINDS, reversed(_KINDS), strict=True):
        shutil.copytree(root / "experts" / other, root / "direct" / "experts" / name)
    tasks = {
        name: {k: v if k == "kind" else f"../{v}" for k, v in task.items()}
        for name, task in content["tasks"].items()
    }
    direct = {**content, "name": "animals-direct", "base": "../multi_task", "tasks": tasks}
    _write(root / "direct" / "pool.yaml", direct)
    return root


def _read(file: Path) -> dict[str, object]:
    found: dict[str, object] = YAML(typ="safe").load(file.read_text())
    return found


def _write(file: Path, content: dict[str, object]) -> None:
    with file.open("w") as stream:
        YAML(typ="safe").dump(content, stream)


def _values(model: Path, place: Path) -> dict[str, float]:
    return {task.task: task.value for task in evaluate(model, place).tasks}


def _by_hand(place: Path, out: Path, moved: Callable[[str], bool]) -> Path:
    """The tuned model with what cats learnt in the tensors whose names are told."""
    shutil.copytree(place / "multi_task", out)
    tuned, expert, base = (
        load_file(place / name / "model.safetensors")
        for name in ("multi_task", "experts/cats", "base")
    )
    made: dict[str, Tensor] = {
        n: t + expert[n] - base[n] if moved(n) else t for n, t in tuned.items()
    }
    save_file(made, out / "model.safetensors", metadata={"format": "pt"})
    return out


def test_a_record_holds_what_every_way_is_worth(place: Path, tmp_path: Path) -> None:
    file = measure_shadow(place, tmp_path, "2026-01-01")
    (record,) = [json.loads(line) for line in file.read_text().splitlines()]
    assert record["pool"] == "animals"
    assert record["tasks"]["cats"] == {"metric": "bits_per_character", "expert": "cats"}
    assert record["tasks"]["mixed"]["expert"] is None
    assert record["tuned"] == pytest.approx(_values(place / "multi_task", place))
    assert 0 < record["apart"] < 1
    assert list(record["domains"]) == list(_KINDS)
    found = record["domains"]["cats"]
    assert found["direct"] == pytest.approx(_values(place / "experts" / "dogs", place))
    whole = _by_hand(place, tmp_path / "whole", lambda name: True)
    layers = _by_hand(place, tmp_path / "layers", lambda name: name.endswith("_proj.weight"))
    assert found["task_arithmetic"] == pytest.approx(_values(whole, place), rel=1e-5)
    assert found["shadow_ft"] == pytest.approx(_values(layers, place), rel=1e-5)
    assert found["shadow_ft"] != pytest.approx(found["task_arithmetic"], rel=1e-3)


def test_the_claim_reads_the_latest_record(tmp_path: Path) -> None:
    ways = {"direct": 2.0, "shadow_ft": 1.0, "task_arithmetic": 4.0}
    tasks = {name: {"metric": "bits_per_character", "expert": name} for name in KINDS}
    record = {
        "kind": "shadow", "pool": "animals", "apart": 0.25, "tuned": dict.fromkeys(KINDS, 2.0),
        "tasks": tasks, "domains": {
            own: {way: {t: 2.0 if t == own else bits for t in KINDS} for way, bits in ways.items()}
            for own in KINDS
        },
    }  # fmt: skip
    stale = {**record, "apart": 0.75}
    (tmp_path / "shadow.jsonl").write_text(json.dumps(stale) + "\n" + json.dumps(record) + "\n")
    rows = [row for row in literature(tmp_path).splitlines() if "Shadow-FT" in row]
    assert [row.split("|")[3].split(",")[0].strip() for row in rows] == [
        "own domain: shadow_ft 100.0%",
        "own domain: task_arithmetic 100.0%",
        "other tasks: shadow_ft 200.0%",
        "other tasks: task_arithmetic 50.0%",
    ]
    assert [row.split("|")[5].strip() for row in rows] == [
        "cannot tell", "cannot tell", "holds", "does not hold here"
    ]  # fmt: skip
    assert all("25% from its base" in row for row in rows)


def test_a_pool_that_lacks_something_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="There is no pool at"):
        main(["shadow", "--dir", str(tmp_path), "--records", str(tmp_path)])
    other = tmp_path / "pool"
    shutil.copytree(place, other)
    shutil.rmtree(other / "direct" / "experts")
    content = _read(other / "direct" / "pool.yaml")
    for change, said in (
        ({"experts": {"cats": "../base"}}, "its experts are not those of"),
        ({"base": "../base"}, "its base is not the multi_task model of"),
    ):
        _write(other / "direct" / "pool.yaml", {**content, **change})
        with pytest.raises(SystemExit, match=said):
            main(["shadow", "--dir", str(other), "--records", str(tmp_path)])
    shutil.rmtree(other / "direct")
    with pytest.raises(SystemExit, match="build one with `--with direct`"):
        main(["shadow", "--dir", str(other), "--records", str(tmp_path)])
    assert not (tmp_path / "shadow.jsonl").exists()

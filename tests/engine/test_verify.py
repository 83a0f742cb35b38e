"""`verify` finds and names every kind of damage, in the output and in what it was made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cermet import api
from cermet.checkpoints.header import read_header
from cermet.core.errors import InputError
from cermet.core.registry import all_methods
from cermet.engine.verify import Findings, _chosen
from tests.reliability.runs import recipe, run, weights, write_model, write_pool

_SHAPE = (40, 30)
_UP, _NORM = "model.layers.1.mlp.up_proj.weight", "model.layers.0.input_layernorm.weight"


@pytest.fixture
def pool(tmp_path: Path) -> list[Path]:
    return write_pool(tmp_path / "pool", 2, _SHAPE)


@pytest.fixture
def out(pool: list[Path], tmp_path: Path) -> Path:
    """A merge in two shards."""
    api.merge(recipe(pool), tmp_path / "out", shard_size=3000)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 2
    assert api.verify(tmp_path / "out").problems == []
    return tmp_path / "out"


def _shard(out: Path, tensor: str) -> Path:
    return next(f for f in sorted(out.glob("*.safetensors")) if tensor in read_header(f))


def _rewrite(file: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = {name: t.clone() for name, t in load_file(file).items()}
    change(tensors)
    save_file(tensors, file)


def _all_seeds(out: Path) -> Findings:
    """Every seed chooses other tensors; together they choose all of these few."""
    found = Findings()
    for seed in range(20):
        once = api.verify(out, seed=seed)
        found.problems += once.problems
    return found


@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_changed_byte(out: Path, place: int) -> None:
    """The first, the second and the last byte of a tensor."""
    file = _shard(out, _UP)
    info = read_header(file)[_UP]
    data = bytearray(file.read_bytes())
    data[info.begin + place % info.nbytes] ^= 1
    file.write_bytes(data)
    found = api.verify(out)
    assert found.problems == [f"tensor '{_UP}' in '{file.name}' has changed since it was written"]
    assert found.checked == 5


def test_exchanged_tensors(out: Path) -> None:
    """Both are whole, but they stand under each other's names."""
    other = _NORM.replace("0", "1")
    values = {name: api.open(out)[name].clone() for name in (_NORM, other)}
    for name, donor in ((_NORM, other), (other, _NORM)):
        _rewrite(_shard(out, name), lambda tensors, n=name, d=donor: tensors.update({n: values[d]}))
    changed = {p.split("'")[1] for p in api.verify(out).problems if "has changed since it" in p}
    assert changed == {_NORM, other}


def test_a_missing_tensor(out: Path) -> None:
    _drop(out, _NORM)
    shard = json.loads((out / "cermet.json").read_text("utf-8"))["tensors"][_NORM]["shard"]
    assert f"tensor '{_NORM}' is missing; '{shard}' had it" in api.verify(out).problems


def _drop(out: Path, name: str) -> None:
    _rewrite(_shard(out, name), lambda tensors: tensors.pop(name))
    index = out / "model.safetensors.index.json"
    data = json.loads(index.read_text("utf-8"))
    del data["weight_map"][name]
    index.write_text(json.dumps(data), "utf-8")


def test_an_added_tensor(out: Path) -> None:
    """Where the index does not forbid it: a merge of one file."""
    file = _shard(out, _UP)
    _rewrite(file, lambda tensors: tensors.update(extra=torch.zeros(2)))
    index = out / "model.safetensors.index.json"
    data = json.loads(index.read_text("utf-8"))
    data["weight_map"]["extra"] = file.name
    index.write_text(json.dumps(data), "utf-8")
    assert f"tensor 'extra' in '{file.name}' is not in the record" in api.verify(out).problems


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_the_output(out: Path, value: float) -> None:
    """Even where the record agrees with it: a merge by a faulty program."""
    _rewrite(_shard(out, _UP), lambda tensors: tensors[_UP].view(-1)[7:8].fill_(value))
    assert any(_UP in problem for problem in api.verify(out).problems)
    record = json.loads((out / "cermet.json").read_text("utf-8"))
    record["tensors"][_UP]["digest"] = _digest(out, _UP)
    (out / "cermet.json").write_text(json.dumps(record), "utf-8")
    assert f"tensor '{_UP}' holds NaN or infinity" in api.verify(out).problems


def _digest(out: Path, name: str) -> str:
    from cermet.core.fingerprint import digest_bytes, digest_hex

    raw = api.open(out)[name].reshape(-1).view(torch.uint8).numpy()
    return digest_hex(digest_bytes(raw, 0), raw.size)


def test_a_changed_source(pool: list[Path], out: Path) -> None:
    changed = weights(2, _SHAPE, 1)
    changed[_UP][3, 4] += 1
    write_model(pool[1], changed)
    wanted = f"tensor '{_UP}' in 'model.safetensors' of '{pool[1]}' has changed since the merge"
    assert set(_all_seeds(out).problems) == {wanted}


def test_a_source_that_is_gone(pool: list[Path], out: Path) -> None:
    (pool[2] / "model.safetensors").unlink()
    found = api.verify(out)
    assert (found.checked, found.remade) == (5, 0)
    assert [p for p in found.problems if "nothing could be made again" in p] == found.problems != []


def test_a_changed_adapter(pool: list[Path], tmp_path: Path) -> None:
    adapter, target = tmp_path / "adapter", f"base_model.model.{_UP.removesuffix('.weight')}"
    adapter.mkdir()
    factors = {
        f"{target}.lora_A.weight": torch.ones(2, _SHAPE[1]),
        f"{target}.lora_B.weight": torch.ones(_SHAPE[0], 2),
    }
    save_file(factors, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["up_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    data = recipe([pool[0], Path(f"{pool[0]}+{adapter}"), pool[1]])
    api.merge(data, tmp_path / "out")
    assert _all_seeds(tmp_path / "out").problems == []
    config["lora_alpha"] = 3
    (adapter / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    problems = api.verify(tmp_path / "out").problems
    assert f"'adapter_config.json' of '{pool[0]}+{adapter}' has changed since the merge" in problems


def test_a_result_that_cannot_be_made_again(out: Path) -> None:
    """Output and record agree with each other, but not with the recipe."""
    _rewrite(_shard(out, _UP), lambda tensors: tensors[_UP].mul_(2))
    record = json.loads((out / "cermet.json").read_text("utf-8"))
    record["tensors"][_UP]["digest"] = _digest(out, _UP)
    (out / "cermet.json").write_text(json.dumps(record), "utf-8")
    wanted = f"tensor '{_UP}', made again, comes out different"
    assert set(_all_seeds(out).problems) == {wanted}


@pytest.mark.parametrize("seed", range(6))
def test_every_role_and_every_shard_is_made_again(
    pool: list[Path], tmp_path: Path, seed: int
) -> None:
    api.merge(recipe(pool), tmp_path / "out", shard_size=2500)
    record = json.loads((tmp_path / "out" / "cermet.json").read_text("utf-8"))
    chosen = [task.name for task in _chosen(api.plan(recipe(pool)).tasks, record, seed)]
    entries: dict[str, Any] = record["tensors"]
    for what in ("role", "shard"):
        assert {entries[name][what] for name in chosen} == {e[what] for e in entries.values()}
    assert api.verify(tmp_path / "out", seed=seed).remade == len(chosen)


def _statistics(model: Path, folder: Path, square: bool) -> str:
    """A file of statistics: the model, whose numbers are like any others, or its Gram matrices."""
    if not square:
        return str(model)
    matrices = {n: t.float() for n, t in api.open(model).items() if t.ndim == 2}
    save_file({n: t.t() @ t for n, t in matrices.items()}, folder / "gram.safetensors")
    return str(folder / "gram.safetensors")


@pytest.mark.parametrize("method", sorted(all_methods()))
@pytest.mark.parametrize("threads", [1, 2])
def test_every_method_is_made_again(
    pool: list[Path], tmp_path: Path, method: str, threads: int
) -> None:
    spec = all_methods()[method]
    count = 2 if spec.models[1] is None else min(2, spec.models[1])
    models: list[dict[str, Any]] = [{"model": str(p)} for p in pool[1 : 1 + count]]
    given = {p.name for p in spec.parameters.values() if p.required} | {"weight"}
    own = [p.name for p in spec.parameters.values() if p.per_model and p.name in given]
    needs = {n.name: _statistics(pool[2], tmp_path, n.square) for n in spec.needs}
    models = [{**m, "parameters": dict.fromkeys(own, 0.5), "needs": needs} for m in models]
    needed = dict.fromkeys(sorted((given - set(own)) & set(spec.parameters)), 0.5)
    data: dict[str, Any] = {"merge_method": method, "models": models, "parameters": needed}
    if spec.base in ("required", "first"):
        data["base_model"] = str(pool[0])
    api.merge(data, tmp_path / "out", threads=2)
    found = api.verify(tmp_path / "out", threads=threads)
    assert found.problems == []
    assert found.remade >= 2


def test_the_command(pool: list[Path], out: Path) -> None:
    """Exit code 3, with every problem on a line of its own."""
    assert run("verify", out)[0] == 0
    file = _shard(out, _UP)
    _rewrite(file, lambda tensors: tensors[_UP].mul_(2))
    code, text = run("verify", out)
    assert code == 3
    assert f"tensor '{_UP}' in '{file.name}' has changed" in text
    assert "Traceback" not in text


def test_a_folder_of_others(pool: list[Path]) -> None:
    with pytest.raises(InputError, match="was not written by Cermet"):
        api.verify(pool[0])

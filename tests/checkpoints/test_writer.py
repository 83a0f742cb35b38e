"""Writing checkpoints: shards, index and sizes are fixed beforehand, and other tools read them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from cermet import api
from cermet.checkpoints import writer as writing
from cermet.checkpoints.dtypes import NAMES
from cermet.checkpoints.reader import open_checkpoint
from cermet.checkpoints.writer import ShardWriter, Slot, layout
from cermet.core.errors import DiskError
from tests.recipes.pools import llama, merged, save_llama

_INDEX = "model.safetensors.index.json"


def _slots(sizes: list[int]) -> list[Slot]:
    return [Slot(f"t{i}", "U8", (size,), size) for i, size in enumerate(sizes)]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 100))
def test_shards_are_filled_in_order_and_no_further(sizes: list[int], most: int) -> None:
    found = layout(_slots(sizes), most)
    names = [name for shard in found.shards for name in shard.begins]
    assert names == [f"t{i}" for i in range(len(sizes))]
    for shard in found.shards:
        data = shard.size - len(shard.header)
        assert data <= most or len(shard.begins) == 1
    for one, other in zip(found.shards, found.shards[1:], strict=False):
        first = found.slots[next(iter(other.begins))].nbytes
        assert one.size - len(one.header) + first > most  # it did not fit
    assert (found.index is None) == (len(found.shards) == 1)


def test_one_shard_has_no_number_and_no_index() -> None:
    found = layout(_slots([3, 4]), 100)
    assert [s.file for s in found.shards] == ["model.safetensors"]
    assert found.size == found.shards[0].size
    assert found.shard_of("t1") == "model.safetensors"


def test_the_index_names_every_tensor_and_the_size_of_all() -> None:
    found = layout(_slots([30, 30, 30]), 60)
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert [s.file for s in found.shards] == files
    assert json.loads(found.index or b"") == {
        "metadata": {"total_size": 90},
        "weight_map": {"t0": files[0], "t1": files[0], "t2": files[1]},
    }
    assert found.size == sum(s.size for s in found.shards) + len(found.index or b"")


@pytest.mark.parametrize("most", [1, 200, 10_000])
@pytest.mark.parametrize("one_write", [7, 1 << 17])
def test_what_is_written_in_blocks_is_read_back(
    most: int, one_write: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_SLICE", one_write)
    own = torch.Generator().manual_seed(0)
    dtypes = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool]
    values = {f"t{i}": torch.randn(5, 3, generator=own).to(d) for i, d in enumerate(dtypes)}
    values |= {"scalar": torch.tensor(2.0), "empty": torch.empty(0, 2)}
    slots = [Slot(n, NAMES[t.dtype], tuple(t.shape), t.nbytes) for n, t in values.items()]
    plan = layout(slots, most)
    writer = ShardWriter(tmp_path, plan)
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) == plan.size  # before any data
    for name, tensor in values.items():
        flat = tensor.reshape(-1)
        for start in range(0, len(flat), 4):
            writer.put(name, start, flat[start : start + 4])
    writer.sync()
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) == plan.size
    opened = open_checkpoint(tmp_path)
    library = {n: t for s in plan.shards for n, t in load_file(tmp_path / s.file).items()}
    assert set(library) == set(opened.tensors) == set(values)
    for name, tensor in values.items():
        assert torch.equal(library[name], tensor)
        assert torch.equal(opened.block(name, 0, tensor.numel()), tensor.reshape(-1))


def test_resuming_keeps_what_stands_and_replaces_what_does_not_fit(tmp_path: Path) -> None:
    plan = layout(_slots([8, 8]), 8)
    ShardWriter(tmp_path, plan).view("t0", 0, 8).fill_(5)
    (tmp_path / plan.shards[1].file).write_bytes(b"short")
    again = ShardWriter(tmp_path, plan, resume=True)
    assert again.view("t0", 0, 8).tolist() == [5] * 8
    assert again.view("t1", 0, 8).tolist() == [0] * 8
    assert ShardWriter(tmp_path, plan).view("t0", 0, 8).tolist() == [0] * 8


def test_a_place_that_is_not_there_is_a_disk_error(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"model\.safetensors.* cannot be created: No such file"):
        ShardWriter(tmp_path / "nowhere", layout(_slots([8]), 8))


def test_shard_size_divides_a_merge(tmp_path: Path) -> None:
    a = save_llama(tmp_path / "a", 1)
    recipe = {"merge_method": "passthrough", "models": [{"model": a}]}
    total = sum(t.nbytes for t in llama(1).values())
    found = merged(recipe, tmp_path / "out", shard_size=total // 3)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) >= math.ceil(total / (total // 3))
    index = json.loads((tmp_path / "out" / _INDEX).read_text())
    assert index["metadata"]["total_size"] == total
    assert set(index["weight_map"]) == set(found) == set(llama(1))
    assert all(torch.equal(found[n], t) for n, t in llama(1).items())
    assert api.verify(tmp_path / "out").problems == []


def test_transformers_loads_shards_as_it_loads_one_file(tmp_path: Path) -> None:
    import transformers

    recipe = {
        "merge_method": "linear",
        "models": [{"model": save_llama(tmp_path / str(i), i)} for i in range(2)],
        "parameters": {"weight": 1},
    }
    logits = []
    for name, size in (("one", 10**9), ("many", 9000)):
        merged(recipe, tmp_path / name, shard_size=size)
        model, told = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / name, output_loading_info=True
        )
        assert not told["missing_keys"]
        assert not told["unexpected_keys"]
        with torch.no_grad():
            logits.append(model.eval()(input_ids=torch.arange(9)[None]).logits)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    assert torch.equal(*logits)
    assert bool(torch.isfinite(logits[0]).all())

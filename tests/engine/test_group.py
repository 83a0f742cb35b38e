"""Rounds over the whole model: order statistics and sums of all tensors as one.

The method of these tests keeps the k largest values of all tensors together, the first of
equal ones; a stable sort of the tensors end to end says which these are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import cermet
from cermet import RecipeError, api
from cermet.checkpoints.reader import MemoryCheckpoint
from cermet.core.registry import Kth, Method, Round, Sum, find_method
from cermet.core.types import Place, Role
from cermet.engine.blocks import Input
from cermet.engine.executors.serial import Serial
from cermet.engine.executors.threads import Threads
from cermet.engine.geometry import LEAF
from cermet.engine.group import grouped
from cermet.engine.job import Job
from cermet.engine.target import MemoryTarget
from cermet.maths.select import Cutoff, kept_mask
from tests.reliability.runs import recipe, write_pool


def _keep(weights: Tensor, *, cutoff: Cutoff) -> Tensor:
    return kept_mask(weights[0], cutoff)


def _largest(*, k: int) -> list[list[int]]:
    return [[k]]


def _add(weights: Tensor, *, total: Tensor) -> Tensor:
    return torch.full_like(weights[0], float(total))


def _first(weights: Tensor) -> Tensor:
    return weights[:1]


def _method(function: Any, spec: Round) -> Method:
    return Method(
        name="whole", function=function, on="weights", base="none", grain=lambda: "element",
        rounds=(spec,), mask=None, fit=None, coefficients=None, models=(1, None), draws={},
        workspace=1.0, source="this test", check=None, accepts={}, parameters={},
        properties=frozenset(),
    )  # fmt: skip


def _place(name: str, shape: tuple[int, ...]) -> Place:
    return Place(name, shape, Role.DENSE, None, 1, "", "before")


def _run(
    tensors: list[Tensor], method: Method, block: int, threads: int = 1, **parameters: Any
) -> list[Tensor]:
    checkpoint = MemoryCheckpoint("m", {str(i): t for i, t in enumerate(tensors)})
    made = [torch.empty(t.numel()) for t in tensors]
    jobs = [
        Job(
            str(i), tuple(t.shape), method, [Input(checkpoint, str(i))], None, parameters,
            MemoryTarget(out), block=block, place=_place(str(i), tuple(t.shape)),
        )
        for i, (t, out) in enumerate(zip(tensors, made, strict=True))
    ]  # fmt: skip
    (Serial() if threads == 1 else Threads(threads)).run(grouped(jobs))
    return made


def _hold(tensors: list[Tensor], k: int, block: int, threads: int = 1) -> None:
    method = _method(_keep, Kth("cutoff", rank=_largest, scope="model"))
    found = torch.cat(_run(tensors, method, block, threads, k=k))
    values = torch.cat([t.reshape(-1) for t in tensors])
    order = np.argsort(-values.numpy(), kind="stable")
    expected = torch.zeros(values.numel())
    expected[torch.from_numpy(order[:k].copy())] = 1
    assert torch.equal(found, expected)


@given(
    st.lists(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), max_size=12), min_size=1, max_size=5),
    st.data(),
)
def test_small_tensors_with_many_ties(values: list[list[float]], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, sum(map(len, values))))
    _hold([torch.tensor(v) for v in values], k, data.draw(st.integers(1, 9)))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["spread", "few values", "unequal scales"])
def test_across_tensors_and_leaves(kind: str, share: float, threads: int) -> None:
    own = torch.Generator().manual_seed(1)
    tensors = [torch.randn(s, generator=own) for s in ((3 * LEAF + 5,), (7,), (LEAF, 1), (300, 9))]
    if kind == "few values":
        tensors = [(t * 2).round() + 0.0 for t in tensors]
    if kind == "unequal scales":
        tensors = [t * 10.0**i for i, t in enumerate(tensors)]
    _hold(tensors, int(share * sum(t.numel() for t in tensors)), LEAF, threads)


def test_sums_over_the_model() -> None:
    """1 + 2 + 8."""
    method = _method(_add, Sum("total", of=_first, scope="model"))
    tensors = [torch.tensor([1.0, 2.0]), torch.empty(0), torch.tensor([8.0, 0.0])]
    found = _run(tensors, method, 1)
    assert torch.cat(found).tolist() == [11.0] * 4


def test_only_some_tensors_take_part() -> None:
    def only(*, place: Place) -> bool:
        return place.name != "1"

    method = _method(_add, Sum("total", of=_first, scope="model", only=only))
    found = _run([torch.tensor([1.0]), torch.tensor([5.0]), torch.tensor([2.0])], method, 1)
    assert torch.cat(found).tolist() == [3.0] * 3


def _recipe(pool: list[Path], **parameters: Any) -> dict[str, Any]:
    found = recipe(pool)
    found["merge_method"] = "ties_official"
    found["models"] = [{"model": str(p)} for p in pool[1:]]
    found["parameters"] = parameters
    return found


@pytest.fixture
def pool(tmp_path: Path) -> list[Path]:
    return write_pool(tmp_path / "pool", 2, (40, 30))


def test_a_checkpoint_is_merged_and_made_again(pool: list[Path], tmp_path: Path) -> None:
    """Files give what tensors in memory give, and `verify` needs all tensors for one of them."""
    api.merge(_recipe(pool, density=0.3), tmp_path / "out", shard_size=3000)
    models = [{n: t.clone() for n, t in cermet.open(p).items()} for p in pool]
    expected = cermet.merge_tensors("ties_official", models[0], models[1:], density=0.3)
    found = cermet.open(tmp_path / "out")
    assert all(torch.equal(found[n], t.to(found[n].dtype)) for n, t in expected.items())
    checked = api.verify(tmp_path / "out")
    assert checked.problems == []
    assert checked.remade > 0


def test_the_plan_counts_the_passes(pool: list[Path]) -> None:
    found = api.plan(_recipe(pool, density=0.3))
    assert {t.passes for t in found.tasks if t.method is not None} == {3}


@pytest.mark.parametrize(
    "density", [[0.1, 0.5], [{"filter": "norm", "value": 1.0}, {"value": 0.2}]]
)
def test_what_varies_from_tensor_to_tensor_is_refused(pool: list[Path], density: Any) -> None:
    with pytest.raises(RecipeError, match="one 'density' for the whole model"):
        api.plan(_recipe(pool, density=density))


def test_a_kth_over_a_layer_is_refused() -> None:
    with pytest.raises(cermet.MethodError, match=r"'cutoff' is a Kth over a layer"):
        Kth("cutoff", rank=_largest, scope="layer")


_SIZES = {"a": (900, 1000), "b": (1_100_000,)}


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("consensus_ties", 3), ("emr", 2), ("metagpt", 2), ("pcb_merging", 3),
        ("pcb_merging_es", 3), ("ties_official", 3), ("ties_sv", 3),
    ],
)  # fmt: skip
def test_a_round_over_the_model_reads_it_once_more(
    name: str, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a look at a sample, by which an order statistic is found in one pass."""
    own = torch.Generator().manual_seed(0)
    models = [{n: torch.randn(s, generator=own) for n, s in _SIZES.items()} for _ in range(3)]
    numel = sum(t.numel() for t in models[0].values())
    read = 0
    block = MemoryCheckpoint.block

    def counted(self: MemoryCheckpoint, tensor: str, start: int, stop: int) -> Tensor:
        nonlocal read
        read += (stop - start) * (self.path == "base")
        return block(self, tensor, start, stop)

    monkeypatch.setattr(MemoryCheckpoint, "block", counted)
    cermet.merge_tensors(name, models[0], models[1:])
    assert find_method(name).passes == passes
    assert passes <= read / numel <= passes + 0.5

"""Order statistics of streamed values are those of a full sort, and ties are kept in order.

The search is driven as a job drives it, through a method made up for the test: it keeps the k
largest values of each model. NumPy's stable sort says which these are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cermet.checkpoints.reader import MemoryCheckpoint
from cermet.core.errors import NonFiniteError
from cermet.core.registry import Kth, Method
from cermet.engine.blocks import Input
from cermet.engine.executors.serial import Serial
from cermet.engine.executors.threads import Threads
from cermet.engine.geometry import LEAF
from cermet.engine.job import Job
from cermet.engine.target import MemoryTarget
from cermet.maths.select import Cutoff, kept_mask


def _keep(weights: Tensor, *, cutoff: Cutoff) -> Tensor:
    """Model i's kept entries count 2**i, so one number tells which models keep an entry."""
    masks = [kept_mask(w, cutoff, row=i) * 2**i for i, w in enumerate(weights)]
    return torch.stack(masks).sum(dim=0)


def _largest(*, k: tuple[int, ...]) -> list[list[int]]:
    return [[number] for number in k]


def _method(name: str = "keep") -> Method:
    return Method(
        name=name, function=_keep, on="weights", base="none", grain=lambda: "element",
        rounds=(Kth("cutoff", rank=_largest),), mask=None, fit=None, coefficients=None,
        models=(1, None), draws={}, workspace=1.0, source="this test", check=None, accepts={},
        parameters={}, properties=frozenset(),
    )  # fmt: skip


def _kept(models: list[Tensor], k: list[int], block: int, threads: int = 1) -> list[Tensor]:
    """Which entries of each model the engine keeps."""
    checkpoint = MemoryCheckpoint("m", {str(i): m for i, m in enumerate(models)})
    inputs = [Input(checkpoint, str(i)) for i in range(len(models))]
    made = torch.empty(models[0].numel())
    parameters: Mapping[str, Any] = {"k": tuple(k)}
    shape = (models[0].numel(),)
    job = Job("x", shape, _method(), inputs, None, parameters, MemoryTarget(made), block=block)
    (Serial() if threads == 1 else Threads(threads)).run([job])
    code = made.to(torch.int64)
    return [code >> i & 1 for i in range(len(models))]


def _sorted(values: Tensor, k: int) -> Tensor:
    """Which entries are the k largest, the first of equal ones first: by a full stable sort."""
    order = np.argsort(-values.numpy(), kind="stable")
    mask = torch.zeros(values.numel(), dtype=torch.int64)
    mask[torch.from_numpy(order[:k].copy())] = 1
    return mask


def _hold(models: list[Tensor], k: list[int], block: int, threads: int = 1) -> None:
    for found, values, number in zip(_kept(models, k, block, threads), models, k, strict=True):
        assert int(found.sum()) == number
        assert torch.equal(found, _sorted(values, number))


@given(
    st.lists(st.sampled_from([-1.5, -1.0, 0.0, 0.5, 0.5, 2.0, 7.25]), min_size=1, max_size=60),
    st.data(),
)
def test_small_with_many_ties(values: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(values)))
    _hold([torch.tensor(values)], [k], data.draw(st.integers(1, 70)))


@given(
    st.lists(
        st.floats(allow_nan=False, allow_infinity=False, width=32).filter(lambda x: abs(x) < 1e30),
        min_size=1, max_size=50,
    ),
    st.data(),
)  # fmt: skip
def test_small_of_any_numbers(values: list[float], data: st.DataObject) -> None:
    _hold([torch.tensor(values)], [data.draw(st.integers(0, len(values)))], 7)


_NUMEL = 3 * LEAF + 77
_LARGE: Mapping[str, Tensor] = {
    "spread": torch.randn(_NUMEL, generator=torch.Generator().manual_seed(0)),
    "five values": torch.randint(-2, 3, (_NUMEL,), generator=torch.Generator().manual_seed(1)) / 1,
    "all equal": torch.full((_NUMEL,), 0.25),
    "sorted": torch.arange(_NUMEL) / 1.0,
    "sorted backwards": -torch.arange(_NUMEL) / 1.0,
    "one apart": torch.zeros(_NUMEL).index_fill(0, torch.tensor([LEAF]), 1.0),
    "nearly all ties": torch.zeros(_NUMEL).index_fill(0, torch.arange(0, _NUMEL, 4099), -1.0),
    "hidden from the sample": torch.cat((torch.zeros(_NUMEL - 900), torch.arange(900) / 9.0)),
}


@pytest.mark.parametrize("name", _LARGE)
def test_across_leaves(name: str) -> None:
    """Longer than the sample, so that brackets have to be found and may miss."""
    values = _LARGE[name]
    for k in (1, 450, LEAF, _NUMEL // 2, _NUMEL - LEAF + 5, _NUMEL - 1):
        _hold([values], [k], 2 * LEAF)


def test_models_are_searched_apart() -> None:
    models = [_LARGE["spread"], _LARGE["five values"], _LARGE["all equal"]]
    for block, threads in ((LEAF, 1), (10_007, 1), (2 * LEAF, 2)):
        _hold(models, [10, 100_000, _NUMEL - 3], block, threads)


@pytest.mark.parametrize("k", [0, _NUMEL])
def test_none_and_all(k: int) -> None:
    _hold([_LARGE["spread"]], [k], LEAF)


def test_nan_never_reaches_the_search() -> None:
    """It has no place in an order, so it is refused, with its place."""
    values = _LARGE["spread"].clone()
    values[LEAF + 3] = float("nan")
    with pytest.raises(NonFiniteError, match=f"nan at element {LEAF + 3}"):
        _kept([values], [5], 2 * LEAF)

"""The comparison catches what is wrong, and only that."""

from __future__ import annotations

import numpy as np
import torch

from parity.compare import no_worse, within_one_unit, within_relative
from parity.doubt import Doubt, find_doubt
from parity.faults import FAULTS, fault_of_dtype, fault_of_values
from parity.inputs import Group
from parity.settings import METHODS


def _sure(count: int) -> Doubt:
    return Doubt(np.zeros(count, bool))


def _tensor(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _group(method: str, base: torch.Tensor, experts: list[torch.Tensor], **once: float) -> Group:
    each = tuple({"weight": 0.5, "density": 0.5} for _ in experts)
    return Group(method, base, tuple(experts), each, once)


def test_equal_tensors_agree() -> None:
    tensor = _tensor(0, 8, 8)
    verdict = within_relative(tensor, tensor.clone(), _sure(64))
    assert (verdict.problem, verdict.error, verdict.compared) == (None, 0.0, 64)


def test_one_wrong_element_is_found_and_named() -> None:
    wanted = _tensor(0, 8, 8)
    ours = wanted.clone()
    ours[3, 5] += 3e-5 * wanted.abs().max()
    verdict = within_relative(ours, wanted, _sure(64))
    assert verdict.problem is not None
    assert "flat index 29 (1 of 64" in verdict.problem


def test_rounding_in_float32_passes() -> None:
    wanted = _tensor(0, 8, 8)
    assert within_relative(wanted * (1 + 1e-6), wanted, _sure(64)).problem is None


def test_nan_never_agrees() -> None:
    wanted = _tensor(0, 16)
    ours = wanted.clone()
    ours[2] = float("nan")
    assert within_relative(ours, wanted, _sure(16)).problem is not None
    assert within_one_unit(ours, wanted, _sure(16)).problem is not None


def test_a_doubtful_element_is_left_out() -> None:
    wanted = _tensor(0, 16)
    ours = wanted.clone()
    ours[2] += 1.0
    doubt = _sure(16)
    doubt.elements[2] = True
    verdict = within_relative(ours, wanted, doubt)
    assert (verdict.problem, verdict.compared) == (None, 15)


def test_one_rounding_to_bfloat16_is_within_one_unit_and_two_units_are_not() -> None:
    wanted = _tensor(0, 64)
    ours = wanted.bfloat16()
    verdict = within_one_unit(ours, wanted, _sure(64))
    assert verdict.problem is None
    assert verdict.error <= 0.5
    ours[7] *= 1 + 2.0**-6
    assert within_one_unit(ours, wanted, _sure(64)).problem is not None


def test_more_error_than_the_peer_is_a_problem() -> None:
    wanted = _tensor(0, 1024)
    peer = wanted + 1e-3 * _tensor(1, 1024)
    ours = wanted + 2e-2 * _tensor(2, 1024)
    assert no_worse(peer, ours, wanted, _sure(1024)) is None
    assert no_worse(ours, peer, wanted, _sure(1024)) is not None


def test_equal_magnitudes_at_the_threshold_are_in_doubt() -> None:
    base = torch.zeros(4)
    tied = _group("ties", base, [torch.tensor([3.0, 2.0, -2.0, 1.0])])
    assert find_doubt(tied).elements.tolist() == [False, True, True, False]
    clear = _group("ties", base, [torch.tensor([3.0, 2.5, -2.0, 1.0])])
    assert not find_doubt(clear).elements.any()


def test_a_sum_that_cancels_has_no_sign() -> None:
    group = Group(
        "ties",
        torch.zeros(2),
        (torch.tensor([1.0, 1.0]), torch.tensor([-1.0, 0.5])),
        ({"weight": 1.0, "density": 1.0}, {"weight": 1.0, "density": 1.0}),
        {},
    )
    assert find_doubt(group).elements.tolist() == [True, False]


def test_faults_are_recognised_from_the_inputs() -> None:
    base = _tensor(0, 4, 8)
    near = [base + 1e-5 * _tensor(i, 4, 8) for i in (1, 2)]
    far = [base + 0.1 * _tensor(i, 4, 8) for i in (1, 2)]
    for method, once in (("model_stock", {"filter_wise": 0.0}), ("sce", {"select_topk": 1.0})):
        assert fault_of_values(_group(method, base, near, **once)) is not None
        assert fault_of_values(_group(method, base, far, **once)) is None
    assert fault_of_values(_group("arcee_fusion", base, near[:1])) is not None
    assert fault_of_values(_group("arcee_fusion", base, far[:1])) is None
    assert fault_of_dtype(_group("arcee_fusion", base, far[:1])) is not None
    assert fault_of_dtype(_group("ties", base, far)) is None


def test_the_table_of_faults_names_methods_that_exist() -> None:
    assert {m for fault in FAULTS for m in fault.methods} <= METHODS.keys()
    assert all(fault.reason for fault in FAULTS)

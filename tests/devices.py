"""Cases for a GPU, where there is one, and some of them for the CPU, so that they are run at all.

The numbers of a GPU are those of the CPU but for rounding: of sums in another order, and now and
then of a value that lies between two codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

__all__ = ["near", "on_devices", "there"]

_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

Case = TypeVar("Case")


def on_devices(
    cases: Iterable[Case], here: Iterable[Case], label: Callable[[Case], str] = str
) -> Any:
    """The parameters `device` and `case`: all cases on a GPU, and on the CPU those of `here`."""
    params = [pytest.param("cpu", case, id=f"cpu-{label(case)}") for case in here]
    params += [pytest.param("cuda", case, id=f"cuda-{label(case)}", marks=_GPU) for case in cases]
    return pytest.mark.parametrize(("device", "case"), params)


def there(tensors: Mapping[str, Tensor], device: str) -> dict[str, Tensor]:
    """The tensors on a device."""
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def near(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], share: float) -> None:
    """Each tensor is within a share of the largest magnitude in it."""
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        assert (found[name].dtype, found[name].shape) == (wanted.dtype, wanted.shape)
        off = (found[name].cpu().double() - wanted.double()).abs()
        if off.numel():
            allowed = share * float(wanted.double().abs().amax())
            assert float(off.amax()) <= allowed, f"{name}: {float(off.amax()):.3g} > {allowed:.3g}"

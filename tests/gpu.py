"""A device that is not there: tensors on the CPU that say `cuda:0`, and refuse what a GPU would.

`Simulated()` is a mode under which `device="cuda"` gives such tensors. They compute on the CPU, so
their results can be compared bit by bit, and raise where a tensor of the CPU is mixed in (but for
single numbers and indices, which torch allows), or where one is handed to NumPy. What kernels a
GPU lacks, and how it rounds, it cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["OnGpu", "Simulated", "to_gpu"]

_DEVICE = torch.device("cuda:0")
_MOVES = {Tensor.to, Tensor.copy_, Tensor.cpu, Tensor.cuda}
_INDEXED = {Tensor.__getitem__, Tensor.__setitem__}
_HOST = {Tensor.numpy, Tensor.__array__, Tensor.data_ptr}


class OnGpu(Tensor):
    """A tensor that says that it is on a GPU."""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return _DEVICE
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return True
        if func in _HOST:
            raise TypeError("a tensor on a GPU was handed to NumPy; copy it to the CPU first")
        moved = _target(func, args, given)
        if moved is not None:
            rest = tuple(a for a in args if not _is_device(a))
            own = {k: v for k, v in given.items() if k != "device"}
            plain = rest[0].as_subclass(Tensor)
            found = plain.clone() if func in (Tensor.cpu, Tensor.cuda) else None
            found = plain.to(*rest[1:], **own).clone() if found is None else found
            return found.as_subclass(cls) if moved.type == "cuda" else found
        if func not in _MOVES:
            _refuse_mixed(func, args, given)
        found = super().__torch_function__(func, types, args, given)
        return found.as_subclass(Tensor) if func is Tensor.copy_ and not _held(args[0]) else found


def to_gpu(tensor: Tensor) -> Tensor:
    """A copy that says that it is on a GPU."""
    return tensor.clone().as_subclass(OnGpu)


class Simulated(TorchFunctionMode):
    """Under it `device="cuda"` makes tensors that say that they are there."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        held = any(_held(t) for t in _tensors((args, given)))
        target = _target(func, args, given)
        if held or target is None or target.type != "cuda":
            return func(*args, **given)
        given.pop("device", None)
        found = func(*(a for a in args if not _is_device(a)), **given)
        return to_gpu(found)


def _held(value: Any) -> bool:
    return isinstance(value, OnGpu)


def _is_device(value: Any) -> bool:
    return isinstance(value, torch.device) or value in ("cpu", "cuda", "cuda:0")


def _target(func: Callable[..., Any], args: tuple[Any, ...], given: Any) -> torch.device | None:
    """Where a call says that its result is to be; None where it says nothing."""
    if func is Tensor.cpu:
        return torch.device("cpu")
    named = given.get("device")
    if named is None and func is Tensor.to:
        named = next((a for a in args[1:] if isinstance(a, torch.device | str)), None)
    return None if named is None else torch.device(named)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _refuse_mixed(func: Callable[..., Any], args: tuple[Any, ...], given: Any) -> None:
    """What torch says where tensors of two devices meet."""
    looked = (args[0], *args[2:]) if func in _INDEXED else (args, given)
    found = list(_tensors(looked))
    if any(_held(t) for t in found) and any(not _held(t) and t.ndim for t in found):
        raise RuntimeError(f"{func.__name__}: tensors of the CPU and of a GPU in one call")

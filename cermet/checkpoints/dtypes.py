"""The dtypes of the safetensors format, and what recipes call them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import TypeVar

import torch

from cermet.core.errors import InputError

__all__ = [
    "EIGHT_BIT",
    "FLOATS",
    "NAMES",
    "SIZES",
    "STORED",
    "STORED_SIZES",
    "TORCH",
    "dtype_named",
]

SIZES: dict[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Spelling in a header -> bytes of one element."""

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""The dtypes that can be merged; tensors of all others are copied."""

EIGHT_BIT = ("F8_E4M3", "F8_E5M2", "F8_E8M0")
"""What a header may hold besides: numbers of one byte that mean something only with scales."""

STORED_SIZES: dict[str, int] = SIZES | dict.fromkeys(EIGHT_BIT, 1)
"""Every spelling that is read -> bytes of one element."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class _Made(Mapping[_Key, _Value]):
    """A mapping that is made when it is first looked into: torch is not imported for its name."""

    def __init__(self, make: Callable[[], dict[_Key, _Value]]) -> None:
        self._make = cache(make)

    def __getitem__(self, key: _Key) -> _Value:
        return self._make()[key]

    def __iter__(self) -> Iterator[_Key]:
        return iter(self._make())

    def __len__(self) -> int:
        return len(self._make())


def _torch() -> dict[str, torch.dtype]:
    return {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U8": torch.uint8,
        "BOOL": torch.bool,
    }


def _eight_bit() -> dict[str, torch.dtype]:
    return {
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
        "F8_E8M0": torch.uint8,  # exponents alone; torch 2.6 has no dtype for them
    }


TORCH: Mapping[str, torch.dtype] = _Made(_torch)
"""Spelling in a header -> torch dtype."""

NAMES: Mapping[torch.dtype, str] = _Made(lambda: {dtype: n for n, dtype in TORCH.items()})
"""torch dtype -> spelling in a header."""

STORED: Mapping[str, torch.dtype] = _Made(lambda: _torch() | _eight_bit())
"""Every spelling that is read -> torch dtype."""

_RECIPE = {
    "float64": "F64",
    "float32": "F32",
    "fp32": "F32",
    "float": "F32",
    "float16": "F16",
    "fp16": "F16",
    "half": "F16",
    "bfloat16": "BF16",
    "bf16": "BF16",
}


def dtype_named(name: str) -> str:
    """The header spelling of a dtype as a recipe spells it, e.g. `bfloat16` -> `BF16`."""
    key = name.removeprefix("torch.")
    if key not in _RECIPE:
        raise InputError(f"'{name}' is not a dtype of weights. Known: {', '.join(_RECIPE)}.")
    return _RECIPE[key]

"""The dtypes of the safetensors format, and what recipes call them."""

from __future__ import annotations

import torch

from cermet.core.errors import InputError

__all__ = ["EIGHT_BIT", "FLOATS", "NAMES", "SIZES", "STORED", "TORCH", "dtype_named"]

TORCH: dict[str, torch.dtype] = {
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
"""Spelling in a header -> torch dtype."""

SIZES: dict[str, int] = {name: dtype.itemsize for name, dtype in TORCH.items()}
"""Spelling in a header -> bytes of one element."""

NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in TORCH.items()}
"""torch dtype -> spelling in a header."""

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""The dtypes that can be merged; tensors of all others are copied."""

EIGHT_BIT: dict[str, torch.dtype] = {
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.uint8,  # exponents alone; torch 2.6 has no dtype for them
}
"""What a header may hold besides: numbers that mean something only with scales."""

STORED: dict[str, torch.dtype] = TORCH | EIGHT_BIT
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

"""Cermet combines trained models, measures what the combination is worth, and runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cermet.core.errors import (
    BudgetError,
    CermetError,
    DataError,
    DiskError,
    ExtraError,
    FormatError,
    InputError,
    MachineError,
    MethodError,
    MismatchError,
    NonFiniteError,
    OutputError,
    RecipeError,
)

if TYPE_CHECKING:
    from cermet.api import Merged, clean, merge, merge_tensors, open, plan, soup, verify
    from cermet.core.registry import Gram, Kth, PerModel, Rows, Sum, method

__all__ = [
    "BudgetError",
    "CermetError",
    "DataError",
    "DiskError",
    "ExtraError",
    "FormatError",
    "Gram",
    "InputError",
    "Kth",
    "MachineError",
    "Merged",
    "MethodError",
    "MismatchError",
    "NonFiniteError",
    "OutputError",
    "PerModel",
    "RecipeError",
    "Rows",
    "Sum",
    "__version__",
    "clean",
    "merge",
    "merge_tensors",
    "method",
    "open",
    "plan",
    "soup",
    "verify",
]

__version__ = "0.1.0"

_REGISTRY = {"Gram", "Kth", "PerModel", "Rows", "Sum", "method"}


def __getattr__(name: str) -> Any:
    # torch takes a second to import; `import cermet` and `cermet --help` do not need it.
    if name in __all__:
        if name in _REGISTRY:
            from cermet.core import registry

            return getattr(registry, name)
        from cermet import api

        return getattr(api, name)
    raise AttributeError(f"module 'cermet' has no attribute '{name}'")

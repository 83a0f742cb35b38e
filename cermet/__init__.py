"""Cermet combines trained models, measures what the combination is worth, and runs it."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
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
    from cermet.api import Merged, clean, merge, merge_adapters, merge_tensors, open, plan, verify
    from cermet.assemblies import restore
    from cermet.compression import Compressed, compress
    from cermet.continuation import continue_merge
    from cermet.core.composition import composition
    from cermet.core.registry import (
        Bits,
        Gram,
        Kth,
        Need,
        Numbers,
        PerModel,
        Rows,
        Sum,
        method,
    )
    from cermet.evaluation import Evaluation, evaluate
    from cermet.inspection import Comparison, Inspection, compare, inspect
    from cermet.maths.factors import Factors
    from cermet.soups import learned_soup, soup
    from cermet.transplants import Transplanted, transplant

__all__ = [
    "Bits",
    "BudgetError",
    "CermetError",
    "Comparison",
    "Compressed",
    "DataError",
    "DiskError",
    "Evaluation",
    "ExtraError",
    "Factors",
    "FormatError",
    "Gram",
    "InputError",
    "Inspection",
    "Kth",
    "MachineError",
    "Merged",
    "MethodError",
    "MismatchError",
    "Need",
    "NonFiniteError",
    "Numbers",
    "OutputError",
    "PerModel",
    "RecipeError",
    "Rows",
    "Sum",
    "Transplanted",
    "__version__",
    "clean",
    "compare",
    "composition",
    "compress",
    "continue_merge",
    "evaluate",
    "inspect",
    "learned_soup",
    "merge",
    "merge_adapters",
    "merge_tensors",
    "method",
    "open",
    "plan",
    "restore",
    "soup",
    "transplant",
    "verify",
]

__version__ = "0.1.0"

_ROOMS = {
    "cermet.core.registry": {
        "Bits", "Gram", "Kth", "Need", "Numbers", "PerModel", "Rows", "Sum", "method",
    },
    "cermet.core.composition": {"composition"},
    "cermet.assemblies": {"restore"},
    "cermet.compression": {"Compressed", "compress"},
    "cermet.evaluation": {"Evaluation", "evaluate"},
    "cermet.continuation": {"continue_merge"},
    "cermet.inspection": {"Comparison", "Inspection", "compare", "inspect"},
    "cermet.maths.factors": {"Factors"},
    "cermet.soups": {"learned_soup", "soup"},
    "cermet.transplants": {"Transplanted", "transplant"},
}  # fmt: skip
"""What is not in `cermet.api`."""


def __getattr__(name: str) -> Any:
    # torch takes a second to import; `import cermet` and `cermet --help` do not need it.
    if name in __all__:
        room = next((room for room, names in _ROOMS.items() if name in names), "cermet.api")
        return getattr(import_module(room), name)
    raise AttributeError(f"module 'cermet' has no attribute '{name}'")


class _Face(ModuleType):
    """A room that is imported does not hide the verb of its name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in __all__):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face

"""Every error that Cermet raises on purpose.

CermetError
├── InputError          exit 2: the user's recipe, arguments or folders
│   ├── RecipeError     a recipe that cannot be read or does not make sense (file and line)
│   ├── MethodError     an unknown method, or parameters that it does not take
│   └── OutputError     an output folder that exists, is locked, or cannot be resumed
├── DataError           exit 3: what the checkpoints hold
│   ├── FormatError     a file that is not what it says it is
│   ├── MismatchError   checkpoints that do not fit together
│   └── NonFiniteError  NaN or infinity where numbers were expected
└── MachineError        exit 4: disk, memory, permissions, missing libraries
    ├── DiskError
    ├── BudgetError     a memory budget too small for the work
    └── ExtraError      an optional library that is not installed

A message says what happened, where, what was expected, and what to do. The
command line prints it as it is, without a traceback, and leaves with `exit_code`.
"""

from __future__ import annotations

__all__ = [
    "BudgetError",
    "CermetError",
    "DataError",
    "DiskError",
    "ExtraError",
    "FormatError",
    "InputError",
    "MachineError",
    "MethodError",
    "MismatchError",
    "NonFiniteError",
    "OutputError",
    "RecipeError",
]


_END = 1_000  # characters kept at both ends of a message that is far too long


class CermetError(Exception):
    """The root: catch this one to catch everything that Cermet raises on purpose."""

    exit_code = 1

    def __str__(self) -> str:
        """The message as one line: no name in a file can break it, or send a terminal codes."""
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in super().__str__())
        return text if len(text) <= 2 * _END else f"{text[:_END]} ... {text[-_END:]}"


class InputError(CermetError):
    """Something that the user wrote or named has to change."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe that cannot be read, or asks for something that makes no sense."""


class MethodError(InputError):
    """An unknown method, or parameters that the method does not take."""


class OutputError(InputError):
    """An output folder that exists, is in use, or cannot be resumed."""


class DataError(CermetError):
    """The checkpoints hold something that cannot be used."""

    exit_code = 3


class FormatError(DataError):
    """A file that is damaged, or not what its name says."""


class MismatchError(DataError):
    """Checkpoints that do not fit together: names, shapes or architectures differ."""


class NonFiniteError(DataError):
    """NaN or infinity where numbers were expected."""


class MachineError(CermetError):
    """The machine does not have what the work needs."""

    exit_code = 4


class DiskError(MachineError):
    """Too little disk, a read-only folder, or a failed write."""


class BudgetError(MachineError):
    """The memory budget is too small for one piece of the work."""


class ExtraError(MachineError):
    """An optional library is missing; the message names the extra to install."""

"""Where tensors are worked on: the names of devices, and which of them a machine has."""

from __future__ import annotations

import re

from cermet.core.errors import InputError, MachineError

__all__ = ["check_device"]

_NAME = re.compile(r"cpu|cuda(?::(0|[1-9][0-9]{0,2}))?")


def check_device(name: str) -> None:
    """Refuse what is no device (InputError), and a device that is not here (MachineError)."""
    known = _NAME.fullmatch(name)
    if known is None:
        raise InputError(f"'{name}' is not a device: cpu, cuda or cuda:0.")
    if name == "cpu":
        return
    import torch  # here, so that a name that is none is refused at once

    if not torch.cuda.is_available():
        raise MachineError(
            f"Device '{name}': there is no CUDA device here, or this torch was built without CUDA. "
            "Use cpu."
        )
    count, number = torch.cuda.device_count(), int(known[1] or 0)
    if number >= count:
        there = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise MachineError(f"Device '{name}' is not here: this machine has {there}.")

"""Where tensors are worked on: the names of devices, and which of them a machine has."""

from __future__ import annotations

import os
import platform
import re
from functools import cache
from pathlib import Path

from cermet.core.errors import InputError, MachineError
from cermet.core.later import loaded

__all__ = ["check_device", "instructions", "processor"]

_NAME = re.compile(r"cpu|cuda(?::(0|[1-9][0-9]{0,2}))?")


_INSTRUCTIONS = {
    "AVX512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"},
    "AVX2": {"avx2", "fma"},
}
"""What torch calls the instructions that it has code for -> what Linux calls them."""


@cache
def processor() -> dict[str, str]:
    """What Linux tells of the first processor; elsewhere its name alone."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]
    except OSError:
        return {"model name": platform.processor()}
    lines = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def instructions() -> str:
    """The vector instructions that torch uses on this processor, by its own names for them.

    Where torch has not been imported it is not for this, if Linux tells what it would say.
    """
    if not loaded("torch") and "ATEN_CPU_CAPABILITY" not in os.environ:
        flags = set(processor().get("flags", "").split())
        for name, needed in _INSTRUCTIONS.items():
            if needed <= flags:
                return name
    import torch

    return torch.backends.cpu.get_cpu_capability()


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

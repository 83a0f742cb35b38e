"""Golden files of merged adapters: PEFT's combination types, by their names and its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

import cermet
from tests.golden.case import Case

__all__ = ["BY_ADAPTERS", "merged_adapter"]

_SPELLED = {"svd_rank": "rank"}
_CONFIG = {"weights", "r", "lora_alpha", "use_rslora", "combination_type"}


def _adapter(case: Case, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    known = {key: case.parameters[key][index] for key in ("r", "lora_alpha", "use_rslora")}
    return case.experts[index], {"peft_type": "LORA", **known}


def merged_adapter(case: Case) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The merged adapter, and what its config holds."""
    given = {_SPELLED.get(k, k): v for k, v in case.parameters.items() if k not in _CONFIG}
    adapters = [_adapter(case, i) for i in range(len(case.experts))]
    return cermet.merge_adapters(case.method, adapters, weight=case.parameters["weights"], **given)


BY_ADAPTERS: Mapping[str, Callable[[Case], dict[str, Tensor]]] = dict.fromkeys(
    (
        "lora_cat",
        "lora_dare_linear",
        "lora_dare_linear_svd",
        "lora_dare_ties",
        "lora_dare_ties_svd",
        "lora_linear",
        "lora_magnitude_prune",
        "lora_magnitude_prune_svd",
        "lora_svd",
        "lora_ties",
        "lora_ties_svd",
    ),
    lambda case: merged_adapter(case)[0],
)
"""Name of a golden method -> our outputs."""

"""What a verb has found, as JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["FORMAT", "json_of"]

FORMAT = 1
"""Version of the form; a key that changes its meaning raises it, a new key does not."""


def json_of(found: DataclassInstance) -> str:
    """The fields of a result under their names, after `format`; null for what is no number."""
    return json.dumps({"format": FORMAT, **_finite(asdict(found))}, indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""A learned soup in a file of safetensors, so that it is not learnt twice."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cermet.core.errors import FormatError, OutputError
from cermet.learn.soup import LearnedSoup, Score

__all__ = ["read_soup", "write_soup"]


def write_soup(path: Path, soup: LearnedSoup, key: str) -> None:
    """Write `coefficients` [groups, models] and `curve` [steps] in float64, the rest as metadata.

    `key` says from what the soup was learnt. Raises OutputError where it cannot be written.
    """
    rest = asdict(soup)
    tensors = {
        name: torch.tensor(rest.pop(name), dtype=torch.float64)
        for name in ("coefficients", "curve")
    }
    try:
        save_file(tensors, path, metadata={"soup": json.dumps(rest), "key": key})
    except (OSError, SafetensorError) as error:
        raise OutputError(f"The coefficients cannot be written to '{path}': {error}.") from error


def read_soup(path: Path, key: str) -> LearnedSoup:
    """What `write_soup` has written under the same key.

    Raises OutputError for a soup that was learnt from something else, FormatError for any other
    file.
    """
    try:
        with safe_open(path, "pt") as file:
            found: dict[str, str] = file.metadata() or {}
            rest: dict[str, Any] = json.loads(found["soup"])
            other = found["key"] != key
            coefficients, curve = (file.get_tensor(n).tolist() for n in ("coefficients", "curve"))
        rest["uniform"], rest["learned"] = Score(**rest["uniform"]), Score(**rest["learned"])
        rest["alone"] = tuple(Score(**score) for score in rest["alone"])
        rest["groups"], rest["curve"] = tuple(rest["groups"]), tuple(curve)
        rest["coefficients"] = tuple(tuple(row) for row in coefficients)
        soup = LearnedSoup(**rest)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise FormatError(f"'{path}' is not a file of a learned soup's coefficients.") from error
    if other:
        raise OutputError(
            f"'{path}' holds a soup that was learnt from other models, data or settings; name "
            "another file."
        )
    return soup

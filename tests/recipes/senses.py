"""Tiny models that see or hear, and their text-only twins, written by transformers."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.anatomy.sizes import CLASSES

__all__ = ["logits", "reseeded", "save_model", "twin_of", "variant"]

_TOKENS = torch.tensor([[3, 9, 27, 11, 33, 5, 15, 45]])
_TWINS: Mapping[str, str] = {
    "llava": "LlamaForCausalLM",
    "qwen2_vl": "Qwen2ForCausalLM",
    "internvl": "Qwen2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
}
"""The class of the text-only model that has the language part of each family."""

_QUIET = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
_OWN: Mapping[str, Mapping[str, Any]] = {"qwen2_vl": {"rope_parameters": _ROPE}}


def _silent(call: Callable[[], Any]) -> Any:
    transformers.logging.set_verbosity_error()
    with contextlib.redirect_stderr(io.StringIO()):
        return call()


def save_model(family: str, folder: Path, seed: int = 0, **text: Any) -> str:
    """Write a model of a family of tests/anatomy with weights of a seed; its path.

    `text`: changes to the config of the language part.
    """
    name, options = CLASSES[family]
    kind = getattr(transformers, name)
    nested = "text_config" in options
    own = {**_QUIET, **_OWN.get(family, {}), **text}
    sizes = {**options["text_config"], **own} if nested else own
    config = {**options, "text_config": sizes} if nested else {**options, **sizes}
    return _write(kind(kind.config_class(**config)), folder, seed)


def _write(model: Any, folder: Path, seed: int) -> str:
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=draw)
    model.tie_weights()
    _silent(lambda: model.save_pretrained(folder))
    return str(folder)


def twin_of(family: str, model: str, folder: Path, seed: int | None = None) -> str:
    """Write the language part of a model as a model of text; with other weights for a seed."""
    kind = getattr(transformers, _TWINS[family])
    whole = _loaded(Path(model))
    options = whole.config.text_config.to_dict()
    options.pop("model_type", None)
    options.get("rope_parameters", {}).pop("mrope_section", None)
    options["tie_word_embeddings"] = whole.config.tie_word_embeddings
    twin = kind(kind.config_class(**options))
    language = whole.model.language_model.state_dict()
    twin.model.load_state_dict(language)
    twin.lm_head.load_state_dict(whole.lm_head.state_dict())
    if seed is not None:
        return _write(twin, folder, seed)
    twin.tie_weights()
    _silent(lambda: twin.save_pretrained(folder))
    return str(folder)


def reseeded(model: str, folder: Path, seed: int, size: float = 0.05) -> str:
    """Write a model a little apart from another."""
    draw = torch.Generator().manual_seed(seed)
    found = load_file(Path(model) / "model.safetensors")
    moved = {n: t + size * torch.randn(t.shape, generator=draw) for n, t in found.items()}
    return variant(model, folder, lambda _: moved)


def variant(
    model: str, folder: Path, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]],
    **config: Any,
) -> str:  # fmt: skip
    """Write a model with other tensors, and other values in its config."""
    folder.mkdir(parents=True)
    tensors = change(load_file(Path(model) / "model.safetensors"))
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    known = json.loads((Path(model) / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**known, **config}), "utf-8")
    return str(folder)


def _loaded(folder: Path) -> Any:
    """The model in a folder, as transformers loads it; every weight must be found."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    kind = getattr(transformers, config["architectures"][0])
    model, told = _silent(lambda: kind.from_pretrained(folder, output_loading_info=True))
    wrong = {key: told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    assert not any(wrong.values()), wrong
    return model.eval()


def logits(folder: str | Path, **inputs: Tensor) -> Tensor:
    """What transformers makes of a folder: logits of a few tokens, or of other inputs."""
    with torch.no_grad():
        found: Tensor = _loaded(Path(folder))(**(inputs or {"input_ids": _TOKENS})).logits
    assert bool(torch.isfinite(found).all())
    return found

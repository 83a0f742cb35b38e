"""A base and an expert with what codecs meet: long tensors, vectors, one element, none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["PARAMETERS", "SHAPES", "deltas", "pair", "save", "weights"]

SHAPES: Mapping[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (37, 24),
    "model.layers.0.self_attn.q_proj.weight": (24, 24),
    "model.layers.0.self_attn.k_proj.weight": (8, 24),
    "model.layers.0.mlp.up_proj.weight": (9_001, 61),  # three runs of a codec, the last short
    "model.layers.0.input_layernorm.weight": (24,),
    "model.layers.1.self_attn.q_proj.weight": (24, 24),
    "model.layers.1.self_attn.q_proj.bias": (24,),
    "model.layers.1.self_attn.o_proj.weight": (1, 1),
    "model.layers.1.input_layernorm.weight": (1,),
    "model.norm.weight": (24,),
    "model.nothing.weight": (0, 5),
    "lm_head.weight": (37, 24),
}
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "tie_word_embeddings": False,
}

PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "bitdelta": {},
    "compeft": {"density": 0.1},
    "dare_sparse": {"density": 0.3},
    "delta_come": {"bits": 2.0, "group": 16},
    "graftllm": {"attention_8": 1, "attention_4": 3, "attention_2": 5, "group": 16},
    "int4": {},
    "int8": {},
    "lora": {"rank": 3},
    "pruned": {"density": 0.1},
    "tsv_compress": {"density": 0.3},
}
"""Every codec, with parameters that fit small matrices."""


def weights(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The base (seed 0), or a model near it."""
    start, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    found = {"model.position_ids": torch.arange(7)}
    for name, shape in SHAPES.items():
        value = torch.randn(shape, generator=start) * 0.05
        if seed:
            value = value + torch.randn(shape, generator=own) * 0.01
        found[name] = value.to(dtype)
    return found


def save(folder: Path, tensors: Mapping[str, Tensor], **config: Any) -> Path:
    """A checkpoint with a config and a tokenizer file."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}), "utf-8")
    (folder / "tokenizer.json").write_text("{}", "utf-8")
    return folder


def pair(root: Path, dtype: torch.dtype = torch.float32) -> tuple[Path, Path]:
    """A base and an expert on disk."""
    return (
        save(root / "base", weights(0, dtype)),
        save(root / "expert", weights(1, dtype)),
    )


def deltas(base: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> float:
    """The Frobenius norm of all that differs between two models."""
    squares = (
        float((model[name].double() - value.double()).square().sum())
        for name, value in base.items()
        if value.is_floating_point()
    )
    return float(sum(squares)) ** 0.5

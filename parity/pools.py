"""Small random checkpoints: a base and four experts of each shape, in two dtypes.

Names and shapes come from transformers (instantiated without memory); the numbers are
drawn here, so that they depend on the seed alone. Matrices are N(0, 1/columns), the deltas
of the experts Student-t with 3 degrees of freedom at a tenth of that. Biases hardly move
(1e-4), as in fine-tuning: some faults of the peer show on such tensors only.

The bfloat16 pool is the float32 pool, rounded. So what the peer computes in float32 from
the rounded pool is the exact answer for a recipe that casts the float32 pool to bfloat16.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["EXPERTS", "FAMILIES", "Family", "Pool", "build_pools"]

EXPERTS = 4
_DEGREES = 3  # of freedom: heavy tails, as real deltas have
_MOVE = 0.1  # size of a delta beside its weight
_BIAS_MOVE = 1e-4


@dataclass(frozen=True, slots=True)
class Family:
    """One shape of model, and what its recipes may name.

    Attributes
    ----------
    name: of the pool. architecture: class in transformers. config: its config's fields.
    layers: number of layers. layers_key: the config's name for it.
    filters: pairs of substrings of names of tensors in the layers, the narrower one first.
    edges: the same for tensors outside of the layers; empty where there are none.
    shard_bytes: size of a shard, or None for one file.
    """

    name: str
    architecture: str
    config: dict[str, Any]
    layers: int
    layers_key: str
    filters: tuple[tuple[str, str], ...]
    edges: tuple[tuple[str, str], ...] = ()
    shard_bytes: int | None = None


_LLAMA_FILTERS = (("q_proj", "self_attn"), ("down_proj", "mlp"), ("input_layernorm", "norm"))
_LLAMA = {
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}

FAMILIES: tuple[Family, ...] = (
    Family(
        "llama",
        "LlamaForCausalLM",
        {
            **_LLAMA,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 4,
            "vocab_size": 56,
            "tie_word_embeddings": False,
        },
        4,
        "num_hidden_layers",
        _LLAMA_FILTERS,
        (("lm_head", "embed"),),
    ),
    Family(
        "llama-tied",
        "LlamaForCausalLM",
        {
            **_LLAMA,
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 3,
            "vocab_size": 40,
            "tie_word_embeddings": True,
        },
        3,
        "num_hidden_layers",
        _LLAMA_FILTERS,
    ),
    Family(
        "gpt2",
        "GPT2LMHeadModel",
        {
            "model_type": "gpt2",
            "n_embd": 24,
            "n_head": 4,
            "n_layer": 3,
            "n_positions": 32,
            "vocab_size": 48,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
        3,
        "n_layer",
        (("c_attn", "attn"), ("c_fc", "mlp"), ("bias", "ln_")),
        (("wpe", "wte"),),
    ),
    Family(
        "bert",
        # Its JSON definition is sound; those of BertModel (which fails on an optional buffer
        # with aliases) and BertForMaskedLM (which asks for a pooler) are not in 0.1.5.
        "BertForSequenceClassification",
        {
            "model_type": "bert",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "max_position_embeddings": 32,
            "vocab_size": 64,
        },
        3,
        "num_hidden_layers",
        (("query", "attention"), ("intermediate", "dense"), ("bias", "LayerNorm")),
        (("pooler", "embeddings"),),
        shard_bytes=12_000,
    ),
)


@dataclass(frozen=True, slots=True)
class Pool:
    """The folders of one family in one dtype: `models[0]` is the base."""

    family: Family
    dtype: str  # "float32" or "bfloat16"
    models: tuple[Path, ...]


def build_pools(folder: Path, seed: int) -> dict[tuple[str, str], Pool]:
    """Write every family in both dtypes under `folder`; by (family, dtype)."""
    pools = {}
    for number, family in enumerate(FAMILIES):
        config, shapes = _skeleton(family)
        base = _draw(shapes, np.random.default_rng([seed, number]))
        models = [base]
        for expert in range(EXPERTS):
            models.append(_tune(base, np.random.default_rng([seed, number, expert + 1])))
        for dtype in ("float32", "bfloat16"):
            paths = []
            for index, tensors in enumerate(models):
                name = "base" if index == 0 else f"expert{index}"
                paths.append(folder / f"{family.name}-{dtype}" / name)
                _write(paths[-1], tensors, config, dtype, family.shard_bytes)
            pools[family.name, dtype] = Pool(family, dtype, tuple(paths))
    return pools


def _skeleton(family: Family) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The config as transformers writes it, and the shapes of the tensors on disk."""
    import transformers

    kind = getattr(transformers, family.architecture)
    config = kind.config_class(**{k: v for k, v in family.config.items() if k != "model_type"})
    with torch.device("meta"):
        model = kind(config)
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}  # tied ones only once
    fields = {**config.to_dict(), "architectures": [family.architecture]}
    return fields, shapes


def _draw(shapes: dict[str, tuple[int, ...]], rng: np.random.Generator) -> dict[str, Tensor]:
    tensors = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape)
        if len(shape) > 1:
            values /= math.sqrt(shape[-1])
        elif name.endswith("bias"):
            values *= 0.02
        else:
            values = 1.0 + 0.1 * values
        tensors[name] = torch.from_numpy(values.astype(np.float32))
    return tensors


def _tune(base: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
    tensors = {}
    for name, value in base.items():
        size = _MOVE / math.sqrt(value.shape[-1])
        if value.ndim == 1:
            size = _BIAS_MOVE if name.endswith("bias") else _MOVE / 5
        delta = size * rng.standard_t(_DEGREES, tuple(value.shape))
        tensors[name] = value + torch.from_numpy(delta.astype(np.float32))
    return tensors


def _write(
    folder: Path, tensors: dict[str, Tensor], config: dict[str, Any], dtype: str, limit: int | None
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kind: torch.dtype = getattr(torch, dtype)
    cast = {name: value.to(kind) for name, value in tensors.items()}
    fields = {key: value for key, value in config.items() if key != "torch_dtype"}
    (folder / "config.json").write_text(json.dumps({**fields, "dtype": dtype}, indent=2))
    shards: list[dict[str, Tensor]] = [{}]
    for name, value in cast.items():
        held = sum(t.nbytes for t in shards[-1].values())
        if limit is not None and shards[-1] and held + value.nbytes > limit:
            shards.append({})
        shards[-1][name] = value
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors", {"format": "pt"})
        return
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file, {"format": "pt"})
        where |= dict.fromkeys(shard, file)
    size = sum(t.nbytes for t in cast.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

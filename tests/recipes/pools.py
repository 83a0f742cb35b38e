"""Tiny checkpoints, and short ways to plan and to merge them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from cermet import api
from cermet.recipes.plan import Plan, Task

HIDDEN, VOCAB = 16, 40
CARD = "---\nlicense: apache-2.0\n---\n"
Config = Mapping[str, Any]


def llama_config(layers: int = 2, **changes: Any) -> dict[str, Any]:
    """A config that transformers loads: hidden 16, 2 heads, vocabulary 40."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "num_hidden_layers": layers,
        "vocab_size": VOCAB,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }
    return {**config, **changes}


def llama(seed: int = 0, layers: int = 2, head: bool = True) -> dict[str, Tensor]:
    """Weights in the shape of a Llama; models of different seeds are unrelated."""
    own = torch.Generator().manual_seed(seed)

    def weight(*shape: int) -> Tensor:
        return torch.randn(shape, generator=own) * 0.1

    found = {"model.embed_tokens.weight": weight(VOCAB, HIDDEN)}
    for i in range(layers):
        place = f"model.layers.{i}."
        found[place + "input_layernorm.weight"] = 1 + weight(HIDDEN)
        for part in "qkvo":
            found[f"{place}self_attn.{part}_proj.weight"] = weight(HIDDEN, HIDDEN)
        found[place + "post_attention_layernorm.weight"] = 1 + weight(HIDDEN)
        found[place + "mlp.gate_proj.weight"] = weight(24, HIDDEN)
        found[place + "mlp.up_proj.weight"] = weight(24, HIDDEN)
        found[place + "mlp.down_proj.weight"] = weight(HIDDEN, 24)
    found["model.norm.weight"] = 1 + weight(HIDDEN)
    if head:
        found["lm_head.weight"] = weight(VOCAB, HIDDEN)
    return found


def save(folder: Path, tensors: Mapping[str, Tensor], config: Config | None = None) -> str:
    """Write a checkpoint of one file; its path as recipes name it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
        (folder / "README.md").write_text(CARD, "utf-8")
    return str(folder)


def save_llama(folder: Path, seed: int = 0, layers: int = 2, **changes: Any) -> str:
    """Write a Llama of a seed with its config."""
    return save(folder, llama(seed, layers), llama_config(layers, **changes))


def planned(recipe: Mapping[str, Any]) -> Plan:
    """The plan of a recipe given as a mapping."""
    return api.plan(recipe)


def task(plan: Plan, part: str) -> Task:
    """The one task whose name holds `part`."""
    (found,) = [t for t in plan.tasks if part in t.name]
    return found


def merged(recipe: Mapping[str, Any], out: Path, **options: Any) -> dict[str, Tensor]:
    """The tensors that a recipe makes."""
    api.merge(recipe, out, threads=1, **options)
    return dict(api.open(out))


def config_of(folder: Path | str) -> dict[str, Any]:
    """What config.json of a folder holds."""
    found: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text("utf-8"))
    return found


def write_recipe(folder: Path, text: str, **names: str) -> Path:
    """A YAML file with `$name` replaced by what stands for it."""
    for name, value in names.items():
        text = text.replace(f"${name}", value)
    path = folder / "recipe.yaml"
    path.write_text(text, "utf-8")
    return path

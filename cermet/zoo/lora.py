"""LoRA adapters of small decoders, made by peft."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cermet.core.errors import ExtraError

__all__ = ["Rank", "save_adapter", "with_adapter"]


@dataclass(frozen=True)
class Rank:
    """The size of an adapter: its change of a matrix is of this rank, times alpha / rank."""

    rank: int = 8
    alpha: int = 16


def with_adapter(model: Any, size: Rank, seed: int) -> Any:
    """The model with an adapter beside each matrix of its layers; only the adapter will learn.

    Raises ExtraError where peft is missing.
    """
    try:
        import peft
    except ImportError as error:
        raise ExtraError("Adapters need peft; install it with: pip install peft") from error
    config = peft.LoraConfig(
        r=size.rank,
        lora_alpha=size.alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config)


def save_adapter(model: Any, folder: Path, *, licence: str, about: str) -> None:
    """Write the adapter's weights, its config and a card; it does not say where its base is."""
    model.save_pretrained(folder)
    (folder / "adapter_model.safetensors").chmod(0o644)  # safetensors closes it to everyone else
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text("utf-8"))
    config["base_model_name_or_path"] = None  # a folder that pools are moved out of
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()  # peft keeps a set, whose order differs between runs
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    card = f"---\nlicense: {licence}\nlibrary_name: peft\n---\n\n{about}\n"
    (folder / "README.md").write_text(card, "utf-8")

"""LoRA adapters, made by peft."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from cermet.core.errors import ExtraError

__all__ = ["DECODER", "Rank", "Target", "ask_for_peft", "save_adapter", "with_adapter"]


@dataclass(frozen=True)
class Rank:
    """The size of an adapter: its change of a matrix is of this rank, times alpha / rank."""

    rank: int = 8
    alpha: int = 16


@dataclass(frozen=True)
class Target:
    """What is adapted: peft's word for the kind of model, and the modules, by the ends of names."""

    task: str
    modules: str | Sequence[str]


DECODER = Target("CAUSAL_LM", "all-linear")


def ask_for_peft() -> None:
    """ExtraError where peft is missing, before a build starts."""
    if find_spec("peft") is None:
        raise ExtraError("Adapters need peft; install it with: pip install peft")


def with_adapter(model: Any, size: Rank, seed: int, target: Target = DECODER) -> Any:
    """The model with an adapter beside each matrix of its layers; only the adapter will learn.

    Raises ExtraError where peft is missing.
    """
    ask_for_peft()
    import peft

    modules = target.modules if isinstance(target.modules, str) else list(target.modules)
    config = peft.LoraConfig(
        r=size.rank, lora_alpha=size.alpha, target_modules=modules, task_type=target.task
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config)


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter's weights and its config, which does not say where its base is."""
    model.save_pretrained(folder)
    (folder / "adapter_model.safetensors").chmod(0o644)  # safetensors closes it to everyone else
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text("utf-8"))
    config["base_model_name_or_path"] = None  # a folder that pools are moved out of
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()  # peft keeps a set, whose order differs between runs
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")

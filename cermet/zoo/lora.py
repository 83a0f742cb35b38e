"""LoRA experts: low-rank factors tuned by peft beside a frozen encoder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from cermet.core.errors import ExtraError
from cermet.inference.encoder import Encoder
from cermet.zoo.base import HUB_NAME
from cermet.zoo.train import Lesson, Settings, train

__all__ = ["Low", "ask_for_peft", "tune_adapter"]

_MODULES = ("query", "key", "value", "intermediate.dense", "output.dense")
"""All matrices of the layers, and not the pooler, which mean pooling does not use."""


@dataclass(frozen=True)
class Low:
    """Rank and alpha of the factors; the update of a weight is alpha / rank * B @ A."""

    rank: int = 16
    alpha: int = 32


def ask_for_peft() -> None:
    """ExtraError where peft is missing."""
    if find_spec("peft") is None:
        raise ExtraError("LoRA experts are tuned by peft; install it with: pip install peft")


def tune_adapter(
    base: Path,
    lessons: Sequence[Lesson],
    settings: Settings,
    low: Low,
    seed: int,
    out: Path,
    tick: Callable[[int, int], None],
) -> None:
    """Tune an adapter of the base, and write it into a folder as peft would, with names sorted."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    encoder = Encoder(base)
    written: dict[str, Any] = {
        "peft_type": "LORA",
        "base_model_name_or_path": HUB_NAME,
        "task_type": "FEATURE_EXTRACTION",
        "r": low.rank,
        "lora_alpha": low.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(_MODULES),
        "inference_mode": True,
    }
    config = LoraConfig(**{**written, "inference_mode": False, "target_modules": list(_MODULES)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # the first A is drawn at random
        encoder.model = get_peft_model(encoder.model, config).eval()
    train(encoder, lessons, settings, seed, tick)
    factors = {n: t.contiguous() for n, t in get_peft_model_state_dict(encoder.model).items()}
    save_file(factors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    (out / "adapter_model.safetensors").chmod(0o644)  # safetensors closes it to everyone else
    (out / "adapter_config.json").write_text(json.dumps(written, indent=2) + "\n", "utf-8")

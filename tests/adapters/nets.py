"""A small network with every kind of module that PEFT adapts, and adapters of it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Net", "adapted", "expected", "save_adapter"]


class Net(nn.Module):
    """An embedding, linear maps (one stored transposed), a convolution."""

    def __init__(self) -> None:
        from transformers.pytorch_utils import Conv1D

        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embed = nn.Embedding(12, 6)
            self.up = nn.Linear(6, 8)
            self.down = nn.Linear(8, 6)
            self.turned = Conv1D(10, 6)
            self.conv = nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Not called."""
        return x


def save_adapter(folder: Path, seed: int, targets: list[str], **settings: Any) -> Path:
    """A random adapter of the network, saved by PEFT."""
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(Net(), LoraConfig(target_modules=targets, **settings))
        own = torch.Generator().manual_seed(seed)
        for name, value in wrapped.named_parameters():
            if value.requires_grad or "lora_" in name:
                value.data.add_(torch.randn(value.shape, generator=own), alpha=0.3)
        wrapped.save_pretrained(str(folder))
    return folder


def adapted(folder: Path) -> dict[str, Tensor]:
    """What PEFT makes of the network with an adapter."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys.*")
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
        merged = PeftModel.from_pretrained(Net(), str(folder)).merge_and_unload()
    return {name: value.detach().double() for name, value in merged.state_dict().items()}


def expected(given: Mapping[Path, float]) -> dict[str, Tensor]:
    """The network plus the weighted changes that PEFT makes with each adapter."""
    base = {name: value.double() for name, value in Net().state_dict().items()}
    total = {name: value.clone() for name, value in base.items()}
    for folder, weight in given.items():
        for name, value in adapted(folder).items():
            total[name] += weight * (value - base[name])
    return total

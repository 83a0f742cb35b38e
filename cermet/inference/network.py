"""A module of transformers that takes the weights of one checkpoint after another.

Building a module costs more than filling it, so a module is kept for all checkpoints with one
config. What is stored under the module's own names is copied; anything else (older names, PyTorch
files, fused tensors) goes through transformers, which has the last word on what is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cermet.checkpoints.reader import open_checkpoint
from cermet.core.errors import InputError
from cermet.inference.loading import Kind, config_in, load_module

__all__ = ["Network"]

_NOT_THE_MODEL = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")
_LONGEST = 2048


class Network:
    """A network in float32, with the weights of one folder at a time.

    Parameters
    ----------
    folder: a Hugging Face folder. kind: what it is run as. device: where.

    Raises what `load_module` raises, and InputError for a model that is not causal, asked as one.
    """

    def __init__(self, folder: Path, kind: Kind, device: str = "cpu") -> None:
        self._kind, self._device = kind, torch.device(device)
        self._stands: dict[str, Any]
        self._begin(folder)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    @property
    def config(self) -> Any:
        """transformers' config; of the language model inside, where there is one."""
        return self.module.config.get_text_config()

    @property
    def longest(self) -> int:
        """Tokens that it reads at a time: as many as it has positions, 2,048 at most."""
        config = self.config
        named = (getattr(config, n, None) for n in ("max_position_embeddings", "n_positions"))
        positions = min((n for n in named if isinstance(n, int) and n > 0), default=_LONGEST)
        inside = getattr(self.module, "base_model", self.module)
        table = getattr(getattr(inside, "embeddings", None), "position_embeddings", None)
        lead = getattr(table, "padding_idx", None)  # RoBERTa counts from behind this one
        return min(positions - (0 if lead is None else lead + 1), _LONGEST)

    def check_tokens(self, highest: int) -> None:
        """InputError where the model has no embedding for the highest token of some texts."""
        table = getattr(self.module.get_input_embeddings(), "weight", None)
        if table is None:
            raise InputError(f"'{self.folder}' ({type(self.module).__name__}) reads no texts.")
        known = int(table.shape[0])
        if highest >= known:
            raise InputError(
                f"The tokenizer of '{self.folder}' gives token {highest}, but the model knows "
                f"{known} tokens."
            )

    def moved(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the CPU, on the network's device; work that goes on there is not waited for.

        Only what is pinned is copied beside that work, and torch keeps it until the copy is made.
        """
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def load(self, folder: Path) -> None:
        """Take the weights of another folder, and its architecture where that is another."""
        if _config(folder) != self._stands or not self._copied(folder):
            self._begin(folder)
        self.folder = folder

    def _begin(self, folder: Path) -> None:
        self.folder = folder
        self._stands = _config(folder)
        self._loaded = load_module(folder, self._kind)
        self.module: Any = self._loaded.module
        self.module.requires_grad_(False).eval().to(self._device)
        if self._kind == "causal":
            self._check_causal()

    def _copied(self, folder: Path) -> bool:
        """Whether every weight was found under the module's own names, and copied."""
        checkpoint = open_checkpoint(folder)
        own: dict[str, torch.Tensor] = self.module.state_dict()
        names = list(checkpoint.tensors)
        places = {
            n: self._loaded.place(n, own)
            for n in names
            if n not in self._loaded.passed_over and not self._loaded.beside(n, names)
        }
        if None in places.values() or any(
            tuple(own[p].shape) != checkpoint.tensors[n].shape for n, p in places.items() if p
        ):
            return False
        filled = {own[p].data_ptr() for p in places.values() if p}
        if any(t.data_ptr() not in filled and not self._loaded.unread(n) for n, t in own.items()):
            return False
        if len(filled) < len(places):  # both of two tied tensors are stored: transformers decides
            return False
        for name, place in places.items():
            if place is not None:
                block = checkpoint.block(name, 0, own[place].numel())
                own[place].copy_(block.view(own[place].shape))
        return True

    def _check_causal(self) -> None:
        """InputError where a token's logits depend on the token after it."""
        with torch.inference_mode():
            pairs = torch.tensor([[0, 0], [0, 1]], device=self._device)
            one, other = self.module(input_ids=pairs, use_cache=False).logits[:, 0].float()
        if bool((one - other).abs().max() > 1e-3 * (1 + one.abs().max())):
            raise InputError(
                f"'{self.folder}' ({type(self.module).__name__}) looks at the tokens to come, so "
                "it is no causal language model."
            )


def _config(folder: Path) -> dict[str, Any]:
    """All of a config that decides what the module is and computes."""
    return {k: v for k, v in config_in(folder).items() if k not in _NOT_THE_MODEL}

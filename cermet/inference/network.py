"""A module of transformers that takes the weights of one checkpoint after another.

Building a module costs more than filling it, so a module is kept for all checkpoints with one
config. What is stored under the module's own names is copied; anything else (older names, PyTorch
files, fused tensors) goes through transformers, which has the last word on what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cermet.checkpoints.reader import open_checkpoint, read_config
from cermet.core.errors import ExtraError, FormatError, InputError, MismatchError
from cermet.inference.encoder import quiet

__all__ = ["Kind", "Network"]

Kind = Literal["encoder", "classifier", "causal"]

_AUTO: Mapping[Kind, str] = {
    "encoder": "AutoModel",
    "classifier": "AutoModelForSequenceClassification",
    "causal": "AutoModelForCausalLM",
}
_CALLED: Mapping[Kind, str] = {
    "encoder": "encoder",
    "classifier": "sequence classifier",
    "causal": "causal language model",
}
_NOT_THE_MODEL = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")
_LONGEST = 2048
_UNREAD = "pooler."  # of an encoder: pooled vectors are made from its hidden states


class Network:
    """A network in float32, with the weights of one folder at a time.

    Parameters
    ----------
    folder: a Hugging Face folder. kind: what it is run as. device: where.

    Raises ExtraError without transformers, InputError where the folder holds no such model,
    FormatError where it cannot be read, MismatchError where its tensors are not the model's.
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

    def load(self, folder: Path) -> None:
        """Take the weights of another folder, and its architecture where that is another."""
        if _config(folder) != self._stands or not self._copied(folder):
            self._begin(folder)
        self.folder = folder

    def _begin(self, folder: Path) -> None:
        self.folder = folder
        self._stands = _config(folder)
        self.module, report = _loaded(folder, self._kind)
        names = list(open_checkpoint(folder).tensors)
        self._prefix = f"{self.module.base_model_prefix}."
        own = self.module.state_dict()
        unexpected = {n for n in report["unexpected_keys"] if not self._beside(n, names)}
        missing = {n for n in report["missing_keys"] if not self._unread(n)}
        changed = {n for n, *_ in report["mismatched_keys"]}
        self._refuse(missing, unexpected, changed)
        self._skipped = {
            n for n in names if self._place(n, own) is None and n not in report["unexpected_keys"]
        }
        self.module.requires_grad_(False).eval().to(self._device)
        if self._kind == "causal":
            self._check_causal()

    def _copied(self, folder: Path) -> bool:
        """Whether every weight was found under the module's own names, and copied."""
        checkpoint = open_checkpoint(folder)
        own: dict[str, Tensor] = self.module.state_dict()
        names = list(checkpoint.tensors)
        places = {
            n: self._place(n, own)
            for n in names
            if n not in self._skipped and not self._beside(n, names)
        }
        if None in places.values() or any(
            tuple(own[p].shape) != checkpoint.tensors[n].shape for n, p in places.items() if p
        ):
            return False
        filled = {own[p].data_ptr() for p in places.values() if p}
        if any(t.data_ptr() not in filled and not self._unread(n) for n, t in own.items()):
            return False
        if len(filled) < len(places):  # both of two tied tensors are stored: transformers decides
            return False
        for name, place in places.items():
            if place is not None:
                block = checkpoint.block(name, 0, own[place].numel())
                own[place].copy_(block.view(own[place].shape))
        return True

    def _place(self, name: str, own: Mapping[str, Tensor]) -> str | None:
        """The module's name of a tensor, with or without the prefix of a model with a head."""
        spellings = (name, self._prefix + name, name.removeprefix(self._prefix))
        return next((n for n in spellings if n in own), None)

    def _beside(self, name: str, names: list[str]) -> bool:
        """Whether a tensor is of a head that a checkpoint holds beside its encoder."""
        headed = any(n.startswith(self._prefix) for n in names)
        return self._kind == "encoder" and headed and not name.startswith(self._prefix)

    def _unread(self, name: str) -> bool:
        return self._kind == "encoder" and name.startswith(_UNREAD)

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

    def _refuse(self, missing: set[str], unexpected: set[str], changed: set[str]) -> None:
        called = _CALLED[self._kind]
        if missing:
            raise InputError(f"'{self.folder}' is not a whole {called}: it lacks '{min(missing)}'.")
        if unexpected:
            raise MismatchError(
                f"'{self.folder}' holds '{min(unexpected)}', which is no part of its {called} "
                f"({type(self.module).__name__})."
            )
        if changed:
            raise MismatchError(
                f"'{self.folder}': tensor '{min(changed)}' has another shape than its config says."
            )


def _config(folder: Path) -> dict[str, Any]:
    """All of a config that decides what the module is and computes."""
    if not (folder / "config.json").is_file():
        raise InputError(f"'{folder}' is not a checkpoint folder: it holds no config.json.")
    return {k: v for k, v in read_config(folder).items() if k not in _NOT_THE_MODEL}


def _loaded(folder: Path, kind: Kind) -> tuple[Any, dict[str, Any]]:
    try:
        import transformers
    except ImportError as error:
        raise ExtraError(
            "Running a model needs transformers; install it with: pip install 'cermet[load]'"
        ) from error
    try:
        with quiet(transformers.utils.logging):
            module, report = getattr(transformers, _AUTO[kind]).from_pretrained(
                folder,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        if "Unrecognized configuration class" in str(error):
            called = read_config(folder).get("model_type")
            raise InputError(
                f"'{folder}' ({called}) cannot be run as a {_CALLED[kind]}."
            ) from error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise FormatError(f"'{folder}' cannot be loaded as a {_CALLED[kind]}: {reason}") from error
    return module, report

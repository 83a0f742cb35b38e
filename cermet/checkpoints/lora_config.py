"""`adapter_config.json` of a PEFT LoRA adapter: what is read, and what is refused.

An adapter is refused where its weights alone do not say what the adapted model is: methods
other than LoRA, variants that act per token or at random, and initialisations that changed
the base (the saved A and B then belong to another base than the one on disk).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cermet.checkpoints.header import read_json
from cermet.core.errors import FormatError

__all__ = ["AdapterConfig", "parse_adapter_config", "read_adapter_config"]

# LoRA settings under which base + scale * B @ A is not the adapted model
_REFUSED = {
    "layer_replication": "it repeats layers of the base; build the deeper base first, with slices",
    "alora_invocation_tokens": "it acts on some tokens only, so no merged weight equals it",
    "arrow_config": "it picks among adapters per token, so no merged weight equals it",
    "kasa_config": "it truncates the base by an SVD when it is loaded",
    "monteclora_config": "it samples its weights",
    "use_bdlora": "its factors are block-diagonal",
    "use_qalora": "it pools the inputs of a quantised base",
    "megatron_config": "its layers are sharded over machines",
}
# settings of training that leave the formula as it is
_HARMLESS = {
    "use_rslora",
    "use_dora",
    "velora_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "loftq_config",
    "runtime_config",
}
_LARGEST = 1e30  # of alpha: beyond, float32 ends; false for NaN, unlike its opposite
_Value = TypeVar("_Value")
# what keeps the time of a match within the cube of a name's length
_LONGEST_PATTERN, _MOST_REPEATS = 1_000, 3
_REPEATED_GROUP = re.compile(r"\)[*+{]")
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The settings that the maths needs.

    Attributes
    ----------
    file: the configuration file, for messages.
    rank, alpha: the defaults r and lora_alpha.
    rank_pattern, alpha_pattern: exceptions, from a regular expression on the module's name.
    rslora: scale by alpha / sqrt(r) instead of alpha / r.
    dora: every adapted module has a magnitude vector.
    fan_in_fan_out: adapted matrices are stored as [in, out].
    parameters: `target_parameters`, names of parameters that are adapted without a module.
    tokens: `trainable_token_indices`; of every embedding (a list), or by the module's name.
    """

    file: Path
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rslora: bool
    dora: bool
    fan_in_fan_out: bool
    parameters: tuple[str, ...]
    tokens: list[int] | dict[str, list[int]] | None

    def rank_of(self, module: str) -> int:
        """The rank r that the configuration gives to a module (its full name in PEFT)."""
        return _first_match(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str) -> float:
        """The factor on B @ A of a module (its full name in PEFT)."""
        rank, alpha = self.rank_of(module), _first_match(self.alpha_pattern, module, self.alpha)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank

    def token_rows(self, module: str) -> list[int]:
        """The vocabulary rows that a module's token adapter replaces, in the order saved.

        Raises
        ------
        FormatError: the configuration names none for this module.
        """
        if isinstance(self.tokens, list):
            return self.tokens
        for key, rows in (self.tokens or {}).items():
            if module == key or module.endswith(f".{key}"):
                return rows
        raise FormatError(
            f"{self.file}: 'trainable_token_indices' says nothing of {module!r}, "
            "for which the adapter holds trained tokens"
        )


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read and check `adapter_config.json` of an adapter folder.

    Raises
    ------
    FormatError: missing or damaged, not LoRA, or LoRA of a kind that cannot be applied to the
        base as it is; the message names the setting.
    """
    file = folder / "adapter_config.json"
    if not file.is_file():
        raise FormatError(f"{file}: no such file; expected the folder of a PEFT adapter")
    return parse_adapter_config(file, read_json(file, "the adapter's configuration"))


def parse_adapter_config(file: Path, raw: Mapping[str, Any]) -> AdapterConfig:
    """Check what `adapter_config.json` holds; `file` is what messages call it.

    Raises FormatError as `read_adapter_config`.
    """
    _refuse(file, raw)
    return AdapterConfig(
        file=file,
        rank=_rank(file, "r", raw.get("r", 8)),
        alpha=_number(file, "lora_alpha", raw.get("lora_alpha", 8)),
        rank_pattern={k: _rank(file, k, v) for k, v in _pattern(file, raw, "rank_pattern")},
        alpha_pattern={k: _number(file, k, v) for k, v in _pattern(file, raw, "alpha_pattern")},
        rslora=_flag(file, raw, "use_rslora"),
        dora=_flag(file, raw, "use_dora"),
        fan_in_fan_out=_flag(file, raw, "fan_in_fan_out"),
        parameters=_names(file, raw.get("target_parameters")),
        tokens=_tokens(file, raw.get("trainable_token_indices")),
    )


def _refuse(file: Path, raw: Mapping[str, Any]) -> None:
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise FormatError(
            f"{file}: 'peft_type' is {kind!r}; only LoRA adapters can be applied to weights. "
            "Merge this one with PEFT first and give Cermet the merged model."
        )
    for key, reason in _REFUSED.items():
        if raw.get(key):
            raise FormatError(f"{file}: {key!r} is set and not supported: {reason}")
    for key, value in raw.items():
        # a variant newer than this list: better refused than applied by the wrong formula
        variant = key.startswith("use_") or key.endswith("_config")
        if variant and value and key not in _HARMLESS:
            raise FormatError(f"{file}: {key!r} is set; Cermet does not know this variant of LoRA")
    start = str(raw.get("init_lora_weights", True)).lower()
    if start.startswith(_CHANGES_BASE):
        raise FormatError(
            f"{file}: 'init_lora_weights' is {start!r}, which changed the base before training, so "
            "this adapter does not fit the original base. Save it again in PEFT with "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...), which converts it."
        )


def _first_match(patterns: Mapping[str, _Value], module: str, default: _Value) -> _Value:
    """PEFT's rule: the first pattern that matches the name, whole or after a dot."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _pattern(file: Path, raw: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    patterns = raw.get(key) or {}
    if not isinstance(patterns, dict):
        raise FormatError(f"{file}: {key!r} must be an object, not {patterns!r}")
    for pattern in patterns:
        if (
            len(pattern) > _LONGEST_PATTERN
            or _REPEATED_GROUP.search(pattern)
            or (sum(map(pattern.count, "*+{")) > _MOST_REPEATS)
        ):
            raise FormatError(
                f"{file}: {key!r} holds {pattern[:80]!r}, a regular expression that could take "
                "for ever: it repeats a group, or too many parts. Write the modules out."
            )
        try:
            re.compile(rf"(.*\.)?({pattern})$")
        except (re.error, OverflowError, RecursionError) as error:
            raise FormatError(
                f"{file}: {key!r} holds {pattern!r}, which is not a regular expression: {error}"
            ) from None
    return list(patterns.items())


def _rank(file: Path, key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise FormatError(
            f"{file}: the rank {key!r} must be a positive whole number, not {value!r}"
        )
    return value


def _number(file: Path, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
        raise FormatError(f"{file}: the alpha {key!r} must be a finite number, not {value!r}")
    return value


def _flag(file: Path, raw: Mapping[str, Any], key: str) -> bool:
    value = raw.get(key) or False
    if not isinstance(value, bool):
        raise FormatError(f"{file}: {key!r} must be true or false, not {value!r}")
    return value


def _names(file: Path, value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise FormatError(f"{file}: 'target_parameters' must be a list of names, not {value!r}")
    return tuple(value)


def _tokens(file: Path, value: object) -> list[int] | dict[str, list[int]] | None:
    if value is None:
        return None
    if isinstance(value, dict):
        return {name: _rows(file, rows) for name, rows in value.items()}
    return _rows(file, value)


def _rows(file: Path, value: object) -> list[int]:
    whole = isinstance(value, list) and all(type(row) is int and row >= 0 for row in value)
    if not isinstance(value, list) or not whole or len(set(value)) != len(value):
        raise FormatError(
            f"{file}: 'trainable_token_indices' must list different token numbers, not {value!r}"
        )
    return value

"""Writing a LoRA adapter as PEFT saves it: the names of its tensors, and its configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["FACTORS", "adapter_config", "adapter_name"]

FACTORS = ("A", "B")
"""The parts of an adapted matrix: [rank, in] and [out, rank]."""

_TASKS = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0]


def adapter_name(
    tensor: str, part: str, adapted: Collection[str], *, embedding: bool = False
) -> str:
    """What PEFT calls a part of a tensor of the model; `adapted`: the matrices with factors.

    A tensor that is kept whole has its own name; a vector beside an adapted matrix is that of
    the layer which PEFT puts the adapter around.
    """
    prefix = f"base_model.model.{_module(tensor)}"
    if part in FACTORS and embedding:
        return f"{prefix}.lora_embedding_{part}"
    if part in FACTORS:
        return f"{prefix}.lora_{part}.weight"
    if f"{_module(tensor)}.weight" in adapted:
        return f"{prefix}.base_layer.{tensor.rpartition('.')[2]}"
    return f"base_model.model.{tensor}"


def adapter_config(
    ranks: Mapping[str, int],
    whole: Collection[str],
    everything: Collection[str],
    *,
    base: str,
    architectures: Collection[str],
    transposed: bool,
) -> dict[str, Any]:
    """`adapter_config.json`, with a factor of 1 everywhere.

    Parameters
    ----------
    ranks: adapted matrix -> rank. whole: tensors that are kept whole. everything: all tensors of
        the model. base: its name. architectures: of its config. transposed: matrices are [in, out].
    """
    modules = {_module(name): rank for name, rank in ranks.items()}
    largest = max(modules.values(), default=1)
    pattern = {module: rank for module, rank in modules.items() if rank != largest}
    beside = {_module(name) for name in whole} - modules.keys()
    known = {_module(name) for name in everything}
    task = next((v for a in architectures for end, v in _TASKS.items() if a.endswith(end)), None)
    return {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base,
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": pattern,
        "alpha_pattern": dict(pattern),
        "target_modules": _short(modules.keys(), known),
        "modules_to_save": _short(beside, known) or None,
        "bias": "all" if {_module(name) for name in whole} & modules.keys() else "none",
        "fan_in_fan_out": transposed,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }


def _short(modules: Collection[str], known: Collection[str]) -> list[str]:
    """The last parts of modules' names, where they stand for these alone; else the names."""
    found = set[str]()
    for module in modules:
        last = module.rpartition(".")[2]
        alike = {other for other in known if other.endswith(last)}
        found.add(last if alike <= set(modules) else module)
    return sorted(found)

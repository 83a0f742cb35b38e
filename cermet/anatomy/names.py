"""Tensor names in one spelling: `encoder.LayerNorm.gamma` -> module `encoder.layer_norm`."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Split", "index_of", "module_of", "snake", "split"]

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_INDEX = re.compile(r"0|[1-9]\d{0,4}", re.ASCII)
_WEIGHT_LEAVES = frozenset(
    {"weight", "kernel", "gamma", "weight_g", "weight_v", "original0", "original1"}
    | {"running_mean", "running_var", "weight_scale", "weight_scale_inv"}
)
_BIAS_LEAVES = frozenset({"bias", "beta"})
_WRAPPERS = frozenset({"parametrizations", "weight", "base_layer"})


@dataclass(frozen=True, slots=True)
class Split:
    """A tensor's name taken apart, all components in lower snake case.

    Attributes
    ----------
    module: components of the linear map, norm or parameter; numbers are kept.
    leaf: what follows the module: ``weight``, ``bias``, or the parameter's own name.
    bias: whether the name says that the tensor is added to the module's output.
    """

    module: tuple[str, ...]
    leaf: str
    bias: bool

    @property
    def last(self) -> str:
        """Last component of the module that is not a number; empty where there is none."""
        return next((t for t in reversed(self.module) if not t.isdigit()), "")

    @property
    def path(self) -> str:
        """The module's components joined with dots."""
        return ".".join(self.module)


def snake(component: str) -> str:
    """Lower snake case: ``EncDecAttention`` -> ``enc_dec_attention``, ``A_log`` -> ``a_log``."""
    return _HUMP.sub("_", component).lower()


def index_of(component: str) -> int | None:
    """The number that a component is, as a list of modules counts: no leading zeros, no more
    than five digits.
    """
    return int(component) if _INDEX.fullmatch(component) else None


def split(name: str) -> Split:
    """Take a dotted name apart into module, leaf and whether it is a bias.

    A parameter without a module of its own (``A_log``, ``in_proj_bias``) is its own module.
    """
    parts = tuple(snake(c) for c in name.split("."))
    leaf = parts[-1]
    if leaf in _WEIGHT_LEAVES or leaf in _BIAS_LEAVES:
        module, bias = parts[:-1], leaf in _BIAS_LEAVES
    elif leaf.endswith("_bias"):
        module, bias = (*parts[:-1], leaf.removesuffix("_bias")), True
    elif leaf.startswith("bias_"):
        module, bias = (*parts[:-1], leaf.removeprefix("bias_")), True
    elif leaf.endswith("_weight"):
        module, bias = (*parts[:-1], leaf.removesuffix("_weight")), False
    else:
        module, bias = parts, False
    return Split(tuple(m for m in module if m not in _WRAPPERS), leaf, bias)


def module_of(name: str) -> str:
    """The part of a name that the weight and the bias of one module share, as it is spelt."""
    head, _, leaf = name.rpartition(".")
    for ending in ("_bias", "_weight"):
        if leaf.endswith(ending):
            return f"{head}.{leaf.removesuffix(ending)}"
    return head if leaf in _WEIGHT_LEAVES or leaf in _BIAS_LEAVES else name

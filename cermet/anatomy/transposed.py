"""Which matrices are stored as [in, out] instead of [out, in]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cermet.anatomy.layers import text_path
from cermet.anatomy.names import module_of, split
from cermet.anatomy.roles import Part
from cermet.anatomy.stacks import Spot
from cermet.core.types import Role

__all__ = ["find_transposed"]

_CONV1D_MODELS = frozenset(
    {"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "gpt-sw3", "clvp"}
)
_CONV1D_NAMES = frozenset({"c_attn", "c_proj", "c_fc", "q_attn"})
_RIGHT_FACTORS = frozenset({"mm_input_projection"})  # Gemma 3: input @ weight, by its code

Shapes = Mapping[str, tuple[int, ...]]


def find_transposed(
    shapes: Shapes,
    spots: Mapping[str, Spot],
    parts: Mapping[str, Part],
    config: Mapping[str, Any],
) -> frozenset[str]:
    """The names of the matrices that are stored as [in, out].

    A bias is as long as its matrix has outputs, which settles every matrix that is not square;
    a square one follows the others of its stack. Where no shape tells, the model type does.
    Fused experts [experts, ., .] are judged by the hidden size in the config.
    """
    votes = _votes(shapes)
    stacks: dict[str, set[bool]] = {}
    for name, vote in votes.items():
        if vote is not None and spots[name].layer is not None:
            stacks.setdefault(spots[name].stack, set()).add(vote)
    conv1d = str(config.get("model_type")) in _CONV1D_MODELS
    found = set()
    for name in shapes:
        module = split(spots[name].inner)
        vote = votes.get(name)
        if vote is None and name in votes and spots[name].layer is not None:
            vote = stacks.get(spots[name].stack) == {True}
            vote = vote or (conv1d and module.last in _CONV1D_NAMES)
        matrix = len(shapes[name]) == 2 and not module.bias
        if vote or (matrix and module.last in _RIGHT_FACTORS):
            found.add(name)
    return frozenset(found) | _experts(shapes, parts, config)


def _votes(shapes: Shapes) -> dict[str, bool | None]:
    """For each matrix with a bias: whether it is [in, out]; None where both sides are equal."""
    biases = {
        module_of(name): shape[0]
        for name, shape in shapes.items()
        if len(shape) == 1 and split(name).bias
    }
    votes: dict[str, bool | None] = {}
    for name, shape in shapes.items():
        length = biases.get(module_of(name))
        if len(shape) == 2 and length in shape:
            votes[name] = length == shape[1] if shape[0] != shape[1] else None
    return votes


def _experts(
    shapes: Shapes, parts: Mapping[str, Part], config: Mapping[str, Any]
) -> frozenset[str]:
    """Fused experts: the side of hidden size is the input of gate and up, the output of down."""
    inner: Any = config
    for step in text_path(config):
        inner = inner[step]
    hidden = inner.get("hidden_size")
    verdicts: dict[str, list[bool]] = {}
    fused: dict[str, str] = {}
    for name, shape in shapes.items():
        part = parts[name]
        known = part.role in (Role.GATE_UP, Role.GATE, Role.UP, Role.DOWN)
        if len(shape) != 3 or part.bias or not known:
            continue
        fused[name] = module_of(name).rpartition(".")[0]
        if hidden in shape[1:] and shape[1] != shape[2]:
            down = part.role is Role.DOWN
            verdicts.setdefault(fused[name], []).append((shape[1] == hidden) != down)
    return frozenset(n for n, parent in fused.items() if all(verdicts.get(parent, [False])))

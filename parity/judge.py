"""One case: our output beside the peer's, tensor by tensor."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from parity.chance import explain
from parity.compare import Verdict, no_worse, within_one_unit, within_relative
from parity.doubt import find_doubt
from parity.faults import fault_of_dtype, fault_of_values
from parity.inputs import Checkpoint, Group, groups
from parity.recipes import Case

__all__ = ["CONFIG_KEYS", "Outcome", "judge"]

CONFIG_KEYS = (
    "architectures",
    "hidden_size",
    "model_type",
    "n_embd",
    "n_layer",
    "num_attention_heads",
    "num_hidden_layers",
    "tie_word_embeddings",
    "vocab_size",
)
"""Keys of config.json that both outputs must agree on."""

_FEW = 64  # elements: two masks of fewer may be equal by chance


@dataclass
class Outcome:
    """What came of one case.

    error: worst relative error in float32. units: worst error in bfloat16 units. rest:
    worst rest of a random output that no subset of experts explains,
    as a share of what rounding allows.
    """

    case: Case
    problems: list[str] = field(default_factory=list)
    tensors: int = 0
    elements: int = 0
    compared: int = 0
    error: float = 0.0
    units: float = 0.0
    rest: float = 0.0
    explained: int = 0
    excused: Counter[str] = field(default_factory=Counter)

    @property
    def doubtful(self) -> int:
        """Elements at a threshold, which were not compared."""
        return self.elements - self.compared


def judge(case: Case, ours: Path, peer: Path, twin: Path, pool: dict[str, Checkpoint]) -> Outcome:
    """Compare the model in `ours` with the peer's.

    peer: the peer's model for the same recipe. twin: the peer's model for the case's twin
    recipe (the same folder as `peer` where the case has none).
    """
    outcome = Outcome(case)
    own, theirs = Checkpoint(ours), Checkpoint(peer)
    answer = theirs if twin == peer else Checkpoint(twin)
    outcome.problems += _names(own.tensors, theirs.tensors) + _configs(own, theirs)
    plan = json.loads((twin / "plan.json").read_text())
    masks: dict[tuple[tuple[int, ...], bytes], str] = {}
    for name, group in groups(case.method, plan, pool):
        if name not in own.tensors or name not in theirs.tensors:
            continue
        outcome.tensors += 1
        tensor = own.tensors[name]
        for problem in _metadata(outcome, tensor, theirs.tensors[name], group):
            outcome.problems.append(f"{name}: {problem}")
        if tensor.shape != answer.tensors[name].shape:
            continue
        if case.kind == "random":
            found = _random(outcome, tensor, theirs.tensors[name], group, name, masks)
        else:
            found = _exact(outcome, tensor, theirs.tensors[name], answer.tensors[name], group)
        if found:
            outcome.problems.append(f"{name}: {found}")
    if case.kind == "random" and not outcome.explained:
        outcome.problems.append("no tensor was large enough to explain its masks")
    return outcome


def _names(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    missing, extra = sorted(theirs.keys() - ours.keys()), sorted(ours.keys() - theirs.keys())
    found = [f"{len(missing)} tensors missing, first '{missing[0]}'"] if missing else []
    return found + ([f"{len(extra)} tensors too many, first '{extra[0]}'"] if extra else [])


def _configs(ours: Checkpoint, theirs: Checkpoint) -> list[str]:
    found = []
    for key in CONFIG_KEYS:
        own, wanted = ours.config.get(key), theirs.config.get(key)
        if own != wanted:
            found.append(f"config.json: {key} is {own!r}, the peer's {wanted!r}")
    kinds = {str(t.dtype).removeprefix("torch.") for t in ours.tensors.values()}
    stated = ours.config.get("dtype", ours.config.get("torch_dtype"))
    if kinds != {stated}:
        found.append(f"config.json: dtype is {stated!r}, the tensors are {sorted(kinds)}")
    return found


def _metadata(outcome: Outcome, own: Tensor, theirs: Tensor, group: Group) -> list[str]:
    if own.shape != theirs.shape:
        return [f"shape {tuple(own.shape)}, the peer's {tuple(theirs.shape)}"]
    if own.dtype == theirs.dtype:
        return []
    fault = fault_of_dtype(group)
    if fault is None:
        return [f"dtype {own.dtype}, the peer's {theirs.dtype}"]
    outcome.excused[fault.name] += 1
    return []


def _exact(
    outcome: Outcome, own: Tensor, theirs: Tensor, answer: Tensor, group: Group
) -> str | None:
    fault = fault_of_values(group)
    if fault is not None:
        outcome.excused[fault.name] += 1
        return None
    doubt = find_doubt(group)
    outcome.elements += own.numel()
    if outcome.case.kind == "float32":
        verdict: Verdict = within_relative(own, answer, doubt)
        outcome.error = max(outcome.error, verdict.error)
    else:
        verdict = within_one_unit(own, answer, doubt)
        outcome.units = max(outcome.units, verdict.error)
    outcome.compared += verdict.compared
    if verdict.problem is None and outcome.case.kind == "bfloat16":
        return no_worse(own, theirs.to(own.dtype), answer, doubt)
    return verdict.problem


def _random(
    outcome: Outcome,
    own: Tensor,
    theirs: Tensor,
    group: Group,
    name: str,
    masks: dict[Any, str],
) -> str | None:
    calibration = explain(theirs, group).problem
    if calibration is not None:  # then the test is wrong, not the outputs
        return f"the peer's output does not pass the test itself: {calibration}"
    found = explain(own, group)
    outcome.elements += found.compared
    outcome.compared += found.compared
    outcome.rest = max(outcome.rest, found.error)
    outcome.explained += found.compared > 0
    if found.problem is not None or own.numel() < _FEW:
        return found.problem
    share = np.unpackbits(np.frombuffer(found.support, np.uint8)).sum() / own.numel()
    if not 0.02 < share < 0.98:
        return None
    twin = masks.setdefault((tuple(own.shape), found.support), name)
    return f"the same mask as {twin}" if twin != name else None

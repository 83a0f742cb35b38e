"""What a plan leaves of each expert beside the merged tensors: names and shapes of its parts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cermet.core.errors import RecipeError
from cermet.core.registry import Bits, Numbers, Part, call
from cermet.recipes.document import Document
from cermet.recipes.plan import Plan, Task
from cermet.recipes.schema import ModelRef

__all__ = ["PartSlot", "check_assembly", "labels_of", "part_name", "slots_of"]


@dataclass(frozen=True, slots=True)
class PartSlot:
    """One part of one expert for one tensor, as it is stored.

    name: under which it is stored. dtype: spelled as in safetensors. shape: as stored; bits are
    bytes, the first element in the lowest bit of the first. expert: None where all share it.
    """

    name: str
    part: Part
    expert: int | None
    dtype: str
    shape: tuple[int, ...]


def part_name(part: Part, label: str, tensor: str) -> str:
    """The name under which an expert's part of a tensor is stored; `*` stands for all experts."""
    shared = isinstance(part, Numbers) and part.shared
    return f"{part.name}/{'*' if shared else label}/{tensor}"


def slots_of(task: Task, labels: Sequence[str]) -> list[PartSlot]:
    """Every part of a tensor, expert by expert; none where it is copied."""
    return list(_slots(task, labels)) if task.method is not None else []


def _slots(task: Task, labels: Sequence[str]) -> Iterator[PartSlot]:
    assert task.method is not None
    known = {**task.parameters, "place": task.place, "count": len(labels)}
    for part in task.method.parts:
        if part.only is not None and not call(part.only, **known):
            continue
        if isinstance(part, Numbers):
            rows = (task.numel // task.shape[-1] if task.numel else 0,) if task.shape else (1,)
            shape = (*(rows if part.by_row else ()), *call(part.shape, **known))
            dtype = "F32" if part.exact else task.dtype
        else:
            assert isinstance(part, Bits)
            shape, dtype = (math.ceil(task.numel / 8),), "U8"
        if isinstance(part, Numbers) and part.shared:
            yield PartSlot(part_name(part, "", task.name), part, None, dtype, shape)
            continue
        for expert, label in enumerate(labels):
            yield PartSlot(part_name(part, label, task.name), part, expert, dtype, shape)


def labels_of(plan: Plan) -> tuple[str, ...]:
    """Short names of the experts, each different; none where the method leaves no parts."""
    merged = [task for task in plan.tasks if task.method is plan.method]
    if not plan.method.parts or not merged:
        return ()
    found: list[str] = []
    for named in merged[0].sources:
        short = _short(plan.models[named.model])
        same = sum(label == short or label.startswith(f"{short}-") for label in found)
        label = f"{short}-{same + 1}" if short in found else short
        while label in found:
            label += "'"
        found.append(label)
    return tuple(found)


def _short(model: ModelRef) -> str:
    """The last part of a model's path, or of its adapter's."""
    path = model.lora or model.path
    return path.rstrip("/").rpartition("/")[2] or path


def check_assembly(plan: Plan, document: Document) -> None:
    """Refuse an assembly whose experts are not the same for every tensor."""
    merged = [task for task in plan.tasks if task.method is plan.method]
    if not plan.method.parts or not merged:
        return
    experts = [named.model for named in merged[0].sources]
    for task in merged:
        if [named.model for named in task.sources] != experts:
            raise RecipeError(
                f"{document.at(('slices',))}: '{plan.method.name}' keeps a part for each expert, "
                f"so every tensor needs the same experts in the same order; '{task.name}' has "
                f"others than '{merged[0].name}'. List them under models, and keep what not all "
                "of them have."
            )

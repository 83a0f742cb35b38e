"""Names and shapes -> what each tensor does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cermet.anatomy.names import Split, index_of, module_of, snake, split
from cermet.anatomy.stacks import Spot
from cermet.anatomy.words import AFTER, ANYWHERE, BEFORE, EARLY, INSIDE, OUTSIDE, Rule
from cermet.core.types import Position, Role

__all__ = ["Part", "expert_of", "find_roles", "position_of"]

_LONGEST = 1_000  # characters; to look for words takes time with the square of the length


@dataclass(frozen=True, slots=True)
class Part:
    """What a tensor does, whether it is an additive vector, and whether it is read early.

    early: used before the layers by what stands beside it, whatever its own name says.
    """

    role: Role
    bias: bool
    early: bool = False


class _Surroundings:
    """What stands beside a tensor: the children of its parent, the weight of its module."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.children: dict[str, set[str]] = {}
        self.dims: dict[str, int] = {}
        for name, shape in shapes.items():
            if len(name) > _LONGEST:
                continue
            parts = name.split(".")
            for i in range(len(parts)):
                self.children.setdefault(".".join(parts[:i]), set()).add(snake(parts[i]))
            if not split(name).bias:
                module = module_of(name)
                self.dims[module] = max(len(shape), self.dims.get(module, 0))

    def beside(self, name: str) -> set[str]:
        """The components that share a parent with the module of a tensor."""
        return self.children.get(module_of(name).rpartition(".")[0], set())


def _matches(rule: Rule, path: str, dims: int, beside: set[str]) -> bool:
    least, most = rule.dims
    return (
        least <= dims <= most
        and rule.pattern.search(path) is not None
        and not (rule.without & beside)
        and (not rule.beside or bool(rule.beside & beside))
    )


def _by_shape(dims: int) -> Role:
    """The role of a tensor whose name says nothing."""
    return (Role.SCALE, Role.NORM, Role.DENSE)[dims] if dims < 3 else Role.CONV


def _part(name: str, parts: Split, inside: bool, dims: int, own: int, beside: set[str]) -> Part:
    if parts.leaf == "bias" and own > 2:  # GPT-2 and GPT-NeoX keep their causal mask as attn.bias
        return Part(Role.BUFFER, False)
    rules = (*ANYWHERE, *(INSIDE if inside else OUTSIDE))
    found = next((r.role for r in rules if _matches(r, parts.path, dims, beside)), None)
    role = _by_shape(dims) if found is None else found
    early = role is Role.NORM and not inside and not EARLY.isdisjoint(beside)
    return Part(role, parts.bias and own > 0 and role is not Role.BUFFER, early)


def find_roles(shapes: Mapping[str, tuple[int, ...]], spots: Mapping[str, Spot]) -> dict[str, Part]:
    """The role of every tensor; names that say nothing, or far too much, are judged by shape."""
    around = _Surroundings(shapes)
    found = {}
    for name, shape in shapes.items():
        if len(name) > _LONGEST:
            found[name] = Part(_by_shape(len(shape)), False)
            continue
        spot = spots[name]
        dims = around.dims.get(module_of(name), len(shape))
        found[name] = _part(
            name, split(spot.inner), spot.layer is not None, dims, len(shape), around.beside(name)
        )
    return _fuse(found, shapes)


def _fuse(parts: dict[str, Part], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Part]:
    """Turn UP into GATE_UP where it makes twice as many values as DOWN takes (ModernBERT, GLM)."""
    groups: dict[str, dict[Role, list[str]]] = {}
    for name, part in parts.items():
        if part.role in (Role.UP, Role.DOWN, Role.GATE):
            parent = module_of(name).rpartition(".")[0]
            groups.setdefault(parent, {}).setdefault(part.role, []).append(name)
    for group in groups.values():
        if Role.GATE not in group and _doubles(group, shapes):
            for name in group[Role.UP]:
                parts[name] = Part(Role.GATE_UP, parts[name].bias)
    return parts


def _doubles(group: Mapping[Role, list[str]], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    ups = [shapes[n] for n in group.get(Role.UP, ()) if len(shapes[n]) == 2]
    downs = [shapes[n] for n in group.get(Role.DOWN, ()) if len(shapes[n]) == 2]
    if len(ups) != 1 or len(downs) != 1:
        return False
    (made, width), (out, taken) = ups[0], downs[0]
    return width == out and made == 2 * taken


def position_of(part: Part, spot: Spot, beyond: bool) -> Position:
    """Whether a tensor is used before the stack of layers, inside, or after it.

    beyond: the tensor's layer number lies past the end of its stack.
    """
    if beyond:
        return "after"
    if spot.layer is not None:
        return "inside"
    path = split(spot.inner).path
    if part.early:
        return "before"
    if part.role in (Role.HEAD, Role.PROJECTOR) or AFTER.search(path):
        return "after"
    early = part.role in (Role.EMBEDDING, Role.POSITION, Role.CONV, Role.BUFFER)
    return "before" if early or BEFORE.search(path) else "after"


def expert_of(inner: str) -> int | None:
    """The index of the expert: `mlp.experts.3.w1` and `experts.expert_3.wi` -> 3."""
    components: Iterable[str] = [snake(c) for c in inner.split(".")]
    previous = ""
    for component in components:
        routed = previous.endswith("experts") and "shared" not in previous
        if routed and (found := index_of(component)) is not None:
            return found
        named = component.startswith("expert_")
        if named and (found := index_of(component.removeprefix("expert_"))) is not None:
            return found
        previous = component
    return None

"""Which numbers in the names count layers, and which stack of layers is the main one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cermet.anatomy.names import index_of, snake

__all__ = ["Spot", "find_stacks", "locate", "main_stack"]

_CONTAINER = re.compile(r"(layers?|blocks?|stages?|layer_groups)$|^h$")
_PLAIN = frozenset({"layers", "layer", "h", "blocks", "block"})
_NEVER = re.compile(
    r"expert|conv|norm|proj|merger|adapter|lora|embed|classif|head|pool|downsampl|upsampl"
    r"|^(mlp|ffn|ff|fc|ln|gate|router|net|sequential|feed_forward|to_out|output|dense)(_|\d|$)"
)
_TOWER = re.compile(
    r"vision|visual|image|img|^vit|audio|sound|speech|video|resampler|perceiver|q_?former"
    r"|connector|projector|merger|adapter|^mtp"
)
_TEXT = re.compile(r"decoder|language|text|^llm")
_LEAVES = frozenset({"weight", "bias", "gamma", "beta"})


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a name stands: its stack, the layer's index, and the names before and after it.

    stack is empty and layer None for a name outside of any stack; inner is then the whole name.
    """

    stack: str
    layer: int | None
    inner: str


@dataclass(slots=True)
class _Candidate:
    layers: dict[int, dict[str, int]]  # index -> rest of the name -> number of dimensions

    def deep(self) -> bool:
        """Whether a layer holds modules or parameters of its own, not just one linear map."""
        return any(rest not in _LEAVES for rests in self.layers.values() for rest in rests)

    def alike(self) -> bool:
        """Whether the indices look like layers: 0..n-1, several modules each, mostly the same."""
        if sorted(self.layers) != list(range(len(self.layers))):
            return False
        first = set(self.layers[0])
        for rests in self.layers.values():
            modules = {rest.rpartition(".")[0] for rest in rests} - {""}
            if len(modules) < 2 or all(dims < 2 for dims in rests.values()):
                return False
            if 2 * len(first & set(rests)) < len(first | set(rests)):
                return False
        return True


def _numbers(parts: list[str]) -> Iterable[int]:
    """Positions of the components that may be the index of a layer."""
    for i, part in enumerate(parts[:-1]):
        if i and index_of(part) is not None and not _NEVER.search(snake(parts[i - 1])):
            yield i


def _known(parts: list[str]) -> int | None:
    return next((i for i in _numbers(parts) if _CONTAINER.search(snake(parts[i - 1]))), None)


def _gather(shapes: Mapping[str, tuple[int, ...]], *, known: bool) -> dict[str, _Candidate]:
    found: dict[str, _Candidate] = {}
    for name, shape in shapes.items():
        parts = name.split(".")
        index = _known(parts)
        if (index is not None) != known:
            continue
        for i in [index] if index is not None else list(_numbers(parts))[:1]:
            candidate = found.setdefault(".".join(parts[:i]), _Candidate({}))
            rests = candidate.layers.setdefault(int(parts[i]), {})
            rests[".".join(parts[i + 1 :])] = len(shape)
    return found


def find_stacks(
    shapes: Mapping[str, tuple[int, ...]], expected: int | None, extra: int = 0
) -> dict[str, int]:
    """Every stack prefix with its number of layers, in the order of the names.

    Containers with a name of the field (`layers`, `h`, `blocks`, ...) count if a layer holds
    more than one linear map; others if their indices look like layers. A container of plain
    linear maps counts only where there is no other stack.

    Parameters
    ----------
    expected: number of layers that the config gives for the main stack, if it does.
    extra: layers that the checkpoint may hold beyond `expected` without their being part of
        the stack (DeepSeek stores its multi-token prediction module as one more layer).
    """
    named = _gather(shapes, known=True)
    stacks = {prefix: max(c.layers) + 1 for prefix, c in named.items() if c.deep()}
    for prefix, candidate in _gather(shapes, known=False).items():
        count = len(candidate.layers)
        if candidate.alike() and (count > 1 or (not stacks and count == expected)):
            stacks[prefix] = count
    if not stacks:
        plain = {p: c for p, c in named.items() if snake(p.rpartition(".")[2]) in _PLAIN}
        stacks = {prefix: max(c.layers) + 1 for prefix, c in plain.items()}
    if expected is not None and extra:
        for prefix, count in stacks.items():
            if expected < count <= expected + extra:
                stacks[prefix] = expected
    order = {prefix: i for i, prefix in enumerate(_prefixes(shapes, stacks))}
    return dict(sorted(stacks.items(), key=lambda item: order[item[0]]))


def _prefixes(names: Iterable[str], stacks: Mapping[str, int]) -> dict[str, None]:
    found: dict[str, None] = {}
    for name in names:
        spot = locate(name, stacks)
        if spot.stack:
            found.setdefault(spot.stack)
    return found


def locate(name: str, stacks: Mapping[str, int]) -> Spot:
    """The stack and layer of a name; a number at or beyond the stack's length is still given."""
    parts = name.split(".")
    index = _known(parts)
    for i in [index] if index is not None else list(_numbers(parts))[:1]:
        prefix = ".".join(parts[:i])
        if prefix in stacks:
            return Spot(prefix, int(parts[i]), ".".join(parts[i + 1 :]))
    return Spot("", None, name)


def main_stack(
    stacks: Mapping[str, int], sizes: Mapping[str, int], expected: int | None
) -> str | None:
    """The stack that recipes slice: the language model's, or the only one; None without layers.

    Towers for images and sound come last. Among the others, a stack of the length that the
    config gives goes before one that has another length, a decoder or language model before
    an encoder, and a stack with more tensors (`sizes`) before one with fewer.
    """

    def rank(prefix: str) -> tuple[bool, bool, bool, int]:
        parts = [snake(p) for p in prefix.split(".")]
        return (
            not any(_TOWER.search(p) for p in parts),
            stacks[prefix] == expected,
            any(_TEXT.search(p) for p in parts),
            sizes[prefix],
        )

    return max(stacks, key=rank, default=None)

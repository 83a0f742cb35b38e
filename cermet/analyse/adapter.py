"""A LoRA adapter: its ranks, what it is trained on, and how much it changes."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from cermet.analyse.walk import Window, threads_within, walk, windows
from cermet.anatomy import Anatomy, survey
from cermet.checkpoints.bins import BinCheckpoint
from cermet.checkpoints.dtypes import SIZES
from cermet.checkpoints.header import read_json
from cermet.checkpoints.lora_config import AdapterConfig, read_adapter_config
from cermet.checkpoints.reader import Checkpoint, open_checkpoint
from cermet.core.errors import FormatError
from cermet.core.types import Place

__all__ = ["Adapter", "Change", "adapter_of", "is_adapter", "measured_changes"]

_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?:embedding_)?(?P<part>[AB])(?:\.weight)?")
_CONFIG = "adapter_config.json"
_WINDOW = 1 << 20  # elements
_BYTES_EACH = 40.0  # of memory, for each element of a window


@dataclass(frozen=True)
class Change:
    """What an adapter adds to the tensors of one role in one stack of layers.

    norm: of all that is added. relative: the same as a share of the base's norm; None where the
    adapter stands alone.
    """

    stack: str
    role: str
    tensors: int
    parameters: int
    norm: float
    relative: float | None


@dataclass(frozen=True)
class Adapter:
    """A PEFT LoRA adapter.

    Attributes
    ----------
    base: the model that it was trained on, as its configuration names it.
    ranks, alphas, scales: the different ones of its modules; a scale is what B @ A is multiplied
        by, alpha / r or alpha / sqrt(r).
    modules: names of the adapted modules, without their place, and how many there are of each.
    replaced: tensors that it holds whole (`modules_to_save`, trained biases).
    parameters, bytes, dtypes: of its own tensors.
    """

    folder: str
    base: str | None
    ranks: tuple[int, ...]
    alphas: tuple[float, ...]
    scales: tuple[float, ...]
    rslora: bool
    dora: bool
    modules: Mapping[str, int]
    replaced: int
    parameters: int
    bytes: int
    dtypes: tuple[str, ...]
    changes: tuple[Change, ...]


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model beside it."""
    if not (folder / _CONFIG).is_file():
        return False
    weights = [p for p in folder.glob("*.safetensors") if not p.name.startswith("adapter_")]
    return not weights and not any(folder.glob("pytorch_model*.bin"))


def adapter_of(folder: Path, changes: tuple[Change, ...] | None, *, read: bool) -> Adapter:
    """The adapter in a folder.

    `changes`: those that were measured on its base. Where they are None and the weights are
    `read`, the sizes of its products stand in their place. Raises FormatError for an adapter that
    is damaged, or of another kind than LoRA.
    """
    config = read_adapter_config(folder)
    held = _tensors(folder)
    factors: dict[str, dict[str, str]] = {}
    for name in held.tensors:
        match = _FACTOR.fullmatch(name)
        if match:
            factors.setdefault(match["module"], {})[match["part"]] = name
    pairs = {m: (p["A"], p["B"]) for m, p in factors.items() if set(p) == {"A", "B"}}
    named = read_json(folder / _CONFIG, "the adapter's configuration").get(
        "base_model_name_or_path"
    )
    scales = {m: config.scale_of(_module(m)) for m in pairs}
    if changes is None:
        changes = _products(held, pairs, scales, config) if read else ()
    other = [n for n in held.tensors if ".lora_" not in n and "token_adapter" not in n]
    return Adapter(
        folder=str(folder),
        base=named if isinstance(named, str) and named else None,
        ranks=tuple(sorted({held.tensors[a].shape[0] for a, _ in pairs.values()})),
        alphas=tuple(sorted({config.alpha, *config.alpha_pattern.values()})),
        scales=tuple(sorted(set(scales.values()))),
        rslora=config.rslora,
        dora=config.dora,
        modules=dict(sorted(Counter(_module(m).rpartition(".")[2] for m in pairs).items())),
        replaced=len(other),
        parameters=sum(t.numel for t in held.tensors.values()),
        bytes=sum(t.nbytes for t in held.tensors.values()),
        dtypes=tuple(sorted({t.dtype for t in held.tensors.values()})),
        changes=changes,
    )


def _tensors(folder: Path) -> Checkpoint:
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        file = folder / name
        if file.is_file():
            return BinCheckpoint(file) if file.suffix == ".bin" else open_checkpoint(file)
    raise FormatError(
        f"{folder}: no adapter_model.safetensors and no adapter_model.bin beside {_CONFIG}"
    )


def _module(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".base_layer", "")


def _products(
    held: Checkpoint,
    pairs: Mapping[str, tuple[str, str]],
    scales: Mapping[str, float],
    config: AdapterConfig,
) -> tuple[Change, ...]:
    """The sizes of scale * B @ A by role, from the Gram matrices of the factors."""
    shapes, squares = {}, {}
    for module, (a, b) in pairs.items():
        left, right = _matrix(held, b), _matrix(held, a)
        if left.shape[1] != right.shape[0]:  # fused experts; only their base tells their form
            continue
        name = f"{_module(module)}.weight"
        shape = (left.shape[0], right.shape[1])
        shapes[name] = shape[::-1] if config.fan_in_fan_out else shape
        product = float(((left.t() @ left) * (right @ right.t())).sum())
        squares[name] = scales[module] ** 2 * max(product, 0.0)
    anatomy = survey(shapes, {})
    groups: dict[tuple[str, str], list[str]] = {}
    for name, place in anatomy.places.items():
        groups.setdefault((place.stack, str(place.role)), []).append(name)
    return tuple(
        Change(
            stack,
            role,
            len(names),
            sum(math.prod(shapes[n]) for n in names),
            math.sqrt(math.fsum(squares[n] for n in names)),
            None,
        )
        for (stack, role), names in groups.items()
    )


def _matrix(held: Checkpoint, name: str) -> torch.Tensor:
    """A factor as a matrix in float64: convolutions with their kernel in the columns."""
    info = held.tensors[name]
    values = held.block(name, 0, info.numel).to(torch.float64)
    return values.reshape(info.shape[0], -1)


@dataclass(frozen=True)
class _Squares:
    base: float
    delta: float

    def __add__(self, other: _Squares) -> _Squares:
        return _Squares(self.base + other.base, self.delta + other.delta)


def measured_changes(
    base: Checkpoint,
    adapted: Checkpoint,
    touched: frozenset[str],
    anatomy: Anatomy,
    *,
    memory: int,
    threads: int | None,
    progress: Callable[[str, int], None] | None = None,
) -> tuple[Change, ...]:
    """How much an adapter changes its base, by role: one more pass over what it touches."""

    def work(name: str, window: Window) -> _Squares:
        before = base.block(name, *window).to(torch.float64)
        delta = adapted.block(name, *window).to(torch.float64) - before
        return _Squares(float(before.dot(before)), float(delta.dot(delta)))

    def seen(name: str, elements: int) -> None:
        if progress is not None:
            progress(name, elements * SIZES[base.tensors[name].dtype])

    cuts = {n: windows(base.tensors[n].numel, _WINDOW) for n in base.tensors if n in touched}
    count = threads_within(threads, memory, _WINDOW * _BYTES_EACH, "A window of its weights")
    found = walk(cuts, work, count, seen)
    groups: dict[tuple[str, str], list[str]] = {}
    for name in found:
        groups.setdefault(_key(anatomy.places[name]), []).append(name)
    return tuple(
        _measured(key, names, found, sum(base.tensors[n].numel for n in names))
        for key, names in groups.items()
    )


def _key(place: Place) -> tuple[str, str]:
    return place.stack, str(place.role)


def _measured(
    key: tuple[str, str], names: list[str], found: Mapping[str, _Squares], numel: int
) -> Change:
    before = math.sqrt(math.fsum(found[n].base for n in names))
    norm = math.sqrt(math.fsum(found[n].delta for n in names))
    return Change(*key, len(names), numel, norm, norm / before if before else None)

"""From the tensors of a LoRA adapter to what happens to each tensor of the base.

PEFT's names, after the prefix `base_model.model.`:

    <module>.lora_A.weight                 r x in       (convolutions: r x in x kernel)
    <module>.lora_B.weight, .lora_B.bias   out x r, out
    <module>.lora_embedding_A, _B          r x vocabulary, width x r
    <module>.lora_magnitude_vector         DoRA: one length per output
    <module>.token_adapter.trainable_tokens_delta     rows of the vocabulary, as they shall be
    <module>.base_layer.bias and all other names      tensors that replace those of the base

Parameters without a module of their own (`target_parameters`, such as fused experts of shape
E x a x b) are adapted by layers nested around their owner: `experts.lora_A` lies around
`experts.base_layer.lora_A`; which layer adapts which parameter is told by shape.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path

import torch

from cermet.checkpoints.dtypes import FLOATS
from cermet.checkpoints.header import TensorInfo
from cermet.checkpoints.lora_config import AdapterConfig
from cermet.checkpoints.lora_names import Names
from cermet.checkpoints.lora_parts import Edit, LowRank
from cermet.core.errors import FormatError, MismatchError

__all__ = ["plan_edits", "sort_parts"]

_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|"
    r"lora_embedding_B|lora_magnitude_vector|token_adapter\.trainable_tokens_delta)(\.weight)?"
)
_TOKENS = "token_adapter.trainable_tokens_delta"
_MOST_NESTED = 5  # parameters of one module; ways to order them grow as a factorial
_MAGNITUDE = "lora_magnitude_vector"
_CHECK = "Check that the base is the checkpoint that the adapter was trained on."

_Parts = dict[str, "torch.Tensor"]


def plan_edits(
    file: Path,
    values: Mapping[str, torch.Tensor],
    config: AdapterConfig,
    base: Mapping[str, TensorInfo],
) -> dict[str, Edit]:
    """What the adapter does, by the base's names.

    Parameters
    ----------
    file: the adapter's weights, for messages.
    values: its tensors under the names that PEFT saved.
    config: its configuration.
    base: the tensors of the base.

    Raises
    ------
    FormatError: the adapter is incomplete, or of a kind that cannot be applied.
    MismatchError: it does not fit the base; names the tensor and the shape expected.
    """
    planner = _Planner(file, config, base)
    replaced, modules = sort_parts(file, values)
    for name, value in replaced.items():
        planner.replace(name, value, replaced)
    for module, levels in modules.items():
        planner.adapt(module, levels, modules)
    if not planner.edits:
        raise FormatError(f"{file}: holds no tensors of a LoRA adapter")
    return planner.edits


def sort_parts(
    file: Path, values: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, dict[int, _Parts]]]:
    """Tensors that replace, by name; and LoRA's parts, by module and depth (0 is outermost)."""
    replaced: dict[str, torch.Tensor] = {}
    modules: dict[str, dict[int, _Parts]] = {}
    for key, value in values.items():
        name = key.removeprefix("base_model.model.")
        match = _PART.fullmatch(name)
        if match:
            root = match["module"]
            while root.endswith(".base_layer"):
                root = root.removesuffix(".base_layer")
            depth = (len(match["module"]) - len(root)) // len(".base_layer")
            modules.setdefault(root, {}).setdefault(depth, {})[match["part"]] = value
        elif ".lora_" in name or ".token_adapter." in name:
            raise FormatError(f"{file}: does not know what {key!r} is; a variant of LoRA?")
        elif ".original_module." not in name:  # PEFT's copy of what modules_to_save replaces
            plain = name.replace(".modules_to_save.", ".").replace(".base_layer.", ".")
            replaced[plain] = value
    return replaced, modules


class _Planner:
    """The edits under construction."""

    def __init__(self, file: Path, config: AdapterConfig, base: Mapping[str, TensorInfo]) -> None:
        self.file = file
        self.config = config
        self.base = base
        self.names = Names(base)
        self.edits: dict[str, Edit] = {}
        self._flips = _stored_flipped(base)

    def replace(self, name: str, value: torch.Tensor, replaced: Mapping[str, torch.Tensor]) -> None:
        """Let a saved tensor take the place of the base's."""
        home = self.names.find(name)
        if home is None:
            if _is_head(name) and any(_equal(value, v) for k, v in replaced.items() if k != name):
                return  # the head of a model that ties it to its embedding: saved twice
            raise self._homeless(name, value)
        self._same_shape(name, tuple(value.shape), home)
        # a module saved whole may hold a counter, which is not a quantised weight
        counter = not value.is_floating_point() and self.base[home].dtype not in FLOATS
        edit = self._edit(home, floats=not counter)
        edit.replaced = value

    def adapt(
        self,
        module: str,
        levels: Mapping[int, _Parts],
        modules: Mapping[str, Mapping[int, _Parts]],
    ) -> None:
        """Add what LoRA learnt for one module."""
        outer = levels.get(0, {})
        home = self.names.find(f"{module}.weight")
        if _TOKENS in outer:
            self._tokens(module, home, outer)
        elif home is not None and levels.keys() == {0} and self._is_layer(outer, home):
            self._layer(module, home, outer)
        elif self._candidates(module):
            self._parameters(module, levels)
        elif home is None and _is_head(module) and _tied(outer, modules):
            return  # the head's adapter is the embedding's, turned round (ensure_weight_tying)
        else:
            name, value = next(iter(outer.items() or levels[max(levels)].items()))
            raise self._homeless(f"{module}.{name}", value)

    def _edit(self, home: str, floats: bool = True) -> Edit:
        info = self.base[home]
        if floats and info.dtype not in FLOATS:
            raise MismatchError(
                f"{self.file}: changes {home!r}, which the base stores as {info.dtype}. "
                "Give a base of floating-point numbers, not a quantised one."
            )
        return self.edits.setdefault(home, Edit(info.shape))

    def _homeless(self, name: str, value: torch.Tensor) -> MismatchError:
        return MismatchError(
            f"{self.file}: tensor {name!r} of shape {tuple(value.shape)} belongs to nothing in the "
            f"base. {_CHECK} (Its classification head, its tied or fused weights may be missing.)"
        )

    def _same_shape(self, name: str, shape: tuple[int, ...], home: str) -> None:
        if shape != self.base[home].shape:
            raise MismatchError(
                f"{self.file}: {name!r} makes a tensor of shape {shape}, but {home!r} in the base "
                f"has shape {self.base[home].shape}. {_CHECK} (If the vocabulary was resized, "
                "resize the base first.)"
            )

    def _part(self, module: str, parts: _Parts, part: str) -> torch.Tensor:
        if part not in parts:
            raise FormatError(
                f"{self.file}: {module!r} has {', '.join(sorted(parts))} but not {part}. "
                "Save the adapter again, or copy it again."
            )
        return parts[part]

    def _is_layer(self, parts: _Parts, home: str) -> bool:
        """False for a fused parameter that happens to be called `weight`."""
        a = parts.get("lora_A.weight")
        return a is None or (a.ndim, len(self.base[home].shape)) != (2, 3)

    def _tokens(self, module: str, home: str | None, parts: _Parts) -> None:
        value = parts[_TOKENS]
        if home is None:
            raise self._homeless(f"{module}.{_TOKENS}", value)
        if len(parts) > 1:
            raise FormatError(f"{self.file}: {module!r} has LoRA and trained tokens at once")
        rows = self.config.token_rows(module)
        shape = self.base[home].shape
        expected = (len(rows), *shape[1:])
        if tuple(value.shape) != expected or len(shape) != 2:
            raise MismatchError(
                f"{self.file}: the trained tokens of {module!r} have shape {tuple(value.shape)}, "
                f"expected {expected}. {_CHECK}"
            )
        if max(rows, default=0) >= shape[0]:
            raise MismatchError(
                f"{self.file}: trains token {max(rows)}, but {home!r} in the base has {shape[0]} "
                "rows. Resize the base's vocabulary first."
            )
        order = sorted(range(len(rows)), key=rows.__getitem__)
        edit = self._edit(home)
        edit.rows = tuple(rows[place] for place in order)
        edit.row_values = value[order]

    def _layer(self, module: str, home: str, parts: _Parts) -> None:
        """A linear map, a convolution or an embedding."""
        embedding = any(part.startswith("lora_embedding") for part in parts)
        first, second = (
            ("lora_embedding_A", "lora_embedding_B")
            if embedding
            else ("lora_A.weight", "lora_B.weight")
        )
        a, b = self._part(module, parts, first), self._part(module, parts, second)
        self._ranks(module, module, a, b, 1)
        made = (b.shape[0], *a.shape[1:])
        shape = self.base[home].shape
        flat = a.ndim == 2
        flipped = flat and (embedding or made != shape or self._square_flipped(home))
        if b.ndim != a.ndim or prod(b.shape[2:]) != 1:
            raise FormatError(f"{self.file}: {module}.{second} has shape {tuple(b.shape)}")
        self._same_shape(f"{module}.{second} @ {first}", made[::-1] if flipped else made, home)
        low_rank = LowRank(
            a=a,
            b=b,
            form="flipped" if flipped else "plain",
            scale=self.config.scale_of(module),
            count=1,
            rows=shape[0],
            cols=prod(shape[1:]),
            magnitude=self._magnitude(module, parts, made[0]),
        )
        self._edit(home).low_rank = low_rank
        if "lora_B.bias" in parts:
            self._bias(module, parts["lora_B.bias"])

    def _square_flipped(self, home: str) -> bool:
        """How a square matrix is stored: as the base's other matrices show, else as the
        configuration says (PEFT mends that flag layer by layer, and saves the last answer)."""
        shape = self.base[home].shape
        if shape[0] != shape[1]:
            return False
        numbered = any(part.isdigit() for part in home.split("."))
        if self._flips is None or not numbered:
            return self.config.fan_in_fan_out and numbered
        return self._flips

    def _ranks(self, module: str, key: str, a: torch.Tensor, b: torch.Tensor, count: int) -> None:
        rank = self.config.rank_of(key) * count
        found = (a.shape[0] if a.ndim else 0, b.shape[1] if b.ndim > 1 else 0)
        if a.ndim < 2 or found != (rank, rank):
            raise MismatchError(
                f"{self.file}: the factors of {module!r} have shapes {tuple(a.shape)} and "
                f"{tuple(b.shape)}, expected rank {rank} (from {self.config.file.name}). "
                "Check that the two files belong together; grouped convolutions are not supported."
            )

    def _magnitude(self, module: str, parts: _Parts, outputs: int) -> torch.Tensor | None:
        if not self.config.dora:
            if _MAGNITUDE in parts:
                raise FormatError(
                    f"{self.file}: {module!r} has a magnitude, but 'use_dora' is not set in "
                    f"{self.config.file.name}"
                )
            return None
        magnitude = self._part(module, parts, _MAGNITUDE)
        if magnitude.numel() != outputs:
            raise MismatchError(
                f"{self.file}: {module}.{_MAGNITUDE} has shape {tuple(magnitude.shape)}, "
                f"expected {outputs} numbers. {_CHECK}"
            )
        return magnitude.reshape(-1).to(torch.float32)

    def _bias(self, module: str, value: torch.Tensor) -> None:
        home = self.names.find(f"{module}.bias")
        if home is None:
            raise self._homeless(f"{module}.lora_B.bias", value)
        self._same_shape(f"{module}.lora_B.bias", tuple(value.shape), home)
        edit = self._edit(home)
        edit.shift, edit.shift_scale = value, self.config.scale_of(module)

    def _candidates(self, module: str) -> list[str]:
        """Parameters of a module that `target_parameters` names, in the adapter's spelling."""
        named = {f"{module}.{target.rpartition('.')[2]}" for target in self.config.parameters}
        return sorted(
            name
            for name in named
            if any(name == t or name.endswith(f".{t}") for t in self.config.parameters)
            and self.names.find(name)
        )

    def _parameters(self, module: str, levels: Mapping[int, _Parts]) -> None:
        """Fused experts and other parameters: find the one way in which the shapes fit."""
        depths, candidates = sorted(levels), self._candidates(module)
        ways = []
        # PEFT wraps every parameter that is named, so there are as many layers as parameters
        fits = len(depths) == len(candidates) <= _MOST_NESTED
        for names in itertools.permutations(candidates) if fits else ():
            forms = [self._fit(module, levels[d], n) for d, n in zip(depths, names, strict=True)]
            if all(forms):
                ways.append(dict(zip(names, forms, strict=True)))
        options = [list(itertools.product(*way.values())) for way in ways]
        if (count := sum(map(len, options))) != 1:
            raise MismatchError(
                f"{self.file}: by their shapes and ranks, the factors of {module!r} can adapt "
                f"{', '.join(candidates)} of the base in {count} ways, expected "
                f"exactly one. {_CHECK}"
            )
        for name, form in zip(ways[0], options[0][0], strict=True):
            home = self.names.find(name) or name
            self._edit(home).low_rank = form

    def _fit(self, module: str, parts: _Parts, name: str) -> list[LowRank]:
        """The ways, at most two, in which one pair of factors can adapt one parameter."""
        if parts.keys() != {"lora_A.weight", "lora_B.weight"}:
            raise FormatError(
                f"{self.file}: {module!r} has {', '.join(sorted(parts))}; a parameter without a "
                "module takes lora_A.weight and lora_B.weight"
            )
        a, b = parts["lora_A.weight"], parts["lora_B.weight"]
        shape = self.base[self.names.find(name) or name].shape
        if len(shape) not in (2, 3) or a.ndim != 2 or b.ndim != 2:
            return []
        count = shape[0] if len(shape) == 3 else 1
        rank, made = self.config.rank_of(name) * count, (b.shape[0], a.shape[1])
        if (a.shape[0], b.shape[1]) != (rank, rank):
            return []
        scale, (rows, cols) = self.config.scale_of(name), shape[-2:]
        ways = []
        if made == (rows, cols):
            ways.append(LowRank(a, b, "experts", scale, count, rows, cols))
        if made == (cols, rows) and len(shape) == 3:
            ways.append(LowRank(a, b, "experts_flipped", scale, count, rows, cols))
        return ways


def _stored_flipped(base: Mapping[str, TensorInfo]) -> bool | None:
    """Whether the matrices in the base's layers are stored as [in, out], told by those that are
    not square and have a bias; None where there is no such matrix, or they disagree."""
    votes = set()
    for name, info in base.items():
        bias = base.get(f"{name.removesuffix('.weight')}.bias")
        numbered = any(part.isdigit() for part in name.split("."))
        if not numbered or bias is None or len(info.shape) != 2 or len(set(info.shape)) == 1:
            continue
        if bias.shape in ((info.shape[0],), (info.shape[1],)):
            votes.add(bias.shape == (info.shape[1],))
    return votes.pop() if len(votes) == 1 else None


def _is_head(name: str) -> bool:
    return "lm_head" in name.split(".")


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _tied(head: _Parts, modules: Mapping[str, Mapping[int, _Parts]]) -> bool:
    """Whether a head's factors are those of an embedding, turned round."""
    a, b = head.get("lora_A.weight"), head.get("lora_B.weight")
    for levels in modules.values():
        other = levels.get(0, {})
        left, right = other.get("lora_embedding_A"), other.get("lora_embedding_B")
        if a is None or b is None or left is None or right is None:
            continue
        if _equal(a, right.t()) and _equal(b, left.t()):
            return True
    return False

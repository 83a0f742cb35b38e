"""What a checkpoint is, from its headers and its config alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cermet.anatomy import Anatomy, survey
from cermet.anatomy.layers import text_path
from cermet.checkpoints.dtypes import FLOATS
from cermet.checkpoints.header import TensorInfo
from cermet.checkpoints.reader import Checkpoint
from cermet.core.types import Place, Role

__all__ = [
    "ROLE_ORDER",
    "Contents",
    "Dtype",
    "File",
    "RoleSummary",
    "Stack",
    "Tie",
    "contents_of",
    "facts_of",
    "group_of",
    "is_buffer",
    "quantisation_of",
]

_FACTS = {
    "hidden size": ("hidden_size", "n_embd", "d_model", "dim"),
    "heads": ("num_attention_heads", "n_head", "num_heads", "decoder_attention_heads", "n_heads"),
    "key-value heads": ("num_key_value_heads", "num_kv_heads"),
    "head size": ("head_dim", "d_kv"),
    "inner size": ("intermediate_size", "n_inner", "d_ff", "decoder_ffn_dim", "hidden_dim"),
    "experts": ("num_experts", "num_local_experts", "n_routed_experts"),
    "experts per token": ("num_experts_per_tok", "moe_topk"),
    "vocabulary": ("vocab_size",),
    "positions": ("max_position_embeddings", "n_positions", "max_seq_len"),
    "rope theta": ("rope_theta",),
    "sliding window": ("sliding_window",),
}
"""What a config says under one of several names, in the order in which it is told."""

ROLE_ORDER = (
    "embedding", "position", "conv", "qkv", "q", "kv", "k", "v", "o", "gate_up", "gate", "up",
    "down", "router", "ssm", "dense", "norm", "scale", "projector", "head", "buffer",
)  # fmt: skip
"""Roles as a network runs through them."""


@dataclass(frozen=True)
class File:
    """A file of weights and its size in bytes."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Dtype:
    """The tensors of one dtype, spelled as in safetensors."""

    dtype: str
    tensors: int
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Stack:
    """A stack of layers: its prefix in the names; main: whether it is the one recipes slice."""

    prefix: str
    layers: int
    parameters: int
    main: bool


@dataclass(frozen=True)
class Tie:
    """Names of one weight. stored: those that the files hold."""

    names: tuple[str, ...]
    stored: tuple[str, ...]


@dataclass(frozen=True)
class RoleSummary:
    """The tensors of one role in one stack of layers, or outside of all (stack is empty).

    shapes: the different ones, the most frequent and largest first. norm, rms, largest: of all
    their finite elements together; None where no weights were read.
    """

    stack: str
    role: str
    bias: bool
    tensors: int
    parameters: int
    bytes: int
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    norm: float | None = None
    rms: float | None = None
    largest: float | None = None


@dataclass(frozen=True)
class Contents:
    """What headers and config tell. parameters: elements of all tensors but buffers."""

    architecture: str | None
    model_type: str | None
    quantisation: str | None
    tensors: int
    parameters: int
    buffers: int
    bytes: int
    files: tuple[File, ...]
    dtypes: tuple[Dtype, ...]
    stacks: tuple[Stack, ...]
    roles: tuple[RoleSummary, ...]
    ties: tuple[Tie, ...]
    facts: Mapping[str, int | float | str]


def is_buffer(info: TensorInfo, place: Place) -> bool:
    """Whether a tensor is no parameter: it is not trained, and merges copy it."""
    return info.dtype not in FLOATS or place.role is Role.BUFFER


def contents_of(checkpoint: Checkpoint, stored: Checkpoint) -> tuple[Contents, Anatomy]:
    """What a checkpoint consists of, and the anatomy that says so.

    `stored`: the same as it is on the disk, where its weights are decoded when they are read.
    """
    tensors = checkpoint.tensors
    anatomy = survey({n: t.shape for n, t in tensors.items()}, checkpoint.config)
    trained = [t for n, t in tensors.items() if not is_buffer(t, anatomy.places[n])]
    config = checkpoint.config
    named = config.get("architectures")
    return Contents(
        architecture=str(named[0]) if isinstance(named, list) and named else None,
        model_type=str(config["model_type"]) if "model_type" in config else None,
        quantisation=quantisation_of(stored.config),
        tensors=len(tensors),
        parameters=sum(t.numel for t in trained),
        buffers=len(tensors) - len(trained),
        bytes=sum(t.nbytes for t in stored.tensors.values()),
        files=_files(tensors.values()),
        dtypes=_dtypes(stored.tensors.values()),
        stacks=_stacks(tensors, anatomy),
        roles=_roles(tensors, anatomy),
        ties=tuple(Tie(g, tuple(n for n in g if n in tensors)) for g in anatomy.ties),
        facts=facts_of(config),
    ), anatomy


def quantisation_of(config: Mapping[str, Any]) -> str | None:
    """The format that a config says its weights are quantised in, e.g. `gptq, 4 bits`."""
    found = config.get("quantization_config")
    if not isinstance(found, Mapping):
        return None
    name = str(found.get("quant_method") or found.get("quant_type") or "a format without a name")
    bits = found.get("bits")
    if name == "bitsandbytes":
        bits = 4 if found.get("load_in_4bit") else 8
    return f"{name}, {bits} bits" if isinstance(bits, int) else name


def facts_of(config: Mapping[str, Any]) -> dict[str, int | float | str]:
    """The numbers of a config that shape the main network, under one name each."""
    inner: Any = config
    for step in text_path(config):
        inner = inner[step]
    found: dict[str, int | float | str] = {}
    for fact, keys in _FACTS.items():
        value = next((inner[k] for k in keys if inner.get(k) is not None), None)
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[fact] = value
    rope = inner.get("rope_parameters") or inner.get("rope_scaling")
    if isinstance(rope, Mapping):
        if "rope theta" not in found and isinstance(rope.get("rope_theta"), int | float):
            found["rope theta"] = rope["rope_theta"]
        kind = rope.get("rope_type", rope.get("type"))
        if isinstance(kind, str) and kind != "default":
            found["rope"] = kind
    return found


def _files(tensors: Iterable[TensorInfo]) -> tuple[File, ...]:
    files = sorted({t.file for t in tensors})
    return tuple(File(f.name, f.stat().st_size if f.is_file() else 0) for f in files)


def _dtypes(tensors: Iterable[TensorInfo]) -> tuple[Dtype, ...]:
    groups: dict[str, list[TensorInfo]] = {}
    for info in tensors:
        groups.setdefault(info.dtype, []).append(info)
    found = [
        Dtype(name, len(g), sum(t.numel for t in g), sum(t.nbytes for t in g))
        for name, g in groups.items()
    ]
    return tuple(sorted(found, key=lambda d: (-d.bytes, d.dtype)))


def _stacks(tensors: Mapping[str, TensorInfo], anatomy: Anatomy) -> tuple[Stack, ...]:
    sizes = dict.fromkeys(anatomy.stacks, 0)
    for name, place in anatomy.places.items():
        if place.stack and not is_buffer(tensors[name], place):
            sizes[place.stack] += tensors[name].numel
    return tuple(
        Stack(prefix, layers, sizes[prefix], prefix == anatomy.main)
        for prefix, layers in anatomy.stacks.items()
    )


def _roles(tensors: Mapping[str, TensorInfo], anatomy: Anatomy) -> tuple[RoleSummary, ...]:
    """By stack (what stands outside of all first), role, and whether it is a bias."""
    groups: dict[tuple[str, str, bool], list[TensorInfo]] = {}
    for name, place in anatomy.places.items():
        groups.setdefault(group_of(tensors[name], place), []).append(tensors[name])
    order = ["", *anatomy.stacks]
    keys = sorted(groups, key=lambda k: (order.index(k[0]), ROLE_ORDER.index(k[1]), k[2]))
    return tuple(_summary(key, groups[key]) for key in keys)


def group_of(info: TensorInfo, place: Place) -> tuple[str, str, bool]:
    """Stack, role and whether it is a bias: the row of the table that a tensor belongs to."""
    role = Role.BUFFER if is_buffer(info, place) else place.role
    return place.stack, str(role), place.bias


def _summary(key: tuple[str, str, bool], group: list[TensorInfo]) -> RoleSummary:
    stack, role, bias = key
    shapes: dict[tuple[int, ...], int] = {}
    for info in group:
        shapes[info.shape] = shapes.get(info.shape, 0) + 1
    return RoleSummary(
        stack=stack,
        role=role,
        bias=bias,
        tensors=len(group),
        parameters=sum(t.numel for t in group),
        bytes=sum(t.nbytes for t in group),
        shapes=tuple(sorted(shapes, key=lambda s: (-shapes[s], -math.prod(s)))),
        dtypes=tuple(dict.fromkeys(t.dtype for t in group)),
    )

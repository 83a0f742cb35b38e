"""What is known of one checkpoint, and what of it a user should hear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cermet.analyse.adapter import Adapter
from cermet.analyse.contents import Contents
from cermet.analyse.vocabulary import Vocabulary
from cermet.analyse.weights import RepeatedLayer, TensorRecord
from cermet.anatomy import Anatomy
from cermet.anatomy.layers import layer_count
from cermet.core.types import Role

__all__ = ["Inspection", "Made", "findings_of"]

_SHOWN = 3  # names in a sentence
_HALF_MOST = 65504.0  # the largest number of float16
_SPELLED = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True)
class Made:
    """How Cermet made a checkpoint, from its record.

    experts, parts_bytes: of an assembly, the models that it restores, and the bytes that do so.
    """

    how: str
    models: tuple[str, ...]
    seed: int | None
    version: str | None
    experts: tuple[str, ...] = ()
    parts_bytes: int = 0


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint is.

    Attributes
    ----------
    path: as it was named. kind: a model, an assembly of Cermet's, or an adapter on its own, of
        which there are no contents and no tensors.
    read: whether the weights were read, or the headers alone.
    duplicates: names of tensors with the same bytes, in groups, ties that are stored twice too.
    findings: sentences on what is out of the ordinary, the worst first.
    """

    path: str
    kind: Literal["model", "assembly", "adapter"]
    read: bool
    contents: Contents | None
    vocabulary: Vocabulary | None
    adapter: Adapter | None
    made: Made | None
    tensors: tuple[TensorRecord, ...] = ()
    duplicates: tuple[tuple[str, ...], ...] = ()
    repeated_layers: tuple[RepeatedLayer, ...] = ()
    findings: tuple[str, ...] = ()


def findings_of(
    contents: Contents,
    anatomy: Anatomy,
    config: Mapping[str, Any],
    vocabulary: Vocabulary | None,
    tensors: Sequence[TensorRecord],
    duplicates: Sequence[tuple[str, ...]],
    repeated: Sequence[RepeatedLayer],
) -> tuple[str, ...]:
    """What is broken, dead, doubled or at odds, one sentence each."""
    return (
        *_broken(tensors),
        *_from_headers(contents, anatomy, config),
        *_tokens(vocabulary, config),
        *_dead(tensors),
        *_doubled(duplicates, repeated, anatomy),
        *_large(tensors),
    )


def _broken(tensors: Sequence[TensorRecord]) -> list[str]:
    found = []
    bad = [t for t in tensors if t.broken and t.role != Role.BUFFER]
    for t in bad[:_SHOWN]:
        found.append(
            f"{t.name} holds {t.nan or 0:,} NaN and {t.infinite or 0:,} infinite values, the first "
            f"at element {t.first_bad}; no merge takes it."
        )
    if len(bad) > _SHOWN:
        found.append(f"{len(bad) - _SHOWN} more tensors hold NaN or infinity.")
    return found


def _from_headers(contents: Contents, anatomy: Anatomy, config: Mapping[str, Any]) -> list[str]:
    found = []
    if not config:
        found.append("There is no config.json, so ties and the number of layers are inferred.")
    said = layer_count(config)
    held = anatomy.stacks[anatomy.main] if anatomy.main is not None else 0
    if said is not None and held and said != held:
        found.append(f"config.json says {said} layers, the weights hold {held}.")
    named = _SPELLED.get(str(config.get("dtype", config.get("torch_dtype"))))
    floats = [d.dtype for d in contents.dtypes if d.dtype in _SPELLED.values()]
    if named and floats and floats[0] != named:
        found.append(f"config.json says {named}, most of the weights are {floats[0]}.")
    return found


def _tokens(vocabulary: Vocabulary | None, config: Mapping[str, Any]) -> list[str]:
    if vocabulary is None or vocabulary.rows is None:
        return []
    rows, found = vocabulary.rows, []
    if vocabulary.size is not None and vocabulary.size > rows:
        found.append(
            f"The tokenizer has ids up to {vocabulary.size - 1:,}, but the embedding has "
            f"{rows:,} rows: the last tokens cannot be embedded."
        )
    if vocabulary.head_rows is not None and vocabulary.head_rows != rows:
        kind = str(config.get("architectures", ""))
        if "CausalLM" in kind or "ConditionalGeneration" in kind:
            found.append(f"The embedding has {rows:,} rows, the head {vocabulary.head_rows:,}.")
    return found


def _dead(tensors: Sequence[TensorRecord]) -> list[str]:
    found = []
    weights = [t for t in tensors if not t.bias and t.role != Role.BUFFER]
    zero = [t.name for t in weights if t.constant == 0]
    if zero:
        found.append(
            f"{_count(len(zero), 'tensor holds', 'tensors hold')} zeros alone: {_names(zero)}."
        )
    same = [t.name for t in weights if t.constant and t.role != Role.NORM]
    if same:
        verb = _count(len(same), "tensor holds", "tensors hold")
        found.append(f"{verb} one value everywhere: {_names(same)}.")
    for what, attribute in (("row", "dead_rows"), ("column", "dead_columns")):
        dead = [t for t in weights if getattr(t, attribute) and t.constant != 0]
        for t in dead[:_SHOWN]:
            number = _count(getattr(t, attribute), f"{what} holds", f"{what}s hold")
            found.append(f"{number} zeros alone in {t.name} {list(t.shape)}.")
        if len(dead) > _SHOWN:
            found.append(f"{len(dead) - _SHOWN} more tensors have {what}s of zeros.")
    return found


def _doubled(
    duplicates: Sequence[tuple[str, ...]], repeated: Sequence[RepeatedLayer], anatomy: Anatomy
) -> list[str]:
    found = []
    if repeated:
        listed = ", ".join(f"{r.layer} of {r.of}" for r in repeated[:8])
        more = f" and {len(repeated) - 8} more" if len(repeated) > 8 else ""
        found.append(f"Layers of {repeated[0].stack} are copies of earlier ones: {listed}{more}.")
    ties = [set(group) for group in anatomy.ties]
    layers = {(r.stack, r.layer) for r in repeated}
    for names in duplicates:
        own = [n for n in names if (p := anatomy.places[n]) and (p.stack, p.layer) not in layers]
        if len(own) < 2:
            continue
        if any(set(own) <= tie for tie in ties):
            found.append(f"{_names(own)} are tied and stored twice, with the same bytes.")
        else:
            found.append(f"{_names(own)} hold the same bytes.")
    return found if len(found) <= 6 else [*found[:5], f"{len(found) - 5} more groups are equal."]


def _large(tensors: Sequence[TensorRecord]) -> list[str]:
    far = [t for t in tensors if (t.largest or 0) > _HALF_MOST and t.role != Role.BUFFER]
    if not far:
        return []
    most = max(far, key=lambda t: t.largest or 0)
    return [
        f"{_count(len(far), 'tensor holds', 'tensors hold')} numbers beyond float16 (up to "
        f"{most.largest:.3g} in {most.name})."
    ]


def _count(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"

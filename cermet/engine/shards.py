"""The files of a source and what was in them, without reading them a second time.

A merge makes a digest of every tensor that it reads, in the pass that reads it. The content
digest of a file is the SHA-256 over one line for each of these tensors, sorted: name, dtype,
shape, offset, digest. It changes with any of them, and whoever has the file can make it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cermet.checkpoints.dtypes import FLOATS
from cermet.checkpoints.lora import AdaptedCheckpoint
from cermet.checkpoints.origin import hub_sha256
from cermet.checkpoints.quantised import DequantisedCheckpoint
from cermet.checkpoints.reader import Checkpoint
from cermet.checkpoints.revocabulary import RevocabularyCheckpoint
from cermet.core.fingerprint import digest_bytes, digest_hex, sha256_hex
from cermet.engine.run import Finished
from cermet.recipes.plan import Plan

__all__ = ["digest_of", "models_record", "shards_of", "stored"]

_VIEWS = (AdaptedCheckpoint, DequantisedCheckpoint, RevocabularyCheckpoint)
_STEP = 1 << 22  # elements looked at at once


def digest_of(checkpoint: Checkpoint, name: str) -> tuple[str, bool]:
    """Digest of a tensor as it is on disk, and whether all its numbers are finite."""
    info = checkpoint.tensors[name]
    total, finite = 0, True
    for start in range(0, info.numel, _STEP):
        block = checkpoint.block(name, start, min(start + _STEP, info.numel))
        raw = block.contiguous().view(torch.uint8).numpy()
        total += digest_bytes(raw, start * block.element_size())
        if info.dtype in FLOATS:
            finite = finite and bool(torch.isfinite(block).all())
    return digest_hex(total, info.nbytes), finite


def stored(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint as its files hold it: no adapter, no other vocabulary, nothing decoded."""
    while isinstance(checkpoint, _VIEWS):
        checkpoint = checkpoint.base
    return checkpoint


def shards_of(
    checkpoint: Checkpoint, digests: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """The files of a model: name, size, and digests of what is in them.

    digests: of the tensors that were read, by name. An adapter's files are hashed whole: they are
    small, and hold no tensor of the model. `hub_sha256` is the hub's word, where it gave one.
    """
    known = digests or {}
    files: dict[Path, list[str]] = {}
    for name, info in stored(checkpoint).tensors.items():
        files.setdefault(info.file, []).append(name)
    found = []
    for file, names in sorted(files.items()):
        tensors = stored(checkpoint).tensors
        lines = {n: f"{n} {tensors[n].dtype} {tensors[n].shape} {tensors[n].begin}" for n in names}
        read = sorted(f"{lines[n]} {known[n]}" for n in names if n in known)
        entry: dict[str, Any] = {
            "file": file.name,
            "bytes": file.stat().st_size if file.is_file() else None,
            "header_sha256": sha256_hex("\n".join(sorted(lines.values())).encode()),
            "content_sha256": sha256_hex("\n".join(read).encode()) if read else None,
            "tensors": len(names),
            "tensors_read": len(read),
        }
        told = hub_sha256(file)
        found.append(entry if told is None else {**entry, "hub_sha256": told})
    for file in checkpoint.adapter:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        found.append({"file": file.name, "bytes": file.stat().st_size, "sha256": digest})
    return found


def models_record(plan: Plan, finished: Finished) -> list[dict[str, Any]]:
    """All checkpoints of a plan with their files, as the record lists them."""
    digests = _digests(plan, finished)
    return [
        {"name": name, "path": c.path, "files": shards_of(c, digests[i])}
        for i, (name, c) in enumerate(zip(plan.names, plan.checkpoints, strict=True))
    ]


def _digests(plan: Plan, finished: Finished) -> Sequence[Mapping[str, str]]:
    """For each checkpoint the digests of its stored tensors that the merge read."""
    found: list[dict[str, str]] = [{} for _ in plan.checkpoints]
    adapted: list[tuple[int, str]] = []
    for task in plan.tasks:
        _, inputs = finished.digests[task.name]
        for named, digest in zip(task.inputs(), inputs, strict=True):
            checkpoint = plan.checkpoints[named.model]
            below = stored(checkpoint).tensors.get(named.tensor)
            if not checkpoint.exact or below != checkpoint.tensors[named.tensor]:
                adapted.append((named.model, named.tensor))
                continue
            nbytes = checkpoint.tensors[named.tensor].nbytes
            found[named.model][named.tensor] = digest_hex(digest, nbytes)
    for original, copy in plan.copies:  # they were compared, and are equal
        if original.tensor in found[original.model]:
            found[original.model][copy.tensor] = found[original.model][original.tensor]
    _fill_adapted(plan, found, adapted)
    return found


def _fill_adapted(
    plan: Plan, found: list[dict[str, str]], adapted: Sequence[tuple[int, str]]
) -> None:
    """Digests of what lies below adapters: known from a model without one, or read once more."""
    known = {
        (plan.checkpoints[i].tensors[name].file, name): digest
        for i, digests in enumerate(found)
        for name, digest in digests.items()
    }
    for model, adapted_name in adapted:
        below = stored(plan.checkpoints[model])
        for name in _stored_under(plan.checkpoints[model], adapted_name):
            if name in below.tensors and name not in found[model]:
                place = (below.tensors[name].file, name)
                if place not in known:
                    known[place] = digest_of(below, name)[0]
                found[model][name] = known[place]


def _stored_under(checkpoint: Checkpoint, name: str) -> tuple[str, ...]:
    """The stored tensors that one of a view is made of: also the scales of decoded weights."""
    while isinstance(checkpoint, _VIEWS):
        if isinstance(checkpoint, DequantisedCheckpoint):
            return checkpoint.stored_under(name)
        checkpoint = checkpoint.base
    return (name,)

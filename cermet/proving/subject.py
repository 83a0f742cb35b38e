"""A pool that is being measured: its models in folders here, and known by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cermet import api
from cermet.checkpoints.reader import Checkpoint
from cermet.core.errors import InputError
from cermet.core.fingerprint import sha256_hex
from cermet.recipes.opening import folder_of, open_model
from cermet.recipes.pool import Pool, Task
from cermet.recipes.schema import parse_model

__all__ = ["Model", "Subject", "prepared"]


@dataclass(frozen=True)
class Model:
    """A model of a pool.

    name: as recipes name it. folder: that an evaluator loads. digest: of its weights. bytes: of
    its weight files, or of an adapter's own.
    """

    name: str
    folder: Path
    digest: str
    bytes: int


@dataclass(frozen=True)
class Subject:
    """A pool and a seed, ready to be measured.

    seed: of the pool, or of the random methods where the pool has none. digest: of all models and
    examples. adapters: each made a whole model; their bytes are those of the adapter alone.
    """

    pool: Pool
    seed: int
    digest: str
    base: Model
    experts: Mapping[str, Model]
    multi_task: Model | None
    adapters: Mapping[str, Model]

    @property
    def tasks(self) -> Sequence[Task]:
        """All tasks of the pool, in the order of its file."""
        return self.pool.tasks

    def own(self, expert: str) -> list[Task]:
        """The tasks that an expert was tuned for."""
        return [task for task in self.pool.tasks if task.expert == expert]

    def digest_of(self, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        """A recipe with the content of its models in place of their names."""
        known = {m.name: m.digest for m in (self.base, *self.experts.values())}
        known |= {m.name: m.digest for m in self.adapters.values()}

        def told(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: told(inner) for name, inner in value.items()}
            if isinstance(value, list):
                return [told(inner) for inner in value]
            return known.get(value, value) if isinstance(value, str) else value

        found: Mapping[str, Any] = told(recipe)
        return found

    def part(self, experts: int) -> Subject:
        """The first experts, with the tasks that these were tuned for."""
        pool = self.pool.part(experts)
        return replace(
            self,
            pool=pool,
            experts={name: self.experts[name] for name in pool.experts},
            multi_task=None,
            adapters={name: self.adapters[name] for name in pool.adapters},
        )


def prepared(pool: Pool, seed: int, work: Path) -> Subject:
    """Open every model of a pool and read it once; what is an adapter is made a model in `work`.

    Raises InputError where the pool has one expert, or an expert has no task, and what opening a
    model raises.
    """
    if len(pool.experts) < 2:
        raise InputError(
            f"The pool '{pool.name}' has one expert ({next(iter(pool.experts))}); there is nothing "
            "to combine. Name two at least."
        )
    for expert in pool.experts:
        if not any(task.expert == expert for task in pool.tasks):
            raise InputError(
                f"'{pool.file}': no task belongs to the expert '{expert}', so nothing can be said "
                "of what a merge keeps of it. Add a task, or leave the expert out."
            )
    base = _model(pool.base, work / "base")
    experts = {n: _model(m, work / f"expert-{n}") for n, m in pool.experts.items()}
    whole = None if pool.multi_task is None else _model(pool.multi_task, work / "multi-task")
    adapters = {n: _adapter(pool, n, work / f"adapter-{n}") for n in pool.adapters}
    digests = [m.digest for m in (base, *experts.values())]
    digests += [_sha256([f for f in (*t.files.values(), t.head) if f is not None])
                for t in pool.tasks]  # fmt: skip
    return Subject(
        pool, seed, sha256_hex("".join(digests).encode())[:16], base, experts, whole, adapters
    )


def _model(name: str, made: Path) -> Model:
    reference = parse_model(name)
    checkpoint = open_model(reference)
    folder = folder_of(reference) if reference.lora is None else _whole(name, made)
    held = checkpoint if reference.lora is None else open_model(parse_model(str(folder)))
    size = sum(file.stat().st_size for file in {t.file for t in held.tensors.values()})
    return Model(name, folder, _digest(checkpoint), size)


def _adapter(pool: Pool, expert: str, made: Path) -> Model:
    """An adapter of a pool, with or without the base before it; the model is the base with it."""
    reference = parse_model(pool.adapters[expert])
    alone = pool.adapters[expert] if reference.lora is None else str(reference.lora)
    whole = f"{pool.base}+{alone}"
    checkpoint = open_model(parse_model(whole))
    size = sum(file.stat().st_size for file in checkpoint.adapter)
    return Model(alone, _whole(whole, made), _digest(checkpoint), size)


def _whole(name: str, made: Path) -> Path:
    """A model and its adapter as one checkpoint."""
    recipe = {"merge_method": "passthrough", "models": [{"model": name}]}
    return api.merge(recipe, made, overwrite=True, executor="threads").path


def _digest(checkpoint: Checkpoint) -> str:
    files = sorted({tensor.file for tensor in checkpoint.tensors.values()})
    return _sha256([*files, *checkpoint.adapter])


def _sha256(files: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]

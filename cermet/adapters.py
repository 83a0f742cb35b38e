"""The verbs of `api` for recipes whose models are LoRA adapters, and the one for memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from cermet.checkpoints.adapters import Adapter, adapter_of, is_adapter, open_adapter
from cermet.checkpoints.header import read_json
from cermet.checkpoints.hub import locate
from cermet.checkpoints.origin import Origin, origin_of
from cermet.checkpoints.writer import Layout, ShardWriter, layout
from cermet.core.errors import DiskError, InputError, MethodError, OutputError, RecipeError
from cermet.core.fingerprint import digest_hex
from cermet.core.registry import find_method, on_factors
from cermet.engine.adapter_files import adapter_card, adapter_config, adapter_record, changed_files
from cermet.engine.adapters import FileSink, MemorySink, merge_adapters_into, slots_of_adapter
from cermet.engine.findings import Findings, Kind, remade_differently
from cermet.engine.folder import RECORD, OutputFolder
from cermet.engine.licences import compare_licences
from cermet.engine.memory import DEFAULT_BUDGET, MemoryGauge
from cermet.engine.options import Options
from cermet.engine.record import write_json
from cermet.engine.tensors import device_of
from cermet.recipes.adapters import AdapterPlan, check_adapters, resolve_adapters
from cermet.recipes.document import Document, from_data
from cermet.recipes.schema import ModelRef, Recipe, parse_recipe

__all__ = [
    "Written",
    "for_adapters",
    "make_again",
    "merge_adapters",
    "plan_adapters",
    "write_adapter",
]

CONFIG = "adapter_config.json"

_ONE_FILE = 1 << 62  # bytes: PEFT reads one file of weights

AdapterLike = tuple[Mapping[str, "torch.Tensor"], Mapping[str, Any]]
"""Tensors by the names that PEFT saves, and what adapter_config.json holds."""


@dataclass(frozen=True)
class Written:
    """What a merge of adapters has written; see `cermet.api.Merged`."""

    seconds: float
    sync_seconds: float
    bytes: int
    peak: int
    tensors: int
    lost: Mapping[str, float]


def for_adapters(recipe: Recipe, document: Document, root: Path | None) -> bool:
    """Whether a recipe merges adapters: by its method, or by what its models are.

    Only folders that are here are looked at. RecipeError where adapters stand beside models.
    """
    if on_factors(recipe.merge_method):
        return True
    found = {i: _is_adapter(source.model, root) for i, source in enumerate(recipe.models or ())}
    if any(found.values()) and not all(found.values()):
        place = next(i for i, adapter in found.items() if adapter)
        name = (recipe.models or [])[place].model
        raise RecipeError(
            f"{document.at(('models', place))}: '{name}' is an adapter, which stands among models "
            f"here; write base+{name} for the model that it makes, or name adapters alone."
        )
    return bool(found) and all(found.values())


def _is_adapter(model: ModelRef, root: Path | None) -> bool:
    if model.lora is not None:
        return False
    try:
        path = Path(model.path).expanduser()
        folders = [path, *([root / path] if root is not None else [])]
        return any(is_adapter(folder) for folder in folders)
    except (OSError, RuntimeError):  # a name that is no path: said so where it is opened
        return False


def plan_adapters(
    recipe: Recipe, document: Document, *, compat: bool, root: Path | None
) -> AdapterPlan:
    """The plan of a recipe of adapters; their files are read, since they are small."""
    check_adapters(recipe, document, compat=compat)  # before anything is fetched or opened

    origins: dict[Path, Origin] = {}

    def opener(model: ModelRef) -> Adapter:
        folder = locate(model.path, model.revision, root)
        if not is_adapter(folder):
            raise RecipeError(
                f"{document.at(('models',))}: '{recipe.merge_method}' merges LoRA adapters, and "
                f"'{model}' is none; name folders with {CONFIG}, or use a method of models, such "
                "as task_arithmetic."
            )
        origins.setdefault(folder, origin_of(str(model), "adapter", folder))
        return open_adapter(folder, str(model))

    plan = resolve_adapters(recipe, document, opener, compat=compat)
    known = tuple(origins.values())
    told = [f"A model card: {o.card.problem}." for o in known if o.card.problem]
    told += compare_licences(known).warnings()
    return replace(plan, origins=known, warnings=(*plan.warnings, *told))


def write_adapter(
    plan: AdapterPlan,
    data: Any,
    recipe_yaml: str,
    out: Path,
    options: Options,
    progress: Callable[[str, int], None] | None,
    notes: Mapping[str, Any],
) -> Written:
    """Run a plan and write the adapter into the folder `out`; `data`: the recipe as written.

    Raises CermetError in one of its kinds; the output is then as it was before.
    """
    _check_apart(plan, out)
    files = layout(slots_of_adapter(plan), _ONE_FILE, "adapter_model")
    with OutputFolder(out, resume=options.resume, overwrite=options.overwrite) as folder:
        try:
            folder.check_space(files.size)
            folder.clear()
            written, record = _write(plan, data, recipe_yaml, files, folder, options, progress)
            write_json(folder.work / RECORD, {**record, "notes": notes} if notes else record)
            folder.publish()
        except OSError as error:
            raise DiskError(f"'{out}' cannot be written: {error.strerror or error}.") from error
        except BaseException:
            folder.discard()
            raise
    return written


def _write(
    plan: AdapterPlan,
    data: Any,
    recipe_yaml: str,
    files: Layout,
    folder: OutputFolder,
    options: Options,
    progress: Callable[[str, int], None] | None,
) -> tuple[Written, dict[str, Any]]:
    """The weights, the config and the card into the working folder; the record."""
    gauge = MemoryGauge()

    def told(name: str, count: int) -> None:
        gauge.look()
        if progress is not None:
            progress(name, count)

    began = time.perf_counter()
    writer = ShardWriter(folder.work, files)
    try:
        made = merge_adapters_into(plan, FileSink(writer), options, told)
        merged = time.perf_counter()
        writer.sync()
    finally:
        writer.close()
    seconds = (merged - began, time.perf_counter() - merged)
    write_json(folder.work / CONFIG, adapter_config(plan, made.scales))
    record = adapter_record(plan, made, files, data, options, seconds, folder)
    card = adapter_card(plan, recipe_yaml, record["models"])
    (folder.work / "README.md").write_text(card, "utf-8")
    record["files"] = folder.files()
    written = Written(*seconds, files.size, gauge.peak, len(files.slots), made.lost)
    return written, record


def _check_apart(plan: AdapterPlan, out: Path) -> None:
    """Refuse an output that would replace what it is made of."""
    for model, adapter in zip(plan.models, plan.adapters, strict=True):
        folders = {file.resolve().parent for file in adapter.files}
        folders |= {Path(os.path.realpath(file.parent)) for file in adapter.files}
        if Path(os.path.realpath(out)) in folders:
            raise OutputError(
                f"'{out}' holds '{model}', which is merged, so it cannot be the output. Choose "
                "another name."
            )


def make_again(
    folder: Path,
    plan: AdapterPlan,
    record: Mapping[str, Any],
    options: Options,
    seed: int,
    *,
    edited: bool,
) -> Findings:
    """Check the adapters' files, make some modules again, and compare; the config too.

    One module of every role, and of every rank, is chosen by `seed`. edited: whether the record's
    recipe is another than at the merge.
    """
    found = Findings()
    for problem in changed_files(plan, record):
        found.add(Kind.SOURCE, problem)
    if found.problems:
        return found
    known: Mapping[str, Any] = record["modules"]
    missing = [t.module for t in plan.tasks if t.module not in known]
    if missing:
        found.add(Kind.RECORD, f"the recipe makes a module '{missing[0]}' that is not there")
        return found
    groups: dict[tuple[str, int], list[str]] = {}
    for task in plan.tasks:
        groups.setdefault((str(task.place.role), task.rank), []).append(task.module)
    pick = Random(seed)
    chosen = frozenset(pick.choice(group) for group in groups.values())
    sink = MemorySink()
    made = merge_adapters_into(plan, sink, options, only=chosen)
    other = []
    for name, tensor in sink.tensors.items():
        entry = record["tensors"].get(name)
        digest = digest_hex(made.digests[name], tensor.nbytes)
        if entry is None or digest != entry["digest"]:
            other.append(name)
        found.remade += 1
    remade_differently(found, other, record, options.device, edited=edited)
    scales = {module: entry["scale"] for module, entry in known.items()} | made.scales
    if adapter_config(plan, scales) != read_json(folder / CONFIG, "the adapter's configuration"):
        found.add(Kind.OUTPUT, f"'{CONFIG}' is not what the recipe makes")
    return found


def merge_adapters(
    method: str,
    adapters: Sequence[AdapterLike],
    *,
    seed: int = 0,
    base_model: str | None = None,
    out_dtype: str | None = None,
    threads: int = 1,
    memory: int = DEFAULT_BUDGET,
    **parameters: Any,
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Merge LoRA adapters in memory, with the code that `merge` runs on their folders.

    Parameters
    ----------
    method: on the factors of adapters (`lora_sum`, ...), or on deltas (`ties`, ...).
    adapters: pairs of tensors, by the names that PEFT saves, and what adapter_config.json holds.
    seed: of random methods. base_model: what the result names as its base.
    out_dtype: as in a recipe. threads, memory: workers, and bytes of their working memory.
    parameters: of the method; one that has a value for each model is a number or a sequence in
        the order of the adapters.

    Returns the merged adapter in the same form, on the device that all tensors are on, which does
    the work. Raises CermetError in one of its kinds.
    """
    names = [f"adapter{i}" for i in range(len(adapters))]
    if not names:
        raise InputError("There are no adapters to merge.")
    recipe, document = _in_memory(method, names, parameters)
    recipe = recipe.model_copy(update={"seed": seed, "out_dtype": out_dtype})
    if base_model is not None:
        recipe = recipe.model_copy(update={"base_model": ModelRef(path=base_model)})
    device = device_of([tensors for tensors, _ in adapters], names)
    held = dict(zip(names, adapters, strict=True))
    plan = resolve_adapters(
        recipe, document, lambda model: adapter_of(*held[model.path], model.path)
    )
    sink = MemorySink()
    made = merge_adapters_into(plan, sink, Options(memory, threads, str(device)))
    tensors = {slot.name: sink.tensors[slot.name].to(device) for slot in slots_of_adapter(plan)}
    return tensors, adapter_config(plan, made.scales)


def _in_memory(
    method: str, names: Sequence[str], parameters: Mapping[str, Any]
) -> tuple[Recipe, Document]:
    """A recipe of what a caller gave: its values for each model stand beside the models."""
    known = find_method(method).parameters
    shared: dict[str, Any] = {}
    each: list[dict[str, Any]] = [{} for _ in names]
    for spelled, value in parameters.items():
        name = spelled.rstrip("_")
        per_model = name in known and known[name].per_model
        if not per_model or isinstance(value, str) or not isinstance(value, Sequence):
            shared[name] = value
            continue
        if len(value) != len(names):
            raise MethodError(
                f"'{method}': '{name}' has {len(value)} values for {len(names)} adapters."
            )
        for own, one in zip(each, value, strict=True):
            own[name] = one
    models = [{"model": n, "parameters": own} for n, own in zip(names, each, strict=True)]
    document = from_data({"merge_method": method, "models": models, "parameters": shared}, method)
    return parse_recipe(document)[0], document

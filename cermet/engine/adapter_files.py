"""What stands beside the weights of a merged adapter: its config, the record, the card."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cermet.checkpoints.adapters import Adapter
from cermet.checkpoints.writer import Layout
from cermet.core.fingerprint import digest_hex
from cermet.engine.adapters import Made
from cermet.engine.card import named, page, sources_section
from cermet.engine.folder import OutputFolder
from cermet.engine.options import Options
from cermet.engine.record import beside, machine, origins_record, recipe_sha256, versions
from cermet.recipes.adapters import AdapterPlan

__all__ = ["FORM", "adapter_card", "adapter_config", "adapter_record", "changed_files"]

FORM = "adapter"
"""What the record of a merged adapter says that it is of."""

_TARGETS = (
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
)  # fmt: skip
_TRAINING = {"eva_config", "corda_config", "lora_ga_config", "loftq_config", "velora_config"}


def adapter_config(plan: AdapterPlan, scales: Mapping[str, float]) -> dict[str, Any]:
    """adapter_config.json of the result: that of the first adapter, with what has changed.

    The most common rank and alpha are the defaults; other modules stand in the patterns.
    """
    first = dict(plan.adapters[0].raw)
    alphas = {t.module: _whole_number(scales[t.module] * t.rank) for t in plan.tasks}
    ranks = {t.module: t.rank for t in plan.tasks}
    rank = _most_common(list(ranks.values()), plan.adapters[0].config.rank)
    alpha = _most_common(list(alphas.values()), rank)
    found = {
        **first,
        "base_model_name_or_path": plan.base or first.get("base_model_name_or_path"),
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": _pattern(ranks, rank),
        "alpha_pattern": _pattern(alphas, alpha),
        "use_rslora": False,
        "lora_bias": any(task.bias for task in plan.tasks),
        "modules_to_save": _saved(plan.adapters),
        "bias": _bias(plan.adapters),
        "init_lora_weights": True,
        "inference_mode": True,
        **{key: None for key in _TRAINING if key in first},
    }
    if "loftq_config" in first:
        found["loftq_config"] = {}
    return found | _targets(plan)


def _most_common(values: Sequence[Any], otherwise: Any) -> Any:
    return Counter(values).most_common(1)[0][0] if values else otherwise


def _whole_number(value: float) -> float:
    return int(value) if value == int(value) else value


def _pattern(values: Mapping[str, float], usual: float) -> dict[str, float]:
    """The exceptions by full name of the module; PEFT takes the first key that a name ends in."""
    others = {module: value for module, value in values.items() if value != usual}
    clash = {m for m in values for o in others if m != o and m.endswith(f".{o}")}
    kept = others | {module: values[module] for module in clash}
    return dict(sorted(kept.items(), key=lambda item: -len(item[0])))


def _saved(adapters: Sequence[Adapter]) -> list[str] | None:
    said = [a.raw.get("modules_to_save") for a in adapters]
    return (
        list(dict.fromkeys(n for names in said if isinstance(names, list) for n in names)) or None
    )


def _bias(adapters: Sequence[Adapter]) -> str:
    """Which biases of the base are trained: as many as in the adapter that trains most."""
    said = {a.raw.get("bias") for a in adapters}
    return next((kind for kind in ("all", "lora_only") if kind in said), "none")


def _targets(plan: AdapterPlan) -> dict[str, Any]:
    """Which modules PEFT shall adapt: as the adapters say it if all say the same, else each."""
    said = [[a.raw.get(key) for key in _TARGETS] for a in plan.adapters]
    same = all(one == said[0] for one in said[1:])
    if same and all(a.modules.keys() == plan.adapters[0].modules.keys() for a in plan.adapters):
        return {}
    return {**dict.fromkeys(_TARGETS), "target_modules": sorted(t.module for t in plan.tasks)}


def adapter_record(
    plan: AdapterPlan,
    made: Made,
    files: Layout,
    recipe: Any,
    options: Options,
    seconds: tuple[float, float],
    folder: OutputFolder,
) -> dict[str, Any]:
    """The record of a merge of adapters, in the form of that of a merge of models.

    seconds: of the merge, and until all was on the disk. folder: with all other files in it.
    """
    return {
        "format": 1,
        "of": FORM,
        "recipe": recipe,
        "recipe_sha256": recipe_sha256(recipe),
        "seed": plan.recipe.seed,
        "models": [
            {"name": str(model), "path": a.path, "base": a.base, "files": _files(a)}
            for model, a in zip(plan.models, plan.adapters, strict=True)
        ],
        **origins_record(plan.origins),
        "versions": versions(),
        "machine": machine(options.device),
        "run": {
            "folder": os.path.relpath(Path.cwd(), folder.out),
            "device": options.device,
            "threads": options.workers(),
            "merge_seconds": round(seconds[0], 3),
            "sync_seconds": round(seconds[1], 3),
        },
        "warnings": list(plan.warnings),
        "files": folder.files(),
        "beside": beside(folder.work, folder.files()),
        "modules": {
            task.module: {
                "method": plan.method.name,
                "adapters": list(task.members),
                "rank": task.rank,
                "scale": made.scales[task.module],
                "lost": made.lost[task.module],
                "parameters": {
                    p.name: task.parameters[p.argument] for p in plan.method.parameters.values()
                },
            }
            for task in plan.tasks
        },
        "tensors": {
            name: {
                "shard": files.shard_of(name),
                "dtype": slot.dtype,
                "shape": list(slot.shape),
                "digest": digest_hex(made.digests[name], slot.nbytes),
                "method": plan.method.name,
                "sources": [],
            }
            for name, slot in files.slots.items()
        },
    }


def _files(adapter: Adapter) -> list[dict[str, Any]]:
    found = []
    for file in adapter.files:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        found.append({"file": file.name, "bytes": file.stat().st_size, "sha256": digest})
    return found


def changed_files(plan: AdapterPlan, record: Mapping[str, Any]) -> list[str]:
    """A sentence for each file of the adapters that is another than at the merge."""
    problems = []
    for model, adapter, entry in zip(plan.models, plan.adapters, record["models"], strict=False):
        known = {f["file"]: f.get("sha256") for f in entry["files"]}
        problems += [
            f"'{file['file']}' of '{model}' has changed since the merge"
            for file in _files(adapter)
            if file["sha256"] != known.get(file["file"])
        ]
    return problems


def adapter_card(plan: AdapterPlan, recipe_yaml: str, models: Sequence[Mapping[str, Any]]) -> str:
    """README.md of the result: what it was made of, how, and how to make it again.

    models: the adapters with their files, as the record lists them.
    """
    listed = "\n".join(f"- `{model}`" for model in plan.models)
    ranks = sorted({task.rank for task in plan.tasks})
    rank = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    body = f"""
# A merge of {len(plan.models)} adapters

Made by Cermet with the method {named(plan.method)}
{len(plan.tasks)} modules, {rank if ranks else "no factors"}.

## Adapters

{listed}

## Recipe

```yaml
{recipe_yaml.strip()}
```

{sources_section(plan.origins, models)}

`cermet.json` holds the recipe resolved for every module, and the digests of everything
that was read and written; `cermet verify` checks them.
"""
    return page(plan.origins, body, tags=("lora", plan.method.name), adapter_of=plan.base)

"""`merge --continue`: one more expert for a merge that is finished."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cermet import api
from cermet.api import Merged
from cermet.checkpoints.adapters import is_adapter
from cermet.checkpoints.hub import locate
from cermet.checkpoints.reader import Checkpoint, open_checkpoint
from cermet.core.errors import FormatError, InputError, MismatchError
from cermet.core.registry import all_methods, find_method
from cermet.engine.findings import Findings
from cermet.engine.record import record_in, run_folder
from cermet.engine.shards import digest_of
from cermet.engine.verify import check_beside, check_digests
from cermet.recipes.document import from_data
from cermet.recipes.opening import open_model
from cermet.recipes.schema import ModelRef, Recipe, parse_model, parse_recipe

__all__ = ["continue_merge"]


def continue_merge(
    merged: str | Path,
    expert: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    **options: Any,
) -> Merged:
    """Add one more expert to a finished merge; the experts that are in it are not needed.

    Parameters
    ----------
    merged: a folder that `merge` wrote with a method that takes experts one after another (opcm).
    expert: a folder, a file, a hub name or `model+adapter`, tuned from the same base.
    out: folder of the new merge, which can be continued too.
    base: where the base is now; where it was found before by default. Another base is refused.
    options: as of `merge`.

    The record of `out` holds an ordinary recipe, in which `merged` is the first model. Its bytes
    differ from those of a merge of all experts at once by the rounding of `merged`. Raises
    CermetError in one of its kinds; the output is then as it was before.
    """
    folder = Path(merged)
    record = record_in(folder)
    recipe = _recipe(folder, record)
    state = record.get("continue")
    if not state:
        raise InputError(
            f"'{folder}' was merged before Cermet kept what one more expert needs, so it cannot be "
            "continued; merge its experts again."
        )
    if recipe.base_model is None or str(recipe.base_model) not in [
        model["name"] for model in record["models"]
    ]:
        raise FormatError(f"The record of '{folder}' names no base; it is damaged.")
    root = run_folder(folder, record)
    found = parse_model(str(base)) if base is not None else _here(recipe.base_model, root)
    _check_merged(folder, record)
    _check_base(folder, record, str(recipe.base_model), str(found), _opened(folder, found))
    given = {
        **{key: value for key, value in record["recipe"].items() if key != "models"},
        "base_model": str(found),
        "models": [{"model": str(merged)}, {"model": str(expert)}],
        "parameters": {**(record["recipe"].get("parameters") or {}), **state},
    }
    return api.merge(given, out, **options)


def _recipe(folder: Path, record: Mapping[str, Any]) -> Recipe:
    """The recipe of a merge; InputError where it cannot take one more expert."""
    written = record["recipe"]
    able = [name for name, method in all_methods().items() if method.continues is not None]
    advice = f"merge all its experts again, or use {' or '.join(able)}"
    if not written.get("merge_method") or not written.get("models"):
        raise InputError(
            f"'{folder}' is no merge of whole models by one method, so no expert can be added to "
            f"it; {advice}."
        )
    recipe, _ = parse_recipe(from_data(written), compat=True)
    assert recipe.merge_method is not None
    if find_method(recipe.merge_method).continues is None:
        raise InputError(
            f"'{folder}' was merged with '{recipe.merge_method}', to which no expert can be added "
            f"afterwards; {advice}."
        )
    if is_adapter(folder):
        raise InputError(
            f"'{folder}' is a merged adapter, to which no expert can be added afterwards; merge "
            "all its adapters again."
        )
    if recipe.vocabulary is not None and recipe.vocabulary.source != "base":
        raise InputError(
            f"'{folder}' has another vocabulary than its base, so no expert can be added to it; "
            "merge all its experts again."
        )
    return recipe


def _here(model: ModelRef, root: Path) -> ModelRef:
    """A model as it is named from the current folder, where a recipe named it from another."""
    changed = {}
    for key in ("path", "lora"):
        name = getattr(model, key)
        if name is not None and (root / name).exists():
            there = locate(name, None, root).resolve()
            changed[key] = name if Path(name).resolve() == there else str(there)
    return model.model_copy(update=changed)


def _opened(folder: Path, base: ModelRef) -> Checkpoint:
    try:
        return open_model(base)
    except InputError as error:
        raise InputError(
            f"The base of '{folder}' is not where it was: {error} Say where it is with --base."
        ) from error


def _check_merged(folder: Path, record: Mapping[str, Any]) -> None:
    """Refuse a merge that is not what its record says."""
    found = Findings()
    found.take(check_beside(folder, record))
    found.take(check_digests(open_checkpoint(folder), record))
    if found.problems:
        raise FormatError(f"'{folder}' cannot be continued: {found.problems[0]}.")


def _check_base(
    folder: Path, record: Mapping[str, Any], known: str, name: str, base: Checkpoint
) -> None:
    """Refuse a base that is not the one of the merge."""
    index = [model["name"] for model in record["models"]].index(known)
    for tensor, entry in record["tensors"].items():
        for source in entry["sources"]:
            digest = source["digest"]
            if source.get("model") != index or digest is None or entry["method"] == "copy":
                continue
            if source["tensor"] not in base.tensors or (
                digest_of(base, source["tensor"])[0] != digest
            ):
                raise MismatchError(
                    f"'{name}' is not the base that '{folder}' was merged with: its tensor "
                    f"'{tensor}' is another. Name the right one with --base."
                )

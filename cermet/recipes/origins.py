"""The folders that a recipe takes something from, with what is known of each."""

from __future__ import annotations

from pathlib import Path

from cermet.checkpoints.hub import locate
from cermet.checkpoints.origin import Origin, Part, origin_of
from cermet.recipes.schema import Recipe, parse_model

__all__ = ["origins_of"]


def origins_of(recipe: Recipe, root: Path | None = None) -> tuple[Origin, ...]:
    """Models, adapters, and the model whose tokenizer is taken, each folder once."""
    found: dict[tuple[Path, Part], Origin] = {}

    def add(name: str, revision: str | None, part: Part) -> None:
        path = locate(name, revision, root)
        folder = path if path.is_dir() else path.parent
        found.setdefault((folder, part), origin_of(name, part, folder))

    for model in recipe.references():
        add(model.path, model.revision, "model")
        if model.lora is not None:
            add(model.lora, model.lora_revision, "adapter")
    words = recipe.vocabulary
    if words is not None and words.source not in ("base", "union"):
        model = parse_model(words.source)
        add(model.path, model.revision, "tokenizer")
    models = {folder for folder, part in found if part == "model"}
    return tuple(o for (f, part), o in found.items() if part != "tokenizer" or f not in models)

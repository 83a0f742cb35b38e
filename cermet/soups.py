"""The verbs that average many models: greedily, or with shares that are learnt.

They are built on the verbs of one merge in `api`.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cermet.api import check_apart, merge, plan
from cermet.checkpoints.hub import locate
from cermet.core.errors import BudgetError, InputError
from cermet.engine.copy import check_copies
from cermet.engine.folder import OutputFolder
from cermet.engine.memory import available_memory
from cermet.engine.options import DEFAULT_SHARD
from cermet.engine.run import fingerprint, plan_layout
from cermet.learn.examples import read_examples
from cermet.learn.groups import filtered, groups_of
from cermet.learn.kept import read_soup, write_soup
from cermet.learn.soup import LearnedSoup, Settings, Tick, learn_soup, memory_needed
from cermet.recipes.plan import Plan
from cermet.recipes.schema import ModelRef, parse_model
from cermet.search.greedy import Soup, greedy_soup

__all__ = ["learned_soup", "soup"]


def soup(
    models: Sequence[str | Path],
    score: Callable[[Path], float],
    out: str | Path,
    *,
    overwrite: bool = False,
    **options: Any,
) -> Soup:
    """Average those of some models whose average scores best, added one by one, into `out`.

    Parameters
    ----------
    models: folders, files or hub names, all tuned from one start.
    score: maps a folder with a checkpoint to its score on data that no test uses; larger is
        better. It is called once for each model, and once for each average that is tried.
    options: as of `merge`.

    Raises CermetError in one of its kinds before anything is scored where the models cannot be
    averaged or the output cannot be written. See `cermet.search.greedy`.
    """
    names = [str(model) for model in models]
    _planned(names, Path(out), overwrite)
    references = [parse_model(name) for name in names]

    def scored(members: tuple[int, ...]) -> float:
        if len(members) == 1 and references[members[0]].lora is None:
            return float(score(_folder(references[members[0]])))
        with tempfile.TemporaryDirectory(prefix=f".{Path(out).name}.soup-", dir=_beside(out)) as at:
            merge(_recipe([names[i] for i in members]), Path(at, "soup"), **options)
            return float(score(Path(at, "soup")))

    found = greedy_soup(len(names), scored)
    members = [names[i] for i in found.members]
    merge(_recipe(members), out, overwrite=overwrite, **options)
    return found


def learned_soup(
    models: Sequence[str | Path],
    data: str | Path,
    out: str | Path,
    *,
    by_layer: bool = False,
    steps: int = 100,
    learning_rate: float = 0.05,
    batch: int = 8,
    tokens: int = 256,
    seed: int = 0,
    coefficients: str | Path | None = None,
    tick: Tick | None = None,
    overwrite: bool = False,
    **options: Any,
) -> LearnedSoup:
    """Average some models with the shares that give the least loss on texts, into `out`.

    Parameters
    ----------
    models: as of `soup`, with a tokenizer; transformers has to know their architecture. All of
        them are held in memory, in float32.
    data: a file of JSON lines with texts that no test uses: {"text": ...} for causal language
        models, {"text": ..., "label": ...} for sequence classifiers. A fifth of the distinct
        texts is held back: the scores of the result are about them.
    by_layer: learn the shares of each layer by themselves.
    learning_rate: of AdamW. batch: texts of a step. tokens: of a text that are read.
    seed: draws the texts that are held back, and the order of the others.
    coefficients: a file for what is learnt. Where it exists already and was learnt from the same,
        nothing is learnt again.
    tick: gets the steps done and the loss of the last. options: as of `merge`.

    The output is an ordinary `linear` merge; its recipe holds the shares, its record under
    `notes` all that this returns. Raises CermetError in one of its kinds.
    """
    names = [str(model) for model in models]
    settings = Settings(by_layer, steps, learning_rate, batch, tokens, seed)
    _check_settings(settings)
    examples = read_examples(Path(data))
    resolved = _planned(names, Path(out), overwrite)
    _check_memory(resolved, len(names), settings)
    kept = None if coefficients is None else Path(coefficients)
    key = _key(resolved, Path(data), settings)
    places = [t.place for t in resolved.tasks if t.method is not None]
    if kept is not None and kept.exists():
        found = read_soup(kept, key)
    else:
        with tempfile.TemporaryDirectory(prefix=f".{Path(out).name}.soup-", dir=_beside(out)) as at:
            folders = [_whole(name, Path(at, str(i)), options) for i, name in enumerate(names)]
            found = learn_soup(folders, examples, groups_of(places), settings, tick)
        if kept is not None:
            write_soup(kept, found, key)
    weights: list[Any] = list(found.coefficients[0])
    if by_layer:
        shares = zip(*found.coefficients, strict=True)
        weights = [filtered(places, dict(zip(found.groups, s, strict=True))) for s in shares]
    notes = {"learned_soup": {**asdict(found), "settings": asdict(settings)}}
    merge(_recipe(names, weights), out, overwrite=overwrite, notes=notes, **options)
    return found


def _recipe(models: Sequence[str], weights: Sequence[Any] | None = None) -> dict[str, Any]:
    """Their average, with equal weights by default."""
    shares = [1] * len(models) if weights is None else weights
    entries = [
        {"model": model, "parameters": {"weight": share}}
        for model, share in zip(models, shares, strict=True)
    ]
    return {"merge_method": "linear", "models": entries}


def _planned(names: Sequence[str], out: Path, overwrite: bool) -> Plan:
    """The plan of the average of all; whatever would stop the last merge stops here."""
    if not names:
        raise InputError("A soup needs at least one model.")
    resolved = plan(_recipe(names))
    assert isinstance(resolved, Plan)  # adapters are no models that linear could average
    check_apart(resolved, out)
    check_copies(resolved)
    with OutputFolder(out, resume=False, overwrite=overwrite) as folder:
        folder.discard()  # it can be written; the merge at the end makes it again
    return resolved


def _beside(out: str | Path) -> Path:
    """The folder in which the output will stand."""
    return Path(out).absolute().parent


def _folder(reference: ModelRef) -> Path:
    return locate(reference.path, reference.revision, None)


def _whole(name: str, room: Path, options: dict[str, Any]) -> Path:
    """The folder of a model; where it has an adapter, one in `room` with the two made one."""
    reference = parse_model(name)
    if reference.lora is None:
        return _folder(reference)
    merge(_recipe([name]), room, **options)
    return room


def _check_settings(settings: Settings) -> None:
    least = {"steps": 1, "batch": 1, "longest": 2}
    for name, low in least.items():
        if getattr(settings, name) < low:
            word = "tokens" if name == "longest" else name
            raise InputError(f"'{word}' of a learned soup must be at least {low}.")
    if not 0 < settings.rate < 1e30:
        raise InputError(f"The learning rate must be more than 0, not {settings.rate}.")


def _check_memory(resolved: Plan, models: int, settings: Settings) -> None:
    """Refuse what would be killed for memory, while nothing is loaded yet."""
    size = resolved.config.get("vocab_size") if resolved.config else None
    vocabulary = size if isinstance(size, int) else 0
    numbers = sum(task.numel for task in resolved.tasks)
    needed, free = memory_needed(numbers, models, vocabulary, settings), available_memory()
    if free is not None and needed > free:
        raise BudgetError(
            f"Learning a soup of {models} models holds them all in memory and takes "
            f"{needed / 1e9:.1f} GB at least, but {free / 1e9:.1f} GB are free; take fewer models "
            "or smaller batches, or make a greedy soup."
        )


def _key(resolved: Plan, data: Path, settings: Settings) -> str:
    """From what a soup is learnt: the models' files, the data, the settings."""
    parts = [
        fingerprint(resolved, [plan_layout(resolved, DEFAULT_SHARD)], "cpu"),
        hashlib.sha256(data.read_bytes()).hexdigest(),
        asdict(settings),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

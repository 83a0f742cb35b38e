"""Shadow-FT (arXiv:2505.12716): what an expert learnt on the base, grafted onto the tuned model.

Beside it stands the tuned model that learnt the same directly. The pool has experts of the base, a
multi_task model, and in the folder `direct` a pool whose base is that model and whose experts were
tuned from it, such as `cermet zoo build voices --with direct` makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.records import append, context
from cermet import api
from cermet.core.errors import CermetError
from cermet.evaluation import evaluate
from cermet.recipes.pool import Pool, read_pool

__all__ = ["GRAFTS", "measure_shadow"]

GRAFTS = ("shadow_ft", "task_arithmetic")
"""The published graft, of linear layers alone, and that of the whole delta; both at weight 1."""


def measure_shadow(place: Path, folder: Path, date: str) -> Path:
    """Measure all on test, and add one record to those in `folder`, whose file is returned.

    place: of the pool. date: for the record. SystemExit, with one sentence, where the pool lacks
    what is needed, and for every CermetError.
    """
    try:
        pool = read_pool(place)
        direct = _direct(pool, place)
        with TemporaryDirectory(prefix="cermet-shadow-") as name:
            tuned, work = _values(direct.base, pool), Path(name)
            domains = {each: _domain(each, pool, direct, work) for each in pool.experts}
    except CermetError as error:
        raise SystemExit(str(error)) from error
    append(folder, {
        "kind": "shadow", "pool": pool.name, "tuned": tuned, "domains": domains,
        "apart": _apart(pool.base, direct.base),
        "tasks": {t.name: {"metric": t.metric, "expert": t.expert} for t in pool.tasks},
        **context(date),
    })  # fmt: skip
    return folder / "shadow.jsonl"


def _direct(pool: Pool, place: Path) -> Pool:
    """The pool of the tuned model; SystemExit where it is of another one, or other domains."""
    if not (place / "direct").is_dir():
        raise SystemExit(
            f"'{place}' has no pool in 'direct'; build one with `--with direct`, as "
            "`cermet zoo build voices --with direct` does."
        )
    found = read_pool(place / "direct")
    if pool.multi_task is None or Path(found.base).resolve() != Path(pool.multi_task).resolve():
        raise SystemExit(f"'{found.file}': its base is not the multi_task model of '{pool.file}'.")
    if found.experts.keys() != pool.experts.keys():
        raise SystemExit(f"'{found.file}': its experts are not those of '{pool.file}'.")
    return found


def _domain(name: str, pool: Pool, direct: Pool, work: Path) -> Mapping[str, Mapping[str, float]]:
    """What the tuned model is worth on every task after learning one domain, by way."""
    print(f"{pool.name}: {name}", flush=True)
    found = {"direct": _values(direct.experts[name], pool)}
    for graft in GRAFTS:
        delta = {"model": pool.experts[name], "delta_of": pool.base, "parameters": {"weight": 1.0}}
        recipe = {"merge_method": graft, "base_model": direct.base, "models": [delta]}
        made = api.merge(recipe, work / f"{name}-{graft}", executor="threads").path
        found[graft] = _values(str(made), pool)
    return found


def _values(model: str, pool: Pool) -> dict[str, float]:
    return {task.task: task.value for task in evaluate(model, pool.file).tasks}


def _apart(base: str, tuned: str) -> float:
    """The sum of |difference| as a share of that of both models' entries. The paper's pairs of base
    and tuned model differ by less than 0.02.
    """
    one, other = api.open(base), api.open(tuned)
    far = sum(float((one[n].double() - other[n].double()).abs().sum()) for n in one)
    size = sum(float(t.double().abs().sum()) for held in (one, other) for t in held.values())
    return far / size

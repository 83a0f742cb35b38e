"""The demo: four experts of one base, merged by five methods, and what each merge is worth.

The numbers in MERGES were chosen on the validation split of seeds 0 to 2, whose templates are
neither in train nor in test. How the experts are tuned (`pull`) was settled on validation as
well, after a first setting had kept less than 95 % of the experts on test.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from cermet.core.errors import InputError
from cermet.evaluate.evaluator import Evaluator
from cermet.evaluate.statistics import normalised
from cermet.recipes.pool import Pool, read_pool
from cermet.zoo.catalogue import place_of
from cermet.zoo.demo import demo_pool, generated_subjects
from cermet.zoo.steps import Progress, build
from cermet.zoo.train import THREADS, Course
from cermet.zoo.utterances import generator_fingerprint

__all__ = ["AVERAGE", "MERGES", "DemoTable", "Merge", "Row", "recipe_of", "run"]

AVERAGE = "linear"
"""The plain average: the row that the others are compared with."""


@dataclass(frozen=True)
class Merge:
    """One merge of the table: its method, parameters of each expert, parameters of all."""

    method: str
    each: Mapping[str, Any]
    whole: Mapping[str, Any]
    on_base: bool = True


_DEEPER = {"weight": [0.4, 1.0]}  # a gradient: more of what the deeper layers have learnt

MERGES = (
    Merge(AVERAGE, {"weight": 1.0}, {}, on_base=False),
    Merge("task_arithmetic", _DEEPER, {}),
    Merge("breadcrumbs", {**_DEEPER, "density": 0.9, "gamma": 0.001}, {}),
    Merge("della", {"weight": 1.0, "density": 0.7, "epsilon": 0.2}, {"lambda": [0.7, 2.4]}),
    Merge("ties", {"weight": 1.0, "density": 0.7}, {"lambda": [0.7, 2.4]}),
)


class _Merged(Protocol):
    @property
    def seconds(self) -> float: ...
    @property
    def bytes(self) -> int: ...


class _MergeCall(Protocol):
    def __call__(self, recipe: Mapping[str, Any], out: Path, *, overwrite: bool) -> _Merged: ...


@dataclass(frozen=True)
class Row:
    """One model of the table.

    kind: base, expert or merge; accuracy: by domain; kept: accuracy by domain as a share of
    the domain's expert; seconds: of the merge, None for what was not merged; bytes: of weights.
    """

    name: str
    kind: str
    accuracy: Mapping[str, float]
    mean: float
    worst: float
    kept: Mapping[str, float]
    seconds: float | None
    bytes: int

    @property
    def kept_mean(self) -> float:
        """The mean over the domains of what is kept of the experts."""
        return sum(self.kept.values()) / len(self.kept)

    @property
    def kept_worst(self) -> float:
        """What is kept of the expert in the domain where that is least."""
        return min(self.kept.values())


@dataclass(frozen=True)
class DemoTable:
    """All rows, with what is needed to make them again.

    generator: fingerprint of the utterances; trained: domains whose experts were trained in
    this run; seconds: of the whole run.
    """

    seed: int
    generator: str
    rows: tuple[Row, ...]
    trained: tuple[str, ...]
    seconds: float

    def named(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)

    def best(self) -> Row:
        """The merge that keeps most of the experts on its worst domain."""
        return max((r for r in self.rows if r.kind == "merge"), key=lambda row: row.kept_worst)

    def conclusion(self) -> tuple[str, str]:
        """Two sentences, made from the numbers."""
        best, average, base = self.best(), self.named(AVERAGE), self.rows[0]
        experts = [row for row in self.rows if row.kind == "expert"]
        size = sum(row.bytes for row in experts)
        first = (
            f"{best.name} does the work of {len(experts)} models ({size / 1e6:.0f} MB) in "
            f"{best.bytes / 1e6:.0f} MB: it keeps {best.kept_mean:.1%} of the experts' accuracy, "
            f"and {best.kept_worst:.1%} in the domain where it keeps least."
        )
        gain = 100 * (best.mean - average.mean)
        second = (
            f"Its mean accuracy is {best.mean:.1%}: {abs(gain):.1f} points "
            f"{'above' if gain >= 0 else 'below'} the plain average ({average.mean:.1%}); the "
            f"base has {base.mean:.1%}."
        )
        return first, second

    def record(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        rows = [
            {**asdict(row), "kept_mean": row.kept_mean, "kept_worst": row.kept_worst}
            for row in self.rows
        ]
        return {
            "kind": "demo",
            "seed": self.seed,
            "generator": self.generator,
            "recipes": [asdict(merge) for merge in MERGES],
            "rows": rows,
            "trained": list(self.trained),
            "seconds": self.seconds,
            "conclusion": list(self.conclusion()),
        }


def run(
    directory: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    merge: _MergeCall | None = None,
    course: Course | None = None,
) -> DemoTable:
    """Build the pool of a seed (or find it), merge its experts, and measure everything.

    `directory` keeps pool and merges (by default the cache, see `place_of`); `progress` hears
    of the build, of merges and of what is measured; `merge` is `cermet.api.merge` unless another
    is given. Raises ExtraError where a library is missing, DiskError, OutputError.
    """
    begin = time.perf_counter()
    if seed < 0:
        raise InputError(f"The seed is {seed}; it has to be 0 or more.")
    if merge is None:
        from cermet.api import merge as found

        merge = found
    place = place_of("demo", seed) if directory is None else directory.absolute() / f"seed-{seed}"
    heard = progress or Progress()
    blueprint = demo_pool(seed, generated_subjects(seed), course).blueprint()
    built = build(blueprint, place, heard)
    pool = read_pool(place)
    made: list[tuple[str, Path, _Merged]] = []
    for wanted in MERGES:
        out = place / "merged" / wanted.method
        done = merge(recipe_of(wanted, pool, seed), out, overwrite=True)
        made.append((wanted.method, out, done))
        heard.echo(f"{wanted.method}: merged in {done.seconds:.2f} s")
    return DemoTable(
        seed=seed,
        generator=generator_fingerprint(seed),
        rows=tuple(_measured(pool, made, heard)),
        trained=tuple(name for name in pool.experts if f"experts/{name}" in built.made),
        seconds=time.perf_counter() - begin,
    )


def recipe_of(wanted: Merge, pool: Pool, seed: int) -> dict[str, Any]:
    """An ordinary recipe: every expert with the same parameters, float32 in and out."""
    models = [{"model": path, "parameters": dict(wanted.each)} for path in pool.experts.values()]
    recipe: dict[str, Any] = {"merge_method": wanted.method, "models": models, "dtype": "float32"}
    if wanted.on_base:
        recipe["base_model"] = pool.base
    if wanted.whole:
        recipe["parameters"] = dict(wanted.whole)
    recipe["seed"] = seed
    return recipe


def _measured(
    pool: Pool, made: Sequence[tuple[str, Path, _Merged]], progress: Progress
) -> list[Row]:
    evaluator = Evaluator(pool.tasks, threads=THREADS)

    def scored(name: str, folder: Path) -> dict[str, float]:
        tick, found = progress.begin(f"measuring {name}"), {}
        for done, task in enumerate(pool.tasks, start=1):
            found[task.name] = evaluator.outcomes(folder, task.name, "test").value
            tick(done, len(pool.tasks))
        progress.echo(f"{name}: measured on held-out utterances")
        return found

    base = scored("base", Path(pool.base))
    experts = {name: scored(name, Path(folder)) for name, folder in pool.experts.items()}
    best = {name: found[name] for name, found in experts.items()}
    rows = [_row("base", "base", base, best, Path(pool.base))]
    for name, found in experts.items():
        rows.append(_row(f"expert: {name}", "expert", found, best, Path(pool.experts[name])))
    for name, folder, done in made:
        rows.append(_row(name, "merge", scored(name, folder), best, folder, done))
    return rows


def _row(
    name: str,
    kind: str,
    accuracy: Mapping[str, float],
    experts: Mapping[str, float],
    folder: Path,
    merged: _Merged | None = None,
) -> Row:
    kept = {t: normalised(value, experts[t], "accuracy") for t, value in accuracy.items()}
    mean, worst = sum(accuracy.values()) / len(accuracy), min(accuracy.values())
    seconds = None if merged is None else merged.seconds
    size = _weights(folder) if merged is None else merged.bytes
    return Row(name, kind, accuracy, mean, worst, kept, seconds, size)


def _weights(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))

"""One pool, one seed: references, then every candidate chosen on validation and told on test."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cermet.core.errors import (
    CermetError,
    DataError,
    DiskError,
    ExtraError,
    MismatchError,
    OutputError,
)
from cermet.engine.record import versions
from cermet.evaluate.outcomes import Outcomes
from cermet.evaluate.outcomes import key_of as outcomes_key
from cermet.evaluate.statistics import interval, negative_flips, normalised
from cermet.proving.candidates import Candidate, Refused
from cermet.proving.intervals import mean_interval
from cermet.proving.made import Maker, Measured
from cermet.proving.records import Records, key_of
from cermet.recipes.pool import Split

__all__ = ["APART", "Heard", "Trial"]

APART = "experts kept apart"
"""The row of the quality ceiling: every task by its own expert, and the bytes of all."""


@dataclass(frozen=True)
class Heard:
    """What hears of a bench: a line about each row, and what is being measured, of how much."""

    echo: Callable[[str], None] = lambda line: None
    tick: Callable[[str, int, int], None] = lambda name, done, total: None


@dataclass
class Trial:
    """Everything that is measured of one pool; `experts` tells how many it has.

    experts_at: outcomes of the experts on their own tasks, what all others are a share of.
    """

    maker: Maker
    records: Records
    heard: Heard
    experts_at: dict[Split, Mapping[str, Outcomes]] = field(default_factory=dict)

    @property
    def _count(self) -> int:
        return len(self.maker.subject.experts)

    def references(self) -> None:
        """The base, every expert, the experts kept apart, the model tuned on all tasks, and the
        adapters kept apart, where there are any.
        """
        subject, maker = self.maker.subject, self.maker
        self.experts_at = {split: self._experts(split) for split in ("validation", "test")}
        apart = sum(model.bytes for model in subject.experts.values())
        self._reference(APART, lambda: self.experts_at["test"], apart)
        whole = [("base", subject.base)]
        whole += [(f"expert: {name}", model) for name, model in subject.experts.items()]
        if subject.multi_task is not None:
            whole.append(("multi-task", subject.multi_task))
        for name, model in whole:
            self._reference(name, partial(maker.reference, model, "test"), model.bytes)
        if subject.adapters:
            size = subject.base.bytes + sum(m.bytes for m in subject.adapters.values())
            apart_from = partial(maker.kept_apart, subject.adapters, "test")
            self._reference("adapters kept apart", apart_from, size)

    def _experts(self, split: Split) -> Mapping[str, Outcomes]:
        """The experts on their own tasks: as they were kept, or measured now."""
        row = self._row(APART, "reference", split)
        key, folder = key_of(self._stands(row)), self._outcomes_folder(row) / split
        names = [task.name for task in self.maker.subject.tasks if task.expert is not None]
        files = {name: folder / f"{name}.safetensors" for name in names}
        if all(outcomes_key(file) == key for file in files.values()):
            kept = {name: Outcomes.load(file) for name, file in files.items()}
            self.maker.know(kept, split)
            return kept
        self.heard.tick(f"{APART}, {split}", 0, 1)
        found = self.maker.kept_apart(self.maker.subject.experts, split)
        for name, outcomes in found.items():
            if outcomes.metric != "bits_per_character" and outcomes.value == 0:
                raise MismatchError(
                    f"The expert of the task '{name}' is never right on {split}, so nothing can be "
                    "said as a share of it. Check the expert and the files of the task."
                )
            outcomes.save(files[name], key)
        return found

    def _reference(self, name: str, made: Callable[[], Mapping[str, Outcomes]], size: int) -> None:
        subject = self.maker.subject
        row = self._row(name, "reference", "test")
        key = key_of({**self._stands(row), "recipe": name})
        if self.records.find(key, row) is None:
            self.heard.tick(name, 0, 1)
            self._tell(row, key, {}, {"reference": name}, Measured(made(), 0.0, 0, size))
            self.heard.echo(f"{subject.pool.name}, seed {subject.seed}: {name}")

    def run(self, candidate: Candidate) -> None:
        """Choose the coefficient of a candidate on validation, and measure that one on test.

        What fails with an error of the method or of its data becomes a record that says so; a
        full disk and a missing library end the bench.
        """
        try:
            point = self._chosen(candidate)
            line = self._test(candidate, point)
        except (DiskError, ExtraError, OutputError):
            raise
        except CermetError as error:
            self.refuse(Refused(candidate.name, candidate.kind, str(error)))
            self.heard.echo(f"{candidate.name}: not run: {error}")
        else:
            chosen = _told(candidate, point)
            self.heard.echo(f"{candidate.name}{chosen}: {line['normalised']:.1%} of the experts")
        finally:
            self.maker.forget(candidate)

    def refuse(self, refused: Refused) -> None:
        """Keep why something is not run."""
        row = self._row(refused.name, refused.kind, "test")
        key = key_of({**self._stands(row), "not_run": refused.reason})
        if self.records.find(key, row) is None:
            self.records.add({"key": key, **row, "point": {}, "not_run": refused.reason})

    def _chosen(self, candidate: Candidate) -> Mapping[str, Any]:
        """The point whose mean share of the experts is largest on validation; of equals the first.

        Where every point fails, the error of the first is raised.
        """
        points = candidate.grid.points
        if len(points) == 1:
            return points[0]
        best, failed = (-math.inf, points[0]), list[CermetError]()
        for done, point in enumerate(points):
            self.heard.tick(candidate.name, done, len(points) + 1)
            try:
                value = self._validation(candidate, point)
            except DataError as error:  # numbers that overflow at a large factor
                failed.append(error)
                continue
            if value > best[0]:
                best = value, point
        if len(failed) == len(points):
            raise failed[0]
        return best[1]

    def _validation(self, candidate: Candidate, point: Mapping[str, Any]) -> float:
        row = {**self._row(candidate.name, candidate.kind, "validation"), "point": dict(point)}
        recipe = self.maker.recipe(candidate, point)
        key = key_of({**self._stands(row), "recipe": self.maker.subject.digest_of(recipe)})
        found = self.records.find(key, row)
        if found is None:
            if candidate.grid.scales:
                outcomes = self.maker.scaled(candidate, point, "validation")
            else:
                outcomes = self.maker.measured(candidate, point, "validation").outcomes
            tasks = self._tasks(outcomes, "validation", told=False)
            found = self.records.add({
                "key": key, **row, "recipe": recipe, "scaled": candidate.grid.scales,
                "tasks": tasks, "normalised": _mean(t.get("normalised") for t in tasks.values()),
            })  # fmt: skip
        value = float(found["normalised"])
        return value if math.isfinite(value) else -math.inf

    def _test(self, candidate: Candidate, point: Mapping[str, Any]) -> Mapping[str, Any]:
        recipe = self.maker.recipe(candidate, point)
        row = self._row(candidate.name, candidate.kind, "test")
        stands = {**self._stands(row), "recipe": self.maker.subject.digest_of(recipe)}
        key = key_of({**stands, "grid": candidate.grid.values})
        found = self.records.find(key, row)
        if found is not None:
            return found
        total = len(candidate.grid.points) + 1
        self.heard.tick(candidate.name, total - 1, total)
        measured = self.maker.measured(candidate, point, "test")
        return self._tell(row, key, point, recipe, measured, candidate)

    def _row(self, name: str, kind: str, split: Split) -> dict[str, Any]:
        subject = self.maker.subject
        return {
            "pool": subject.pool.name, "pool_digest": subject.digest, "experts": self._count,
            "seed": subject.seed, "kind": kind, "name": name, "split": split,
        }  # fmt: skip

    def _stands(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What decides the numbers beside the recipe."""
        subject = self.maker.subject
        more = None if subject.multi_task is None else subject.multi_task.digest
        return {
            **row, "limit": self.maker.limit, "version": versions()["cermet"], "multi_task": more,
            "adapters": [m.digest for m in subject.adapters.values()],
        }  # fmt: skip

    def _tell(
        self,
        row: Mapping[str, Any],
        key: str,
        point: Mapping[str, Any],
        recipe: Mapping[str, Any],
        measured: Measured,
        candidate: Candidate | None = None,
    ) -> dict[str, Any]:
        """Keep what was measured on test, with the outcomes of every example."""
        folder = self._outcomes_folder(row)
        for name, outcomes in measured.outcomes.items():
            outcomes.save(folder / f"{name}.safetensors", key)
        tasks = self._tasks(measured.outcomes, "test", told=True)
        own = [t for t in tasks.values() if "normalised" in t]
        other = [t["value"] for t in tasks.values() if "normalised" not in t]
        shares = [t["normalised"] for t in own]
        flips = [t["flips"] for t in own if t["flips"] is not None]
        low, high = mean_interval(measured.outcomes, self.experts_at["test"])
        alike = len({t["metric"] for t in own}) == 1
        return self.records.add({
            "key": key, **row, "point": dict(point), "recipe": dict(recipe), "tasks": tasks,
            "knob": candidate.grid.knob if candidate else None,
            "grid": candidate.grid.values if candidate else [],
            "random": candidate.random if candidate else False,
            "mean": _mean(t["value"] for t in own) if alike else None,
            "normalised": _mean(shares), "low": low, "high": high, "worst": min(shares),
            "out_of_domain": _mean(other) if other else None,
            "flips": _mean(flips) if flips else None,
            "seconds": round(measured.seconds, 4), "peak_bytes": measured.peak,
            "bytes": measured.bytes, "outcomes": str(folder.relative_to(self.records.folder)),
        })  # fmt: skip

    def _outcomes_folder(self, row: Mapping[str, Any]) -> Path:
        place = f"{row['experts']}-experts", f"seed-{row['seed']}", row["kind"]
        plain = "".join(c if c.isalnum() or c in "._=-" else "_" for c in row["name"])
        return self.records.folder.joinpath("outcomes", *place, plain)

    def _tasks(
        self, outcomes: Mapping[str, Outcomes], split: Split, *, told: bool
    ) -> dict[str, dict[str, Any]]:
        """What is kept of each task; `told`: with interval and flips, for what is reported."""
        found, experts = dict[str, dict[str, Any]](), self.experts_at[split]
        for name, one in outcomes.items():
            kept: dict[str, Any] = {"value": one.value, "metric": one.metric, "examples": len(one)}
            if name in experts:
                kept["normalised"] = normalised(one.value, experts[name].value, one.metric)
            if told:
                kept["low"], kept["high"] = interval(one)
                if name in experts:
                    kept["flips"] = negative_flips(experts[name], one)
            found[name] = kept
        return found


def _mean(values: Any) -> float:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known)


def _told(candidate: Candidate, point: Mapping[str, Any]) -> str:
    knob = candidate.grid.knob
    return "" if knob is None else f" ({knob} {point[knob]:g})"

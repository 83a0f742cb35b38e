"""`bench`: every method on a pool, chosen on validation and told on test, in one table."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cermet.core.device import check_device
from cermet.core.errors import InputError, OutputError
from cermet.core.registry import nearest
from cermet.engine.memory import DEFAULT_BUDGET
from cermet.evaluate.evaluator import Evaluator
from cermet.proving.candidates import ACROSS, Candidate, Refused, candidates
from cermet.proving.formats import write_tables
from cermet.proving.made import Evaluating, Maker
from cermet.proving.records import Records
from cermet.proving.subject import Subject, prepared
from cermet.proving.table import Table, tables
from cermet.proving.trial import Heard, Trial
from cermet.recipes.pool import POOL, Pool, Task, read_pool
from cermet.zoo.catalogue import POOLS, Wanted, find_entry, place_of
from cermet.zoo.steps import Progress, build

__all__ = ["Settings", "bench", "shown"]

Evaluators = Callable[[Sequence[Task]], Evaluating]


@dataclass(frozen=True)
class Settings:
    """What a bench measures.

    methods: names of methods and codecs, None for all. points: of the grid of every method.
    seeds: how many, from `first_seed` on: of the pool, where it is built here, else of the methods
    that draw random numbers. experts: numbers of experts, to measure pools of the first so many
    too, by the methods named, or by those of `candidates.ACROSS`. limit: examples of a task at
    most. device, threads, memory: of merges and of what measures them; memory in bytes, of a merge.
    """

    methods: tuple[str, ...] | None = None
    points: int = 5
    seeds: int = 1
    first_seed: int = 0
    experts: tuple[int, ...] = ()
    limit: int | None = None
    device: str = "cpu"
    threads: int | None = None
    memory: int = DEFAULT_BUDGET
    extras: tuple[str, ...] = ()
    data: Path | None = None

    def check(self) -> None:
        """Refuse numbers that make no sense, and a device that is not here."""
        check_device(self.device)
        least = (("seeds", self.seeds), ("points", self.points), ("threads", self.threads or 1))
        for name, value in (*least, ("limit", 1 if self.limit is None else self.limit)):
            if value < 1:
                raise InputError(f"--{name} is {value}; it has to be 1 or more.")
        if self.first_seed < 0:
            raise InputError(f"--first-seed is {self.first_seed}; it has to be 0 or more.")
        for count in self.experts:
            if count < 2:
                raise InputError(f"--experts names {count}; a pool has 2 experts or more.")


def bench(
    pool: str,
    out: Path,
    settings: Settings | None = None,
    *,
    heard: Heard | None = None,
    built: Progress | None = None,
    evaluators: Evaluators | None = None,
) -> list[Table]:
    """Measure a pool, and write records and tables into the folder `out`.

    Parameters
    ----------
    pool: a name of `cermet zoo list`, which is built where it is missing, or a pool's file or
        folder. out: new, or of an earlier bench of the same models and tasks, which goes on.
    heard, built: hear of the bench, and of what is built before it.
    evaluators: what measures models on tasks; an Evaluator by default.

    Returns a table of the whole pool, and of each smaller one. Raises CermetError in one of its
    kinds; what a single method raises about its models is a row of the table instead.
    """
    wanted = settings or Settings()
    wanted.check()
    listen, records = heard or Heard(), Records(out)
    find = evaluators or (
        lambda tasks: Evaluator(tasks, device=wanted.device, threads=wanted.threads)
    )
    own = pool in POOLS
    if not own:
        candidates(_given(pool), wanted.methods, wanted.points)  # refused before anything starts
    with _work(out) as work:
        first: Trial | None = None
        for seed in range(wanted.first_seed, wanted.first_seed + wanted.seeds):
            found = _built(pool, seed, wanted, built) if own else _given(pool)
            if own or first is None:
                subject = prepared(found, seed, work)
                _check_same(records, subject)
                evaluator = find(subject.tasks)
                maker = Maker(
                    subject, evaluator, work, wanted.limit, wanted.threads, wanted.memory,
                    wanted.device,
                )  # fmt: skip
                first = Trial(maker, records, listen)
                _whole(first, wanted)
                _parts(first, wanted)
            else:
                _again(first, seed, wanted)
    return _told(records)


def shown(out: Path) -> list[Table]:
    """The tables of what a folder holds, without running anything."""
    return _told(Records(out, reading=True))


def _told(records: Records) -> list[Table]:
    found = tables(records.latest())
    write_tables(found, records.folder)
    return found


def _built(name: str, seed: int, settings: Settings, progress: Progress | None) -> Pool:
    """The pool of the zoo with that seed; what is there is not made again."""
    blueprint = find_entry(name).draw(Wanted(seed, settings.extras, settings.data))
    folder = place_of(name, seed)
    build(blueprint, folder, progress)
    return read_pool(folder)


def _given(pool: str) -> Pool:
    path = Path(pool)
    if not path.exists():
        known = f" or a pool of the zoo: {', '.join(POOLS)}" if POOLS else ""
        raise InputError(
            f"There is no pool '{pool}': neither a file or folder with {POOL}{known}."
            f"{nearest(pool, POOLS)}"
        )
    return read_pool(path)


def _check_same(records: Records, subject: Subject) -> None:
    """Refuse a folder whose records are of other models or tasks."""
    for line in records.latest():
        same_seed = line["seed"] == subject.seed
        if line["pool"] != subject.pool.name or (
            same_seed and line["pool_digest"] != subject.digest
        ):
            raise OutputError(
                f"'{records.folder}' holds the bench of the pool '{line['pool']}' with other "
                "models or tasks. Choose another --out, or move it away."
            )


def _whole(trial: Trial, settings: Settings) -> None:
    """References, and every candidate."""
    pool = trial.maker.subject.pool
    tried, refused = candidates(pool, settings.methods, settings.points)
    trial.references()
    _run(trial, tried, refused)


def _parts(trial: Trial, settings: Settings) -> None:
    """Some methods on the first experts of the pool, for each number that is asked for."""
    subject = trial.maker.subject
    for count in settings.experts:
        if count > len(subject.experts):
            trial.heard.echo(
                f"{subject.pool.name} has {len(subject.experts)} experts; a pool of {count} is "
                "not measured."
            )
        if count >= len(subject.experts):
            continue
        part = subject.part(count)
        names = settings.methods or ACROSS
        tried, refused = candidates(part.pool, names, settings.points)
        smaller = Trial(replace(trial.maker, subject=part), trial.records, trial.heard)
        trial.heard.echo(f"{subject.pool.name}, the first {count} experts:")
        smaller.references()
        _run(smaller, tried, refused)


def _again(trial: Trial, seed: int, settings: Settings) -> None:
    """The random methods with another seed, on the pool of a trial."""
    subject = replace(trial.maker.subject, seed=seed)
    tried, _ = candidates(subject.pool, settings.methods, settings.points)
    other = Trial(
        replace(trial.maker, subject=subject), trial.records, trial.heard, trial.experts_at
    )
    _run(other, [candidate for candidate in tried if candidate.random], [])


def _run(trial: Trial, tried: Sequence[Candidate], refused: Sequence[Refused]) -> None:
    for missing in refused:
        trial.refuse(missing)
    for candidate in tried:
        trial.run(candidate)


@contextmanager
def _work(out: Path) -> Iterator[Path]:
    """A folder for what is made and measured, gone at the end."""
    work = out / "work"
    shutil.rmtree(work, ignore_errors=True)
    try:
        yield work.absolute()
    finally:
        shutil.rmtree(work, ignore_errors=True)

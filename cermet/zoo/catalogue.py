"""The pools that can be built here: what each is, what it costs, what it needs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from cermet.core.errors import InputError
from cermet.core.places import cache_folder
from cermet.zoo.steps import Blueprint

__all__ = ["POOLS", "Entry", "Wanted", "find_entry", "place_of"]


@dataclass(frozen=True)
class Wanted:
    """What a user asks for: a seed, extras by name, and the folder of published data, if given."""

    seed: int = 0
    extras: tuple[str, ...] = ()
    data: Path | None = None


@dataclass(frozen=True)
class Entry:
    """A pool of the catalogue.

    about: one sentence. megabytes, minutes: of one seed without extras, measured on 2 cores.
    extras: name -> what is built when it is asked for. data: what the folder of published data has
    to hold, and where others get it; empty where none is needed. data_required: or else the pool
    is smaller without.
    """

    name: str
    about: str
    megabytes: int
    minutes: float
    blueprint: Callable[[Wanted], Blueprint]
    extras: Mapping[str, str] = field(default_factory=dict)
    data: str = ""
    data_required: bool = False

    def draw(self, wanted: Wanted) -> Blueprint:
        """The steps of this pool; InputError, before anything starts, for what it cannot do."""
        for name in wanted.extras:
            if name not in self.extras:
                known = f"it has {', '.join(self.extras)}" if self.extras else "it has none"
                raise InputError(f"The pool '{self.name}' has no extra '{name}'; {known}.")
        if wanted.seed < 0:
            raise InputError(f"The seed is {wanted.seed}; it has to be 0 or more.")
        if self.data_required and wanted.data is None:
            raise InputError(f"The pool '{self.name}' needs --data: a folder with {self.data}.")
        if wanted.data is not None and not wanted.data.is_dir():
            raise InputError(f"There is no folder '{wanted.data}' for --data.")
        return self.blueprint(wanted)


POOLS: Sequence[str] = ("intents", "sight", "voices", "strings", "demo")
"""Names of the catalogue, each of a module `cermet.zoo.NAME` with an `ENTRY`."""


def find_entry(name: str) -> Entry:
    """The pool of that name; InputError with the nearest spelling where there is none."""
    if name not in POOLS:
        near = difflib.get_close_matches(name, POOLS, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else f" There are {', '.join(POOLS)}."
        raise InputError(f"There is no pool '{name}' to build.{hint}")
    entry = import_module(f"cermet.zoo.{name}").ENTRY
    assert isinstance(entry, Entry)
    return entry


def place_of(name: str, seed: int) -> Path:
    """The folder of a pool in the cache."""
    return (cache_folder("zoo") / name / f"seed-{seed}").absolute()

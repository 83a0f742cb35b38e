"""What a check has found: the problems one by one, and what each kind of them means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from cermet.engine.record import machine, versions

__all__ = ["Findings", "Kind", "remade_differently"]


class Kind(Enum):
    """What a problem means, and what to do about it."""

    OUTPUT = (
        "The output is not what was written: it was edited, or damaged by a disk or a copy. "
        "Copy it anew, or merge again by the recipe in its cermet.json."
    )
    NUMBERS = (
        "The output holds NaN or infinity although its record agrees: the record was written by "
        "another program, or edited. Do not use it; merge again."
    )
    RECORD = (
        "The record does not fit its own recipe: one of the two was edited, or this version of "
        "Cermet reads the recipe differently. Compare them with a copy that is known to be good."
    )
    RECIPE = (
        "The recipe in cermet.json was edited after the merge, so what is made again is something "
        "else. The tensors are judged by their digests alone; put the recipe back to check more."
    )
    SOURCE = (
        "A source has changed since the merge, so its tensors cannot be made again. The output "
        "itself is judged by its own digests. Get the source back as it was (a model of the hub by "
        "its commit, as model@commit), or merge again."
    )
    MISSING = (
        "A source is not there, so no tensor can be made again; the output is judged by its own "
        "digests alone. Put the source back, or run this where it is."
    )
    VERSIONS = (
        "The sources are the same and the libraries are others, and sums and products may round "
        "by them. Install the versions of the record to tell this from damage."
    )
    MACHINE = (
        "The sources and the libraries are the same and the kind of machine is another; the same "
        "bytes are promised on one kind of machine only. Check it where it was made."
    )
    UNEXPLAINED = (
        "Sources, libraries and kind of machine are the same, so it should come out the same: "
        "the record and the output were edited together, or a part of this machine is faulty. "
        "Merge again and compare."
    )


@dataclass
class Findings:
    """What a check has found. `problems` is empty where everything is right.

    kinds: those of the problems, in the order in which they were met.
    """

    checked: int = 0
    remade: int = 0
    problems: list[str] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)

    @property
    def advice(self) -> list[str]:
        """What the problems mean, and what to do: one text for each kind."""
        return [kind.value for kind in self.kinds]

    def add(self, kind: Kind, problem: str) -> None:
        """Note a problem."""
        self.problems.append(problem)
        if kind not in self.kinds:
            self.kinds.append(kind)

    def take(self, other: Findings) -> None:
        """Add what another check has found."""
        self.checked += other.checked
        self.remade += other.remade
        self.problems += other.problems
        self.kinds += [kind for kind in other.kinds if kind not in self.kinds]


def remade_differently(
    found: Findings, names: list[str], record: Mapping[str, Any], device: str, *, edited: bool
) -> None:
    """Note tensors that came out different from the same sources, with the likely reason."""
    kind, why = (Kind.RECIPE, "") if edited else _reason(record, device)
    for name in names:
        found.add(kind, f"tensor '{name}', made again, comes out different{why}")


def _reason(record: Mapping[str, Any], device: str) -> tuple[Kind, str]:
    """What is different now from the merge, where that can be seen."""
    for now, then, kind in (
        (versions(), record.get("versions", {}), Kind.VERSIONS),
        (machine(device), record.get("machine", {}), Kind.MACHINE),
    ):
        other = [
            f"{what} {value} then, {now.get(what, 'none')} now"
            for what, value in then.items()
            if now.get(what) != value
        ]
        if other:
            return kind, f" ({', '.join(other)})"
    return Kind.UNEXPLAINED, ""

"""What a bench can try on a pool, and what it cannot, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cermet.core.codec import Codec, all_codecs
from cermet.core.errors import InputError
from cermet.core.registry import Method, all_factor_methods, all_methods, nearest
from cermet.proving.grid import CODECS, Grid, grid_of
from cermet.recipes.pool import Pool

__all__ = ["ACROSS", "Candidate", "Kind", "Refused", "candidates"]

Kind = Literal["reference", "merge", "assembly", "codec", "adapter"]

ACROSS = ("linear", "task_arithmetic", "ties", "tsv_m", "iso_c")
"""Methods that are tried on pools of fewer experts too, where none are named."""


@dataclass(frozen=True)
class Candidate:
    """One row of the table that is to be measured.

    what: a method, on models or on the factors of adapters, or a codec.
    """

    name: str
    kind: Kind
    what: Method | Codec
    grid: Grid

    @property
    def random(self) -> bool:
        """Whether a seed changes the result."""
        return self.what.noise


@dataclass(frozen=True)
class Refused:
    """What is not run, and why, in one sentence."""

    name: str
    kind: Kind
    reason: str


def candidates(
    pool: Pool, wanted: Sequence[str] | None, points: int
) -> tuple[list[Candidate], list[Refused]]:
    """Methods and codecs to be measured on a pool, and those that cannot be.

    wanted: names of methods and codecs; None for all that there are. points: of every method that
    has something to choose. Raises InputError for a name that is none.
    """
    methods, factors, codecs = all_methods(), all_factor_methods(), all_codecs()
    known = [*methods, *factors, *codecs]
    for name in wanted or ():
        if name not in known:
            raise InputError(
                f"There is no method or codec '{name}' to try.{nearest(name, known)} `cermet "
                "methods` and `cermet codecs` list them."
            )
    chosen = known if wanted is None else list(dict.fromkeys(wanted))
    tried, refused = list[Candidate](), list[Refused]()
    for method in (shelf[n] for n in chosen for shelf in (methods, factors) if n in shelf):
        kind, count = _kind(method), len(pool.experts)
        if method.on == "factors":
            count = len(pool.adapters)
        reason = _reason(method, count)
        if reason is not None:
            if wanted is not None or method.on != "factors" or pool.adapters:
                refused.append(Refused(method.name, kind, reason))
            continue
        grid = grid_of(method, count, points)
        tried.append(Candidate(method.name, kind, method, grid))
        if method.name in _BOTH:
            tried.append(Candidate(f"{method.name}, restored", "assembly", method, grid))
    for codec in (codecs[n] for n in chosen if n in codecs):
        tried += [_coded(codec, setting) for setting in CODECS.get(codec.name, ({},))]
    return tried, refused


_BOTH = frozenset({"localize_and_stitch"})
"""Assemblies whose merged model is what their paper proposes; its experts are a row beside."""


def _kind(method: Method) -> Kind:
    if method.on == "factors":
        return "adapter"
    return "assembly" if method.restore is not None and method.name not in _BOTH else "merge"


def _coded(codec: Codec, setting: Mapping[str, Any]) -> Candidate:
    told = " ".join(f"{name}={value:g}" for name, value in setting.items())
    return Candidate(f"{codec.name} {told}".strip(), "codec", codec, Grid(None, (setting,)))


def _reason(method: Method, experts: int) -> str | None:
    """Why a method cannot be run on so many experts, as far as what it declares tells."""
    least, most = method.models
    if method.on == "factors" and not experts:
        return "It merges LoRA adapters, and the pool names none."
    if most is not None and experts > most:
        word = "a base and one expert" if most == 1 else f"exactly {most} models"
        return f"It takes {word}, and the pool has {experts}."
    if experts < least:
        return f"It takes {least} models at least, and the pool has {experts}."
    if method.needs:
        about = " and ".join(need.about for need in method.needs)
        return f"It needs statistics that a bench is not given: {about}."
    if "loss" in method.parameters:
        return "It needs the loss of every model on data, which a bench is not given."
    return None

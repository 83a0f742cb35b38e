"""A method in words: what it needs, what it costs, when it is of use."""

from __future__ import annotations

import inspect
import re

from cermet.core.codec import Codec
from cermet.core.registry import Method, call
from cermet.engine.memory import block_bytes

__all__ = [
    "base_of",
    "blocks_of",
    "grain_of",
    "models_of",
    "needs_of",
    "pieces_of",
    "sections",
    "when_of",
]

_SECTION = re.compile(r"^([A-Z]\w+) {2,}(.*)$")
_BASES = {"required": "required", "first": "required", "optional": "optional", "none": "-"}


def models_of(method: Method) -> str:
    """How many models a method takes, beside a base."""
    least, most = method.models
    return f"{least}" if least == most else f"{least} or more"


def base_of(method: Method) -> str:
    """Whether a recipe has to name a base, as a word."""
    return _BASES[method.base]


def needs_of(method: Method) -> str:
    """What a recipe has to give beside the models: a base, statistics by name."""
    base = {"required": "base", "optional": "base or none", "-": ""}[base_of(method)]
    return ", ".join(filter(None, (base, *(need.name for need in method.needs)))) or "-"


def pieces_of(grain: str) -> str:
    """What a block holds whole, as ` of whole matrices`; empty where it may be cut anywhere."""
    whole = "matrices" if grain == "matrix" else f"{grain}s"
    return "" if grain == "element" else f" of whole {whole}"


def grain_of(method: Method) -> str:
    """The smallest piece that a block may be, under the defaults."""
    known = {p.argument: p.default for p in method.parameters.values()}
    return str(call(method.grain, **known))


def blocks_of(method: Method) -> float:
    """Float32 blocks that a thread holds at once for two models, or for as many as it takes."""
    least, most = method.models
    experts = max(least, min(2, most or 2))
    return block_bytes(method, experts + (method.base == "first")) / 4


def sections(method: Method | Codec) -> dict[str, list[str]]:
    """The docstring's sections by name, their lines without the margin."""
    found: dict[str, list[str]] = {}
    for line in inspect.cleandoc(method.function.__doc__ or "").splitlines()[1:]:
        opened = _SECTION.match(line)
        if opened is not None:
            found[opened[1]] = [opened[2]]
        elif line.strip() and found:
            list(found.values())[-1].append(line[12:])
    return found


def when_of(method: Method) -> str:
    """What the docstring says under When; empty where it has no such section."""
    return " ".join(line.strip() for line in sections(method).get("When", []))

"""How a pool is built: steps, each a folder that appears under its name only when it is whole.

A step is known by a digest of all that decides it. One whose folder holds the digest that is
wanted is not made again, so a build that was stopped goes on with the next step. Cards are
no part of the digest.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from cermet.checkpoints.front_matter import CARD
from cermet.core.errors import DiskError
from cermet.core.fingerprint import sha256_hex
from cermet.zoo.cache import MARK, replaced
from cermet.zoo.cards import Card

__all__ = ["Blueprint", "Built", "Progress", "Step", "Tick", "build"]

Tick = Callable[[int, int], None]
"""Gets the parts of a step that are done, and all of them."""


class Make(Protocol):
    """Fills a new, empty folder; earlier steps stand under the pool's folder."""

    def __call__(self, new: Path, root: Path, tick: Tick) -> None: ...


@dataclass(frozen=True)
class Step:
    """One folder of a pool.

    name: its path below the pool's folder. stands: all that decides it but for other steps, as
    plain data. after: names of earlier steps that it is made from. about: for the progress. card:
    what the folder's README.md says; None where `make` brings one. asked: False for what is of an
    extra that was not asked for: it is not made, but kept where it stands.
    """

    name: str
    stands: Mapping[str, Any]
    make: Make
    after: tuple[str, ...] = ()
    about: str = ""
    card: Card | None = None
    asked: bool = True


@dataclass(frozen=True)
class Blueprint:
    """The steps of a pool in order, and its `pool.yaml`, one for each path below its folder.

    A pool names the adapters of all its extras; those that are neither asked for nor there are left
    out of its file.
    """

    steps: Sequence[Step]
    pools: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Built:
    """A pool that was built: its folder, seconds of each step, and which were made just now."""

    folder: Path
    seconds: Mapping[str, float]
    made: tuple[str, ...]


@dataclass(frozen=True)
class Progress:
    """What hears of a build: a line about each step, and how far the running one is."""

    echo: Callable[[str], None] = lambda line: None
    begin: Callable[[str], Tick] = field(default=lambda name: lambda done, total: None)


def build(blueprint: Blueprint, root: Path, progress: Progress | None = None) -> Built:
    """Make what is missing or stale under `root`, and write the files that name the pools.

    What an earlier build made of an extra that is not asked for now stays in them.
    Raises OutputError and DiskError as `replaced` does, and whatever a step raises.
    """
    heard = progress or Progress()
    digests: dict[str, str] = {}
    seconds: dict[str, float] = {}
    made: list[str] = []
    left: set[str] = set()
    for step in blueprint.steps:
        digest = digests[step.name] = _digest(step, digests)
        folder = root / step.name
        known = _mark(folder)
        if known.get("digest") == digest:
            seconds[step.name] = float(known["seconds"])
            heard.echo(f"{step.name}: found")
        elif step.asked:
            seconds[step.name] = _make(step, digest, root, heard)
            made.append(step.name)
            heard.echo(f"{step.name}: made in {seconds[step.name]:.1f} s")
        else:
            left.add(step.name)
            if known:
                heard.echo(f"{step.name}: stale and not asked for, so left out of the pool")
    for name, content in blueprint.pools.items():
        _write_yaml(root / name, _without(content, left, PurePosixPath(name).parent))
    return Built(root, seconds, tuple(made))


def _digest(step: Step, earlier: Mapping[str, str]) -> str:
    stands = {"stands": step.stands, "after": [earlier[name] for name in step.after]}
    return sha256_hex(json.dumps(stands, sort_keys=True).encode())[:16]


def _make(step: Step, digest: str, root: Path, heard: Progress) -> float:
    """Make the folder of a step; the seconds that it took."""
    begin = time.perf_counter()
    with replaced(root / step.name) as new:
        step.make(new, root, heard.begin(step.about or step.name))
        if step.card is not None:
            (new / CARD).write_text(step.card.text(), "utf-8")
        seconds = round(time.perf_counter() - begin, 1)
        mark = {"digest": digest, "seconds": seconds, "stands": step.stands}
        (new / MARK).write_text(json.dumps(mark, sort_keys=True) + "\n", "utf-8")
    return seconds


def _mark(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / MARK).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _without(
    content: Mapping[str, Any], left: Collection[str], place: PurePosixPath
) -> Mapping[str, Any]:
    """What a pool's file in the folder `place` holds, without the adapters that are left out."""
    adapters = {
        name: path
        for name, path in content.get("adapters", {}).items()
        if (place / path).as_posix() not in left
    }
    kept = {key: adapters if key == "adapters" else value for key, value in content.items()}
    if not adapters:
        kept.pop("adapters", None)
    return kept


def _write_yaml(file: Path, content: Mapping[str, Any]) -> None:
    from ruamel.yaml import YAML

    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f".{file.name}.new")
        with new.open("w", encoding="utf-8") as stream:
            yaml.dump(dict(content), stream)
        new.replace(file)
    except OSError as error:
        raise DiskError(f"'{file}' cannot be written: {error.strerror or error}.") from error

"""The pool of the demo: a base and four experts on disk, trained once and then reused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from cermet.core.fingerprint import sha256_hex
from cermet.inference.encoder import Encoder
from cermet.zoo.base import base_folder
from cermet.zoo.cache import MARK, replaced
from cermet.zoo.templates import DOMAINS
from cermet.zoo.train import THREADS, Settings, fixed_threads, head_of, save_expert, train
from cermet.zoo.utterances import Utterance, generator_fingerprint, utterances

__all__ = ["Pool", "expert_fingerprint", "make_pool"]


@dataclass(frozen=True)
class Pool:
    """A base, its experts by domain, and the frozen heads [intents, width] by domain.

    trained: the domains whose experts were trained just now, and not found in the cache.
    """

    base: Path
    experts: Mapping[str, Path]
    heads: Mapping[str, Float[Tensor, "intents width"]]
    trained: tuple[str, ...]


def expert_fingerprint(base: Path, generator: str, settings: Settings, seed: int) -> str:
    """A digest of all that decides an expert: base, utterances, settings, seed, threads."""
    stands = {
        "base": sha256_hex((base / "model.safetensors").read_bytes()),
        "generator": generator,
        "settings": asdict(settings),
        "seed": seed,
        "threads": THREADS,
    }
    return sha256_hex(json.dumps(stands, sort_keys=True).encode())[:16]


def make_pool(
    directory: Path,
    seed: int,
    echo: Callable[[str], None],
    *,
    settings: Settings | None = None,
    names: Sequence[str] = DOMAINS,
    data: Callable[[str], Sequence[Utterance]] | None = None,
) -> Pool:
    """The pool of a seed under `directory`; what is there and not stale is not trained again.

    `data` gives the utterances that the expert of a domain learns from (by default the
    generator's). `echo` gets a line about each expert. An expert appears under its name only
    when it is complete, so a run that was stopped goes on with the next expert. Raises
    ExtraError where the base or transformers is missing, OutputError and DiskError as
    `replaced` does.
    """
    chosen = settings or Settings()
    base = base_folder()
    experts = {name: directory / name for name in names}
    trained = []
    with fixed_threads():
        untuned = Encoder(base)
        heads = {name: head_of(untuned, name) for name in names}
        for name, folder in experts.items():
            generator = generator_fingerprint(seed, [name])
            mark = expert_fingerprint(base, generator, chosen, seed)
            if _mark_of(folder) == mark:
                echo(f"expert for {name}: found in {folder}")
                continue
            begin = time.perf_counter()
            encoder = Encoder(base)
            lines = utterances(name, "train", seed) if data is None else data(name)
            with replaced(folder) as new:
                train(encoder, heads[name], lines, chosen, seed)
                save_expert(encoder, base, new)
                seconds = time.perf_counter() - begin
                found = {"domain": name, "seed": seed, "fingerprint": mark, "seconds": seconds}
                (new / MARK).write_text(json.dumps(found) + "\n", "utf-8")
            trained.append(name)
            echo(f"expert for {name}: trained on {len(lines)} utterances in {seconds:.1f} s")
    return Pool(base, experts, heads, tuple(trained))


def _mark_of(folder: Path) -> str | None:
    """The fingerprint of the expert in a folder; None where there is none that is whole."""
    try:
        found: dict[str, Any] = json.loads((folder / MARK).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return str(found.get("fingerprint")) if (folder / "model.safetensors").is_file() else None

"""What the tests of malformed inputs share: a sound pool, ways to spoil it, and what must follow.

A case takes a pool that merges without a fault and spoils one thing. `refused` then holds that
the merge ends in one kind of error and one line that names the place, within seconds and 500 MB,
with the inputs as they were and nothing written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from cermet import api
from cermet.core.errors import CermetError

SECONDS = 20.0  # of a busy machine; the slowest case takes two
KILOBYTES = 500_000
LONGEST_MESSAGE = 2_100
MODELS = ("base", "a", "b")
WEIGHTS = "model.safetensors"
Q = "model.layers.0.self_attn.q_proj.weight"
HEAD = "lm_head.weight"
BUFFER = "model.position_ids"

RECIPE = """\
merge_method: task_arithmetic
base_model: <base>
models:
  - model: <a>
    parameters:
      weight: 0.5
  - model: <b>
    parameters:
      weight: 0.25
dtype: float32
"""


def sound(seed: int, layers: int = 2) -> dict[str, Tensor]:
    """The tensors of a tiny model; float32, and one buffer of integers."""
    own = torch.Generator().manual_seed(seed)
    shapes = {"model.embed_tokens.weight": (6, 4), HEAD: (6, 4), "model.norm.weight": (4,)}
    for i in range(layers):
        shapes[f"model.layers.{i}.self_attn.q_proj.weight"] = (4, 4)
        shapes[f"model.layers.{i}.mlp.up_proj.weight"] = (8, 4)
    found = {name: torch.randn(shape, generator=own) for name, shape in shapes.items()}
    return {**found, BUFFER: torch.arange(6)}


_CARD = "---\nlicense: apache-2.0\n---\n"


class Pool:
    """A base and two experts on disk, and a recipe for them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe: bytes | str = RECIPE
        for seed, name in enumerate(MODELS):
            (root / name).mkdir(parents=True)
            (root / name / WEIGHTS).write_bytes(save(sound(seed)))
            self.write(f"{name}/config.json", {"model_type": "llama", "num_hidden_layers": 2})
            self.write(f"{name}/README.md", _CARD)

    def write(self, name: str, content: bytes | str | dict[str, Any]) -> None:
        """Write a file below the root; a mapping as JSON."""
        if isinstance(content, dict):
            content = json.dumps(content)
        raw = content.encode() if isinstance(content, str) else content
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_bytes(raw)

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self.root / name).unlink()

    def header(self, model: str = "a") -> tuple[dict[str, Any], bytes]:
        """The header of a model's weights, and their data."""
        raw = (self.root / model / WEIGHTS).read_bytes()
        stop = 8 + int.from_bytes(raw[:8], "little")
        return json.loads(raw[8:stop]), raw[stop:]

    def set_header(
        self, header: bytes | str | dict[str, Any], data: bytes | None = None, model: str = "a"
    ) -> None:
        """Give a model's weights another header, and perhaps other data."""
        if isinstance(header, dict):
            header = json.dumps(header)
        text = header.encode() if isinstance(header, str) else header
        rest = self.header(model)[1] if data is None else data
        self.write(f"{model}/{WEIGHTS}", len(text).to_bytes(8, "little") + text + rest)

    def set_tensors(self, model: str, changes: dict[str, Tensor | None]) -> None:
        """Change, add or remove (None) tensors of a model."""
        path = self.root / model / WEIGHTS
        # a copy, because the file is mapped while it is read
        values = {k: v.clone() for k, v in load_file(path).items()} | changes
        save_file({k: v for k, v in values.items() if v is not None}, path)

    def shard(self, model: str = "a") -> dict[str, str]:
        """Divide a model over one.safetensors and two.safetensors; its weight map."""
        values = load_file(self.root / model / WEIGHTS)
        names = list(values)
        halves = {"one.safetensors": names[:3], "two.safetensors": names[3:]}
        for file, held in halves.items():
            self.write(f"{model}/{file}", save({name: values[name] for name in held}))
        self.remove(f"{model}/{WEIGHTS}")
        weight_map = {name: file for file, held in halves.items() for name in held}
        self.write(f"{model}/{WEIGHTS}.index.json", {"weight_map": weight_map})
        return weight_map

    def adapter(self, rank: int = 2) -> None:
        """Make model b an adapter on the base, on q_proj of the first layer."""
        module = "base_model.model." + Q.removesuffix(".weight")
        factors = {
            f"{module}.lora_A.weight": torch.ones(rank, 4),
            f"{module}.lora_B.weight": torch.ones(4, rank),
        }
        self.write("adapter/adapter_model.safetensors", save(factors))
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": 4, "target_modules": ["q_proj"]}
        self.write("adapter/adapter_config.json", config)
        self.write("adapter/README.md", _CARD)
        self.swap("<b>", "<base>+<adapter>")

    def swap(self, old: str, new: str) -> None:
        """Replace a part of the recipe, which must be there."""
        assert isinstance(self.recipe, str)
        assert old in self.recipe
        self.recipe = self.recipe.replace(old, new)

    def save_recipe(self) -> Path:
        """Write the recipe with the paths of the models."""
        raw = self.recipe
        if isinstance(raw, str):
            for name in (*MODELS, "adapter"):
                raw = raw.replace(f"<{name}>", str(self.root / name))
            raw = raw.encode()
        (self.root / "recipe.yaml").write_bytes(raw)
        return self.root / "recipe.yaml"


@dataclass(frozen=True)
class Case:
    """One malformed input.

    group: its class. kind: the error, exactly. places: what the message names; a path is given
    below the pool's root. spoil: what is done to a sound pool.
    """

    group: str
    name: str
    kind: type[CermetError]
    places: tuple[str, ...]
    spoil: Callable[[Pool], object]

    def __str__(self) -> str:
        return f"{self.group}: {self.name}"


def cases(
    group: str,
    kind: type[CermetError],
    places: str | tuple[str, ...],
    spoilers: dict[str, Callable[[Pool], object]],
) -> list[Case]:
    """Cases of one class that end alike."""
    named = (places,) if isinstance(places, str) else places
    return [Case(group, name, kind, named, spoil) for name, spoil in spoilers.items()]


def each(found: list[Case]) -> pytest.MarkDecorator:
    """A test for each case, called by its class and name."""
    return pytest.mark.parametrize("case", found, ids=str)


def snapshot(root: Path) -> dict[str, object]:
    """Everything below a folder: links as links, large files by their size and time."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        stat = path.lstat()
        what: object = (stat.st_mode, stat.st_size, stat.st_mtime_ns)
        if path.is_symlink():
            what = path.readlink()
        elif path.is_file() and stat.st_size < 1_000_000:
            what = (what, hashlib.sha256(path.read_bytes()).hexdigest())
        found[str(path.relative_to(root))] = what
    return found


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Hold what is done inside to its seconds and its memory."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    yield
    assert time.monotonic() - began < SECONDS
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < KILOBYTES, f"the process grew by {grown:,} kB"


def holds_message(error: CermetError, kind: type[CermetError], places: tuple[str, ...]) -> None:
    """The error is of this very kind, and one line that names every place."""
    message = str(error)
    assert type(error) is kind, f"{type(error).__name__}: {message}"
    missing = [place for place in places if place not in message]
    assert not missing, f"{missing} not in: {message}"
    assert message.strip()
    assert message.isprintable()
    assert len(message) < LONGEST_MESSAGE


def refused(case: Case, tmp_path: Path) -> None:
    """The case ends as it must, and leaves everything as it was."""
    pool = Pool(tmp_path / "in")
    case.spoil(pool)
    recipe = pool.save_recipe()
    before = snapshot(pool.root)
    out = tmp_path / "out"
    out.mkdir()
    with bounded(), pytest.raises(CermetError) as caught:
        api.merge(recipe, out / "merged", threads=1)
    holds_message(caught.value, case.kind, case.places)
    assert list(out.iterdir()) == []
    assert snapshot(pool.root) == before
    shutil.rmtree(pool.root)  # some are large, and pytest keeps the folders of three runs

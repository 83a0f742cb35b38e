"""Pools of random weights, in the shape of Llama models, written straight to disk.

The numbers do not matter to the speed of a merge, but their kind does: the experts are
the base plus small deltas with heavy tails, so that trimming has something to select by.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["SHAPES", "Shape", "build_pool", "weight_bytes"]

_CHUNK = 1 << 22  # elements drawn at a time
_MOVE = 0.02  # size of a delta beside its weight


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama: sizes in elements; weights are bfloat16, embeddings untied."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes, in the order of the file."""
        h, kv = self.hidden, self.hidden // self.heads * self.kv_heads
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, h)}
        for layer in range(self.layers):
            at = f"model.layers.{layer}"
            found[f"{at}.self_attn.q_proj.weight"] = (h, h)
            found[f"{at}.self_attn.k_proj.weight"] = (kv, h)
            found[f"{at}.self_attn.v_proj.weight"] = (kv, h)
            found[f"{at}.self_attn.o_proj.weight"] = (h, h)
            found[f"{at}.mlp.gate_proj.weight"] = (self.intermediate, h)
            found[f"{at}.mlp.up_proj.weight"] = (self.intermediate, h)
            found[f"{at}.mlp.down_proj.weight"] = (h, self.intermediate)
            found[f"{at}.input_layernorm.weight"] = (h,)
            found[f"{at}.post_attention_layernorm.weight"] = (h,)
        found["model.norm.weight"] = (h,)
        found["lm_head.weight"] = (self.vocabulary, h)
        return found

    @property
    def parameters(self) -> int:
        """Number of weights of one model."""
        return sum(math.prod(shape) for shape in self.tensors.values())

    @property
    def config(self) -> dict[str, object]:
        """The fields of config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
            "dtype": "bfloat16",
        }


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", 64, 128, 2, 4, 2, 256),
        Shape("20M", 256, 688, 8, 8, 2, 24000),
        Shape("160M", 768, 2048, 18, 12, 4, 32000),
        Shape("400M", 1280, 3456, 18, 20, 4, 32000),
        Shape("1.1B", 2048, 5632, 22, 32, 4, 32000),
    )
}
"""By name; "1.1B" is the pool of PEER.md."""


def build_pool(root: Path, shape: Shape, experts: int) -> tuple[Path, ...]:
    """The folders of a base and so many experts, made where they are missing.

    The first folder is the base. A folder appears under its name when it is complete.
    """
    folder = root / f"llama-{shape.name}"
    base = folder / "base"
    _ensure(base, shape, None, 0)
    models = [base]
    for number in range(1, experts + 1):
        models.append(folder / f"expert{number}")
        _ensure(models[-1], shape, base, number)
    return tuple(models)


def weight_bytes(model: Path) -> int:
    """Bytes of the weight file of a model of a pool."""
    return (model / "model.safetensors").stat().st_size


def _ensure(folder: Path, shape: Shape, base: Path | None, number: int) -> None:
    stamp = folder / "shape.json"
    wanted = json.dumps(asdict(shape))
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    needed = 2 * shape.parameters
    folder.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder.parent).free < needed + (1 << 30):
        raise SystemExit(f"'{folder.parent}' has no room for a model of {needed / 1e9:.1f} GB.")
    print(f"Writing {folder} ({needed / 1e9:.2f} GB).", flush=True)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    with (partial / "model.safetensors").open("wb") as file:
        _write_weights(file, shape, base, number)
    (partial / "config.json").write_text(json.dumps(shape.config, indent=2))
    (partial / "shape.json").write_text(wanted)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _write_weights(file: BinaryIO, shape: Shape, base: Path | None, number: int) -> None:
    """One safetensors file, tensor by tensor, a chunk in memory at a time."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, sizes in shape.tensors.items():
        begin, end = end, end + 2 * math.prod(sizes)
        header[name] = {"dtype": "BF16", "shape": list(sizes), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    original: npt.NDArray[np.int16] | None = None
    if base is not None:
        # The header is as long as the base's: names, shapes and offsets are the same.
        original = np.memmap(base / "model.safetensors", np.int16, "r", offset=8 + len(text))
    generator = np.random.Generator(np.random.SFC64(number))
    place = 0
    for name, count, scale in _chunks(shape):
        held = None if original is None else original[place : place + count]
        file.write(_values(generator, name, count, scale, held))
        place += count


def _chunks(shape: Shape) -> Iterator[tuple[str, int, float]]:
    """Name, number of elements and scale of every chunk, in the order of the file."""
    for name, sizes in shape.tensors.items():
        left = math.prod(sizes)
        while left:
            yield name, min(left, _CHUNK), 1 / math.sqrt(sizes[-1])
            left -= min(left, _CHUNK)


def _values(
    generator: np.random.Generator,
    name: str,
    count: int,
    scale: float,
    base: npt.NDArray[np.int16] | None,
) -> bytes:
    """Random weights as the bytes of bfloat16: a base, or a base and its delta."""
    drawn = torch.from_numpy(generator.standard_normal(count, np.float32))
    if base is None:
        values = 1 + 0.1 * drawn if "norm" in name else drawn * scale
    else:
        # The product of a normal number and its magnitude has heavier tails than either.
        held = torch.from_numpy(base.copy()).view(torch.bfloat16).float()
        values = held + _MOVE * scale * drawn * (0.5 + drawn.abs())
    return values.bfloat16().view(torch.int16).numpy().tobytes()

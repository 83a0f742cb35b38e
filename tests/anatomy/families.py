"""Small models of many families, built by transformers: names, shapes and config, no weights.

A family is named as in the tables of expected places (expected/*.yaml). Its names are taken as
`state_dict()` gives them, as `save_pretrained` writes them (`X, saved`), and where neither is
what the model's first release used, as that release spells them (`X, released`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cermet.checkpoints.reader import open_checkpoint
from tests.anatomy.sizes import CLASSES, EXPERTS

__all__ = ["CLASSES", "EXPERTS", "RELEASED", "Specimen", "released", "saved", "specimen"]

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Specimen:
    """What headers and config.json tell of one model."""

    shapes: Shapes
    config: Mapping[str, Any]


@cache
def _both(family: str) -> tuple[Specimen, Specimen]:
    """A family as in memory and as saved; built once."""
    import torch
    import transformers

    name, options = CLASSES[family]
    kind = getattr(transformers, name)
    with torch.device("meta"):
        model = kind(kind.config_class(**options)).eval()
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    config = json.loads(model.config.to_json_string(use_diff=False))
    config["architectures"] = [name]
    return Specimen(shapes, config), _write(model)


def _write(model: Any) -> Specimen:
    """A model's file and config, as save_pretrained writes them; the values are arbitrary."""
    model.to_empty(device="cpu").tie_weights()
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        shapes = {name: info.shape for name, info in open_checkpoint(Path(folder)).tensors.items()}
        config = json.loads((Path(folder) / "config.json").read_text())
    return Specimen(shapes, config)


def specimen(family: str) -> Specimen:
    """The names of a model in memory: those of `state_dict()`."""
    return _both(family)[0]


def saved(family: str) -> Specimen:
    """The names that `save_pretrained` writes: without ties, experts one by one."""
    return _both(family)[1]


def _renamed(shapes: Shapes, *changes: tuple[str, str]) -> Shapes:
    for pattern, new in changes:
        shapes = {re.sub(pattern, new, name): shape for name, shape in shapes.items()}
    return shapes


def _gpt2(shapes: Shapes) -> Shapes:
    """Without a prefix, with the causal masks as `attn.bias`."""
    masks = {f"h.{i}.attn.bias": (1, 1, 16, 16) for i in range(3)}
    return _renamed(shapes, (r"^transformer\.", "")) | masks


def _neox(shapes: Shapes) -> Shapes:
    """With masks and rotary frequencies in every layer."""
    for i in range(3):
        prefix = f"gpt_neox.layers.{i}.attention"
        shapes |= {f"{prefix}.bias": (1, 1, 16, 16), f"{prefix}.masked_bias": ()}
        shapes |= {f"{prefix}.rotary_emb.inv_freq": (1,)}
    return shapes


def _bert(shapes: Shapes) -> Shapes:
    """TensorFlow's names of the norms, and the numbers of the positions."""
    gammas = (r"LayerNorm\.weight", "LayerNorm.gamma"), (r"LayerNorm\.bias", "LayerNorm.beta")
    return _renamed(shapes, *gammas) | {"bert.embeddings.position_ids": (1, 512)}


def _llava(shapes: Shapes) -> Shapes:
    """The tower still a model of its own."""
    return _renamed(shapes, (r"^vision_tower\.", "vision_tower.vision_model."))


def _deepseek(shapes: Shapes) -> Shapes:
    """Blocks of 8-bit floats with their scales, and the prediction module as one more layer."""
    last = {n: s for n, s in shapes.items() if n.startswith("model.layers.2.")}
    shapes = shapes | _renamed(last, (r"layers\.2", "layers.3"))
    linear = re.compile(r"layers.*(_proj(_with_mqa)?)\.weight$")
    extra: Shapes = {"embed_tokens.weight": (64, 32), "enorm.weight": (32,), "hnorm.weight": (32,)}
    extra |= {"eh_proj.weight": (32, 64), "shared_head.norm.weight": (32,)}
    extra |= {"shared_head.head.weight": (64, 32)}
    shapes |= {f"model.layers.3.{n}": s for n, s in extra.items()}
    return shapes | {f"{n}_scale_inv": (1, 1) for n in shapes if linear.search(n)}


RELEASED: dict[str, Callable[[Shapes], Shapes]] = {
    "gpt2": _gpt2,
    "gpt_neox": _neox,
    "bert": _bert,
    "llava": _llava,
    "deepseek_v3": _deepseek,
}
"""From the names that save_pretrained writes to those of a family's first release."""


def released(family: str) -> Specimen:
    """The names of a family's first release, where they differ from what is written today."""
    today = saved(family)
    return Specimen(RELEASED[family](dict(today.shapes)), today.config)

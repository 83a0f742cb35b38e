"""The files that the blocks of the documentation name: models, adapters, statistics."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cermet.zoo.base import base_folder
from tests.checkpoints.tokenizers import save_tokenizer

__all__ = ["make_minilm", "make_models"]

_CHAT = ("<|im_start|>", "<|im_end|>")

_CARD = "---\nlicense: apache-2.0\n---\n"
_WIDTH, _VOCABULARY, _LAYERS, _INNER = 16, 48, 4, 32
_CONFIG: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": _WIDTH,
    "intermediate_size": _INNER,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": _VOCABULARY,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
_EYES = 8
_VLM: Mapping[str, Any] = {
    "architectures": ["LlavaForConditionalGeneration"],
    "model_type": "llava",
    "text_config": _CONFIG,
    "vision_config": {"hidden_size": _EYES, "num_hidden_layers": 2},
    "tie_word_embeddings": False,
}


def make_minilm(folder: Path) -> None:
    """The demo's base, and two models a little apart from it: real shapes, 22 M parameters."""
    (folder / "models").mkdir()
    base = base_folder()
    _link(base, folder / "models" / "base")
    for seed, name in enumerate(("math", "code")):
        draw = torch.Generator().manual_seed(seed)
        tuned = folder / "models" / name
        shutil.copytree(base, tuned, ignore=shutil.ignore_patterns("*.safetensors"))
        weights = load_file(base / "model.safetensors")
        for tensor in weights.values():
            if tensor.is_floating_point():
                tensor += 0.01 * torch.randn(tensor.shape, generator=draw)
        save_file(weights, tuned / "model.safetensors", metadata={"format": "pt"})
        (tuned / "README.md").write_text(_CARD)


def _link(folder: Path, name: Path) -> None:
    """A folder of links to all files of another, with a card of its own."""
    name.mkdir()
    for file in folder.iterdir():
        (name / file.name).symlink_to(file)
    (name / "README.md").unlink(missing_ok=True)
    (name / "README.md").write_text(_CARD)


def make_models(folder: Path) -> None:
    """A base, three models tuned from it, one in .bin form, an adapter, and statistics.

    Beside them two models with tokenizers: plain, and chatml with two tokens more; and models that
    see: two whose language part was tuned from the base, and one of another form.
    """
    base = _weights(0)
    for seed, name in enumerate(("base", "math", "code", "chat")):
        tuned = {k: v + 0.02 * _weights(seed)[k] for k, v in base.items()} if seed else base
        _save(folder / "models" / name, tuned)
    for seed, (name, added) in enumerate({"plain": (), "chatml": _CHAT}.items(), start=4):
        _with_tokens(folder / "models" / name, _weights(seed), added)
    for seed, name in enumerate(("vlm", "vlm-charts"), start=5):
        language = {k: v + 0.02 * _weights(seed)[k] for k, v in base.items()}
        spelt = {f"language_model.{k}": v for k, v in language.items()}
        eyes = _eyes("vision_tower", "multi_modal_projector.linear", seed, _EYES)
        _save(folder / "models" / name, spelt | eyes, _VLM)
    spelt = {k.replace("model.", "model.language_model."): v for k, v in language.items()}
    eyes = _eyes("model.visual", "model.visual.merger.mlp", 7, 2 * _EYES)
    _save(folder / "models" / "other-vlm", spelt | eyes, _VLM)
    wider = {k: torch.cat([v, v[:8]]) if len(v) == _VOCABULARY else v for k, v in base.items()}
    _save(folder / "models" / "more-tokens", wider, {**_CONFIG, "vocab_size": _VOCABULARY + 8})
    old = _empty(folder / "models" / "old")
    torch.save(base, old / "pytorch_model.bin")
    _adapter(_empty(folder / "adapters" / "chat"), 9, ("q",))
    _adapter(_empty(folder / "adapters" / "math"), 10, ("q", "v"))
    _adapter(_empty(folder / "adapters" / "code"), 11, ("q",))
    (folder / "statistics").mkdir()
    for seed, name in enumerate(("score-math", "score-code", "base_score-math", "base_score-code")):
        scores = {k: v.abs() for k, v in _weights(10 + seed).items()}
        save_file(scores, folder / "statistics" / f"{name}.safetensors")
    for seed, name in enumerate(("gram-math", "gram-code"), start=1):
        matrices = {n: v for n, v in _weights(seed).items() if v.ndim == 2}
        grams = {n: v.t() @ v for n, v in matrices.items()}
        save_file(grams, folder / "statistics" / f"{name}.safetensors")


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (_VOCABULARY, _WIDTH)
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}."
        for name in "qkvo":
            yield f"{prefix}self_attn.{name}_proj.weight", (_WIDTH, _WIDTH)
        for name in ("gate", "up"):
            yield f"{prefix}mlp.{name}_proj.weight", (_INNER, _WIDTH)
        yield f"{prefix}mlp.down_proj.weight", (_WIDTH, _INNER)
        for name in ("input", "post_attention"):
            yield f"{prefix}{name}_layernorm.weight", (_WIDTH,)
    yield "model.norm.weight", (_WIDTH,)
    yield "lm_head.weight", (_VOCABULARY, _WIDTH)


def _weights(seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draw) for name, shape in _shapes()}


def _eyes(prefix: str, projector: str, seed: int, width: int) -> dict[str, Tensor]:
    """A tower of two layers, and what makes tokens of its features."""
    draw = torch.Generator().manual_seed(seed)
    found = {f"{prefix}.patch_embed.weight": torch.randn(width, 3, 2, 2, generator=draw)}
    found[f"{projector}.weight"] = torch.randn(_WIDTH, width, generator=draw)
    for layer in range(2):
        for name in ("attn.qkv", "mlp.fc1"):
            shape = (3 * width, width)
            found[f"{prefix}.blocks.{layer}.{name}.weight"] = torch.randn(shape, generator=draw)
    return found


def _empty(folder: Path, config: Mapping[str, Any] = _CONFIG) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "README.md").write_text(_CARD)
    return folder


def _save(folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any] = _CONFIG) -> None:
    save_file(
        dict(weights), _empty(folder, config) / "model.safetensors", metadata={"format": "pt"}
    )
    (folder / "generation_config.json").write_text("{}")


def _with_tokens(folder: Path, weights: dict[str, Tensor], added: Sequence[str]) -> None:
    """A model with a tokenizer and a row for each of its tokens."""
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], weights[name][: len(added)] + 1])
    _save(folder, weights)
    rows = save_tokenizer(folder, added=added, more=[f"w{i}" for i in range(15)])
    (folder / "config.json").write_text(json.dumps({**_CONFIG, "vocab_size": rows}))


def _adapter(folder: Path, seed: int, projections: tuple[str, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    targets = [f"{name}_proj" for name in projections]
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    draw = torch.Generator().manual_seed(seed)
    factors = {}
    for target in targets:
        module = f"base_model.model.model.layers.0.self_attn.{target}"
        factors[f"{module}.lora_A.weight"] = torch.randn(2, _WIDTH, generator=draw)
        factors[f"{module}.lora_B.weight"] = torch.randn(_WIDTH, 2, generator=draw)
    save_file(factors, folder / "adapter_model.safetensors")

"""Random recipes that change the vocabulary, through both tools; rows are compared by token.

Five small Llamas, each with a tokenizer of its own: a plain one; two that add tokens, of which
they share one; one whose tokenizer lists tokens that have no rows; one in another order. New
tokens may get other ids in the peer, where the order of models is that of a set.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from safetensors.torch import load_file, save_file

from parity.peer import peer_environment, peer_python

__all__ = ["draw_recipe", "run_vocabularies", "write_models"]

Merge = Callable[[Mapping[str, Any], Path], object]

_WORKER = Path(__file__).resolve().parent / "worker.py"
_PLAIN = ("<unk>", "<s>", "</s>", "Ġ", *"abcdefghijklmnopqrstuvwxyz", "th", "the", "at")
_ADDED = {"plain": (), "chat": ("<x>", "<y>"), "tools": ("<z>", "<y>"),
          "unused": ("<u>", "<v>"), "turned": ("<y>", "<x>")}  # fmt: skip
_WITHOUT_ROWS = "unused"
_BY_TOKEN = ("model.embed_tokens.weight", "lm_head.weight")
_LARGEST = 1e-5  # of the tensor's largest magnitude
_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16,
    "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 2,
    "num_hidden_layers": 1, "max_position_embeddings": 64, "tie_word_embeddings": False,
    "torch_dtype": "float32",
}  # fmt: skip


def write_models(folder: Path, seed: int) -> dict[str, Path]:
    """The models by name, written under a folder."""
    found = {}
    for number, (name, added) in enumerate(_ADDED.items()):
        found[name] = folder / name
        found[name].mkdir(parents=True)
        merges = [("t", "h"), ("th", "e"), ("a", "t")]
        model = tokenizers.models.BPE({t: i for i, t in enumerate(_PLAIN)}, merges)
        made = tokenizers.Tokenizer(model)
        made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = tokenizers.decoders.ByteLevel()
        made.add_special_tokens(["<unk>", "<s>", "</s>", *added])
        made.save(str(found[name] / "tokenizer.json"))
        said = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
        (found[name] / "tokenizer_config.json").write_text(json.dumps(said))
        rows = len(_PLAIN) + (0 if name == _WITHOUT_ROWS else len(added))
        (found[name] / "config.json").write_text(json.dumps({**_CONFIG, "vocab_size": rows}))
        draw = np.random.default_rng([seed, number])
        tensors = {
            n: torch.from_numpy(draw.normal(0, 0.25, shape).astype(np.float32))
            for n, shape in _shapes(rows).items()
        }
        save_file(tensors, found[name] / "model.safetensors", metadata={"format": "pt"})
    return found


def _shapes(rows: int) -> dict[str, tuple[int, ...]]:
    layer = "model.layers.0."
    square = {f"{layer}self_attn.{p}_proj.weight": (16, 16) for p in "qkvo"}
    wide = {f"{layer}mlp.{p}_proj.weight": (24, 16) for p in ("gate", "up")}
    norms = (f"{layer}input_layernorm", f"{layer}post_attention_layernorm", "model.norm")
    return {
        **dict.fromkeys(_BY_TOKEN, (rows, 16)), **square, **wide,
        f"{layer}mlp.down_proj.weight": (16, 24), **{f"{n}.weight": (16,) for n in norms},
    }  # fmt: skip


def draw_recipe(models: Mapping[str, Path], rng: np.random.Generator) -> dict[str, Any]:
    """A recipe of two to four models with something said of the vocabulary."""
    names = [str(n) for n in rng.permutation(list(models))[: int(rng.integers(2, 5))]]
    method = str(rng.choice(["linear", "task_arithmetic", "ties"]))
    weights = rng.uniform(0.2, 1.0, len(names)).round(3)
    listed = [
        {"model": str(models[n]), "parameters": {"weight": float(w)}}
        for n, w in zip(names, weights, strict=True)
    ]
    recipe: dict[str, Any] = {"merge_method": method, "models": listed, "dtype": "float32"}
    recipe["base_model"] = str(models[names[0]])
    sources = [n for n in names if n != _WITHOUT_ROWS]
    source = str(rng.choice(["union", "base", sources[0]]))
    source = str(models[source]) if source in models else source
    if rng.random() < 0.4:
        return {**recipe, "tokenizer_source": source}
    setting: dict[str, Any] = {"source": source}
    if rng.random() < 0.4:
        setting["pad_to_multiple_of"] = int(rng.choice([8, 16]))
    rules = {}
    for token in rng.permutation(["the", "at", "a", "q"])[: int(rng.integers(0, 3))]:
        model = str(models[str(rng.choice(names))])
        forms: list[Any] = [
            model, {"kind": "zero"}, {"kind": "model_token", "model": model, "token_id": 7},
            {"kind": "model_token", "model": model, "token": "th"},
        ]  # fmt: skip
        chosen = forms[int(rng.integers(len(forms)))]
        rules[str(token)] = {"source": chosen, "force": bool(rng.random() < 0.7)}
    return {**recipe, "tokenizer": {**setting, **({"tokens": rules} if rules else {})}}


def run_vocabularies(count: int, seed: int, folder: Path, merge: Merge) -> int:
    """Run some recipes through both tools and print what came of it; how many disagree."""
    models = write_models(folder / "models", seed)
    rng = np.random.default_rng([seed, 77])
    recipes = [draw_recipe(models, rng) for _ in range(count)]
    jobs = [
        {"id": str(i), "recipe": r, "out": str(folder / "peer" / str(i))}
        for i, r in enumerate(recipes)
    ]
    listed = folder / "vocabularies.json"
    listed.write_text(json.dumps(jobs))
    said = subprocess.run(
        [str(peer_python()), str(_WORKER), str(listed)],
        capture_output=True, text=True, check=True, env=peer_environment(threads=1),
    ).stdout  # fmt: skip
    errors = {line["id"]: line["error"] for line in map(json.loads, said.splitlines())}
    failed = 0
    for i, recipe in enumerate(recipes):
        problem = errors[str(i)]
        if problem is None:
            merge(recipe, folder / "ours" / str(i))
            problem = difference(folder / "ours" / str(i), folder / "peer" / str(i))
        if problem is not None:
            failed += 1
            print(f"FAILED vocabulary {i}: {problem}\n  recipe: {json.dumps(recipe)}")
    print(f"{count} recipes that change the vocabulary, {failed} disagree.")
    return failed


def difference(ours: Path, theirs: Path) -> str | None:
    """The first thing in which two outputs differ; None where they agree."""
    left, right = (_ids(folder) for folder in (ours, theirs))
    if left.keys() != right.keys():
        return f"other tokens: {sorted(left.keys() ^ right.keys())}"
    one, other = (load_file(folder / "model.safetensors") for folder in (ours, theirs))
    if one.keys() != other.keys():
        return f"other tensors: {sorted(one.keys() ^ other.keys())}"
    for name, tensor in one.items():
        if tensor.shape != other[name].shape:
            return f"{name} is {list(tensor.shape)}, not {list(other[name].shape)}"
        given = [tensor]
        wanted = [other[name]]
        if name in _BY_TOKEN:
            given, wanted = (
                [t[[ids[token] for token in left]], t[len(ids) :]]
                for t, ids in ((tensor, left), (other[name], right))
            )
        limit = _LARGEST * float(other[name].abs().max())
        for a, b in zip(given, wanted, strict=True):
            if len(a) and float((a - b).abs().max()) > limit:
                return f"{name} differs by {float((a - b).abs().max()):.1e}"
    return None


def _ids(folder: Path) -> dict[str, int]:
    made = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return dict(made.get_vocab(with_added_tokens=True))

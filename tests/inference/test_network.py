"""One module that takes the weights of many checkpoints, and refuses those that do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from cermet.core.errors import InputError, MismatchError
from cermet.inference import network
from cermet.inference.network import Network
from tests.evaluate.models import save_bert, save_llama

_IDS = torch.tensor([[3, 4, 5]])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate("ab"):
        save_llama(root / name, seed)
        save_llama(root / f"tied-{name}", seed, tie_word_embeddings=True)
        save_bert(root / f"bert-{name}", seed)
        save_bert(root / f"masked-{name}", seed, head="ForMaskedLM")
    return root


def _logits(network: Network) -> Tensor:
    with torch.inference_mode():
        out = network.module(input_ids=_IDS)
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


def _edit(folder: Path, new: Path, **changes: Tensor | None) -> Path:
    shutil.copytree(folder, new)
    held = {**load_file(new / "model.safetensors"), **changes}
    kept = {n: t.contiguous() for n, t in held.items() if t is not None}
    save_file(kept, new / "model.safetensors", metadata={"format": "pt"})
    return new


@pytest.mark.parametrize(
    ("kind", "names"),
    [("causal", "{}"), ("causal", "tied-{}"), ("encoder", "bert-{}"), ("encoder", "masked-{}")],
)
def test_weights_are_copied_into_the_module_that_is_there(
    kind: Any, names: str, root: Path
) -> None:
    kept = Network(root / names.format("a"), kind)
    module, first = kept.module, _logits(kept)
    kept.load(root / names.format("b"))
    assert kept.module is module
    assert kept.folder == root / names.format("b")
    assert _logits(kept).equal(_logits(Network(root / names.format("b"), kind)))
    kept.load(root / names.format("a"))
    assert kept.module is module
    assert _logits(kept).equal(first)


def test_bfloat16_is_widened_without_loss(root: Path, tmp_path: Path) -> None:
    half = {n: t.bfloat16() for n, t in load_file(root / "b" / "model.safetensors").items()}
    kept = Network(root / "a", "causal")
    kept.load(_edit(root / "b", tmp_path / "half", **half))
    plain = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path / "half", dtype=torch.float32
    ).eval()
    with torch.no_grad():
        assert _logits(kept).equal(plain(input_ids=_IDS).logits)


def test_both_of_two_tied_tensors_may_be_stored(root: Path, tmp_path: Path) -> None:
    table = load_file(root / "tied-b" / "model.safetensors")["model.embed_tokens.weight"]
    both = _edit(root / "tied-b", tmp_path / "both", **{"lm_head.weight": table.clone()})
    kept = Network(root / "tied-a", "causal")
    kept.load(both)
    assert _logits(kept).equal(_logits(Network(root / "tied-b", "causal")))


def test_another_architecture_makes_another_module(root: Path, tmp_path: Path) -> None:
    save_llama(tmp_path / "wide", 3, hidden_size=32)
    kept = Network(root / "a", "causal")
    kept.load(tmp_path / "wide")
    assert kept.config.hidden_size == 32
    assert _logits(kept).equal(_logits(Network(tmp_path / "wide", "causal")))


def test_a_pooler_is_not_needed(root: Path, tmp_path: Path) -> None:
    none: dict[str, Tensor | None] = {"pooler.dense.weight": None, "pooler.dense.bias": None}
    bare = _edit(root / "bert-b", tmp_path / "bare", **none)
    kept = Network(root / "bert-a", "encoder")
    with mock.patch.object(network, "load_module") as loaded:
        kept.load(bare)
    assert not loaded.called
    assert _logits(kept).equal(_logits(Network(root / "bert-b", "encoder")))


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"model.norm.weight": None}, InputError, "lacks 'model.norm.weight'"),
        ({"model.more.weight": torch.ones(2)}, MismatchError, "'model.more.weight', which is no"),
        ({"model.norm.weight": torch.ones(4)}, MismatchError, "another shape than its config"),
    ],
)
def test_what_is_missing_or_too_much_is_refused(
    fresh: bool, changes: dict[str, Tensor | None], kind: Any, says: str, root: Path, tmp_path: Path
) -> None:
    odd = _edit(root / "b", tmp_path / "odd", **changes)
    kept = None if fresh else Network(root / "a", "causal")
    with pytest.raises(kind, match=says):
        Network(odd, "causal") if kept is None else kept.load(odd)


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no config\.json"):
        Network(tmp_path, "causal")


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [({}, 64), ({"max_position_embeddings": 9_000}, 2048)],
)
def test_positions_bound_what_is_read(changes: dict[str, int], wanted: int, tmp_path: Path) -> None:
    save_bert(tmp_path / "m", **changes)
    assert Network(tmp_path / "m", "encoder").longest == wanted


def test_roberta_counts_positions_from_behind_its_padding(tmp_path: Path) -> None:
    config = transformers.RobertaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_attention_heads=2,
        num_hidden_layers=1, max_position_embeddings=12,
    )  # fmt: skip
    transformers.RobertaModel(config).save_pretrained(tmp_path / "m")
    found = Network(tmp_path / "m", "encoder")
    assert found.longest == 10
    with torch.inference_mode():
        found.module(input_ids=torch.full((1, 10), 5))


def test_a_token_that_the_model_does_not_know(root: Path) -> None:
    kept = Network(root / "a", "causal")
    known = json.loads((root / "a" / "config.json").read_text())["vocab_size"]
    kept.check_tokens(known - 1)
    with pytest.raises(InputError, match=f"gives token {known}, but the model knows {known}"):
        kept.check_tokens(known)

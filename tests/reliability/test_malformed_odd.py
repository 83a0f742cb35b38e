"""Inputs that look malformed and are not: they merge, or leave out what belongs to nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cermet import api
from cermet.core.errors import MismatchError
from tests.reliability.malformed import BUFFER, Pool, sound

ODD_CONFIGS: dict[str, dict[str, Any]] = {
    "architectures": {"architectures": 5},
    "architectures in a list": {"architectures": [None, {}, "LlamaForCausalLM"]},
    "type": {"model_type": ["llama"]},
    "layers": {"num_hidden_layers": "two"},
    "extra layers": {"num_nextn_predict_layers": "one"},
    "extra layers in a list": {"num_nextn_predict_layers": [1]},
    "ties": {"tie_word_embeddings": "yes"},
    "text": {"text_config": {"hidden_size": {}, "num_hidden_layers": -1}},
    "no text": {"text_config": []},
    "hidden size": {"hidden_size": [4]},
    "infinite": {"time_step_limit": [0.0, float("inf")]},
    "huge": {"num_hidden_layers": 10**30},
}


@pytest.mark.parametrize("name", ODD_CONFIGS)
def test_odd_values_in_a_config_do_not_matter(name: str, tmp_path: Path) -> None:
    """Names and shapes decide; a config that says nonsense is carried over as it is."""
    pool = Pool(tmp_path / "in")
    for model in ("base", "a", "b"):
        pool.write(f"{model}/config.json", ODD_CONFIGS[name])
    api.merge(pool.save_recipe(), tmp_path / "out", threads=1)
    written = json.loads((tmp_path / "out/config.json").read_text("utf-8"))
    assert ODD_CONFIGS[name].items() <= written.items()


ODD_NAMES = {
    "layer of many digits": "model.layers." + "9" * 5000 + ".x.weight",
    "layer in the billions": "model.layers.4000000000.x.weight",
    "expert of many digits": "model.layers.0.mlp.experts." + "9" * 5000 + ".w1.weight",
    "empty": "",
    "dots": "....",
    "digits": "0.1.2.3",
    "other digits": "model.layers.²." + "x.weight",
    "spaces": " ",
    "kilobytes": "x." * 5000,
}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_of_tensors_are_names(name: str, tmp_path: Path) -> None:
    pool = Pool(tmp_path / "in")
    for model in ("base", "a", "b"):
        pool.set_tensors(model, {ODD_NAMES[name]: torch.ones(3)})
    api.merge(pool.save_recipe(), tmp_path / "out", threads=1)
    assert ODD_NAMES[name] in api.open(tmp_path / "out")


def test_layers_that_hold_nothing_are_no_layers_to_stack(tmp_path: Path) -> None:
    """Counting to the number in a name would take for ever."""
    pool = Pool(tmp_path)
    far = "model.layers.99999.self_attn.q_proj.weight"
    pool.set_tensors("a", {far: torch.ones(4, 4)})
    source = {"model": str(pool.root / "a"), "layer_range": [0, 100_000]}
    recipe = {"merge_method": "passthrough", "slices": [{"sources": [source]}]}
    with pytest.raises(MismatchError, match="no tensors for layer 2"):
        api.plan(recipe)


def test_buffers_of_one_model_alone_are_left_out(tmp_path: Path) -> None:
    pool = Pool(tmp_path / "in")
    pool.set_tensors("a", {"model.cached_ids": torch.arange(3)})
    pool.set_tensors("b", {BUFFER: None})
    api.merge(pool.save_recipe(), tmp_path / "out", threads=1)
    assert api.open(tmp_path / "out").keys() == sound(1).keys()

"""What slices make loads in transformers and gives finite logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from cermet import api
from tests.recipes.pools import config_of

_SMALL = {"hidden_size": 16, "intermediate_size": 24, "vocab_size": 40, "num_attention_heads": 2}


def _saved(folder: Path, model: Any) -> str:
    model.eval().save_pretrained(folder)
    return str(folder)


def _logits(folder: Path) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(12)[None]).logits
    return found


def _stack(model: str, *spans: tuple[int, int]) -> dict[str, Any]:
    slices = [{"sources": [{"model": model, "layer_range": list(s)}]} for s in spans]
    return {"merge_method": "passthrough", "slices": slices}


def test_a_stacked_llama(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**_SMALL, num_hidden_layers=3)
    source = _saved(tmp_path / "a", transformers.LlamaForCausalLM(config))
    api.merge(_stack(source, (0, 2), (1, 3)), tmp_path / "out")
    assert config_of(tmp_path / "out")["num_hidden_layers"] == 4
    assert bool(torch.isfinite(_logits(tmp_path / "out")).all())


def test_layers_that_are_silenced_change_nothing(tmp_path: Path) -> None:
    """Depth up-scaling: a repeated layer whose output projections are 0 is the identity."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**_SMALL, num_hidden_layers=2)
    source = _saved(tmp_path / "a", transformers.LlamaForCausalLM(config))
    recipe = _stack(source, (0, 2), (1, 2))
    cases = [{"filter": "o_proj", "value": 0}, {"filter": "down_proj", "value": 0}, {"value": 1}]
    recipe["slices"][1]["parameters"] = {}
    recipe["slices"][1]["sources"][0]["parameters"] = {"scale": cases}
    api.merge(recipe, tmp_path / "out")
    torch.testing.assert_close(_logits(tmp_path / "out"), _logits(tmp_path / "a"))


def test_gpt2_on_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=12, n_embd=8, n_head=2, vocab_size=40, n_positions=16)
    source = _saved(tmp_path / "a", transformers.GPT2LMHeadModel(config))
    api.merge(_stack(source, (0, 12), (0, 12)), tmp_path / "out")
    assert transformers.AutoConfig.from_pretrained(tmp_path / "out").n_layer == 24
    assert bool(torch.isfinite(_logits(tmp_path / "out")).all())


def test_a_sliced_hybrid_keeps_the_kind_of_each_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    config = transformers.Qwen3Config(
        **_SMALL, num_hidden_layers=4, num_key_value_heads=1, head_dim=8, layer_types=kinds,
        use_sliding_window=True, sliding_window=4,
    )  # fmt: skip
    source = _saved(tmp_path / "a", transformers.Qwen3ForCausalLM(config))
    api.merge(_stack(source, (1, 4), (0, 2)), tmp_path / "out")
    found = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert (found.num_hidden_layers, found.layer_types) == (5, kinds[1:] + kinds[:2])
    assert bool(torch.isfinite(_logits(tmp_path / "out")).all())

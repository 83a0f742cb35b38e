"""The archive of `lora` is an adapter: PEFT loads it, and the adapted model is the restored one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

import cermet


def _models(root: Path, kind: str) -> tuple[Path, Path]:
    torch.manual_seed(0)
    sizes = {"vocab_size": 48, "num_hidden_layers": 2, "tie_word_embeddings": kind == "tied"}
    if kind == "gpt2":
        words = {"vocab_size": 48, "bos_token_id": 1, "eos_token_id": 2}
        config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, **words)
    else:  # with biases beside some of its matrices
        config = transformers.Qwen2Config(
            hidden_size=16, intermediate_size=24, num_attention_heads=2, num_key_value_heads=1,
            **sizes,
        )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(root / "base")
    with torch.no_grad():
        for value in model.parameters():
            value += 0.05 * torch.randn_like(value)
    model.save_pretrained(root / "expert")
    return root / "base", root / "expert"


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(torch.arange(12)[None]).logits
    return found


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("qwen2", {"rank": 3}),
        ("qwen2", {"rank": 3, "rest": "base"}),
        ("qwen2", {"rank": 3, "vocabulary": True}),
        ("tied", {"rank": 3}),
        ("gpt2", {"rank": 3}),
    ],
)
def test_peft_loads_it(kind: str, given: dict[str, Any], tmp_path: Path) -> None:
    base, expert = _models(tmp_path, kind)
    done = cermet.compress(base, expert, tmp_path / "lora", codec="lora", **given)
    assert 0 < done.error < 1
    cermet.restore(tmp_path / "lora", tmp_path / "out")
    load = transformers.AutoModelForCausalLM.from_pretrained
    adapted = peft.PeftModel.from_pretrained(load(base), tmp_path / "lora")
    restored = _logits(load(tmp_path / "out"))
    torch.testing.assert_close(_logits(adapted), restored, rtol=0, atol=2e-5)
    assert not torch.allclose(restored, _logits(load(base)), atol=1e-2)
    # and Cermet reads it as any adapter
    ours = cermet.open(f"{base}+{tmp_path / 'lora'}")
    for name, value in cermet.open(tmp_path / "out").items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-6, msg=name)
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text("utf-8"))
    assert config["task_type"] == "CAUSAL_LM"

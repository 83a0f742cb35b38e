"""LoRA adapters: held to PEFT's own merge, cut invariance, and refusals."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cermet.checkpoints.lora import AdaptedCheckpoint
from cermet.checkpoints.reader import MemoryCheckpoint
from cermet.core.errors import MismatchError


class _Memory(MemoryCheckpoint):
    """A checkpoint of copies, whose values can be looked at."""

    def __init__(self, values: Mapping[str, torch.Tensor]) -> None:
        self.values = {name: value.detach().clone() for name, value in values.items()}
        super().__init__("base", self.values)


def _llama(**changes: Any) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {
        "vocab_size": 60,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        **changes,
    }
    return LlamaForCausalLM(LlamaConfig(**settings))


def _gpt2() -> torch.nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4))


def _bert() -> torch.nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(
            vocab_size=60,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
        )
    )


def _mixtral() -> torch.nn.Module:
    from transformers import MixtralConfig, MixtralForCausalLM

    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=60,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_local_experts=4,
        )
    )


class _Convolutions(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plane = torch.nn.Conv2d(3, 8, 3)
        self.line = torch.nn.Conv1d(4, 6, 5)
        self.norm = torch.nn.BatchNorm1d(6)


class _Experts(torch.nn.Module):
    """Fused experts stored as [experts, in, out], as in gpt-oss."""

    is_transposed = True

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = torch.nn.Parameter(torch.randn(3, 8, 20))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.gate_up_proj


def _stir(model: torch.nn.Module) -> None:
    """Give everything that an adapter may train a random value."""
    for name, value in model.named_parameters():
        if value.requires_grad or "lora_" in name:
            # in place, so that tied parameters stay tied
            value.data.add_(torch.randn_like(value), alpha=0.02 if "magnitude" in name else 0.1)


def _adapt(
    folder: Path, model: torch.nn.Module, safe: bool = True, **settings: Any
) -> tuple[_Memory, dict[str, torch.Tensor]]:
    """Save a random adapter with PEFT; the base, and what PEFT merges."""
    from peft import LoraConfig, get_peft_model

    base = _Memory(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(model, LoraConfig(**settings))
        _stir(wrapped)
        wrapped.save_pretrained(str(folder), safe_serialization=safe)
        merged = wrapped.merge_and_unload().state_dict()
    return base, {name: value.detach().clone() for name, value in merged.items()}


def _whole(checkpoint: AdaptedCheckpoint, name: str, cut: int | None = None) -> torch.Tensor:
    size = checkpoint.tensors[name].shape
    count = torch.Size(size).numel()
    step = cut or max(count, 1)
    blocks = [checkpoint.block(name, at, min(at + step, count)) for at in range(0, count, step)]
    return torch.cat(blocks).view(size) if blocks else torch.empty(size)


def _compare(
    base: _Memory, expected: Mapping[str, torch.Tensor], folder: Path
) -> AdaptedCheckpoint:
    ours = AdaptedCheckpoint(base, folder)
    changed = set()
    for name, value in expected.items():
        result = _whole(ours, name)
        if value.is_floating_point():
            assert (result - value).abs().max() <= 1e-6, name
        if not torch.equal(value, base.values[name]):
            changed.add(name)
    assert changed
    assert changed <= ours.touched
    return ours


_ATTENTION = ["q_proj", "v_proj", "down_proj"]
_LLAMA: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "r": 3, "lora_alpha": 5},
    "patterns": {
        "rank_pattern": {"v_proj": 2, r"layers\.1\.self_attn\.q_proj": 6, "q_proj": 5},
        "alpha_pattern": {r"model.layers.0.self_attn.q_proj": 32, "down_proj": 1},
    },
    "patterns_rslora": {"use_rslora": True, "rank_pattern": {"v_proj": 2}},
    "dora": {"use_dora": True},
    "dora_rslora": {"use_dora": True, "use_rslora": True},
    "one_layer": {"layers_to_transform": [1]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "embedding_dora": {"target_modules": ["embed_tokens"], "use_dora": True},
    "tokens": {"trainable_token_indices": [7, 3, 59]},
    "tokens_by_name": {"trainable_token_indices": {"embed_tokens": [0, 5]}},
    "saved_modules": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "saved_norm": {"modules_to_save": ["norm"]},
    "mica": {"init_lora_weights": "mica", "r": 4},
    "orthogonal": {"init_lora_weights": "orthogonal", "r": 4},
    "parameter": {"target_modules": [], "target_parameters": ["q_proj.weight"]},
}


@pytest.mark.parametrize("case", _LLAMA)
def test_equals_peft_on_llama(case: str, tmp_path: Path) -> None:
    torch.manual_seed(len(case))
    base, expected = _adapt(tmp_path, _llama(), **{"target_modules": _ATTENTION, **_LLAMA[case]})
    _compare(base, expected, tmp_path)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize(
    "targets", [["c_attn", "c_proj"], ["c_proj", "lm_head"], ["wte", "c_fc"]], ids=str
)
def test_equals_peft_on_gpt2(targets: list[str], dora: bool, tmp_path: Path) -> None:
    # with lm_head among the targets PEFT saves fan_in_fan_out: false for the transposed ones too
    torch.manual_seed(1)
    settings: dict[str, Any] = {"target_modules": targets, "fan_in_fan_out": True}
    settings["use_dora"] = dora
    model = _gpt2()
    if "lm_head" in targets:
        head = model.get_submodule("lm_head")
        head.register_parameter("weight", torch.nn.Parameter(torch.randn(60, 32)))
    base, expected = _adapt(tmp_path, model, **settings)
    _compare(base, expected, tmp_path)


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
@pytest.mark.parametrize("extra", [{}, {"lora_bias": True}, {"use_dora": True}], ids=str)
def test_equals_peft_on_bert(bias: str, extra: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(2)
    settings = {"target_modules": ["query", "dense"], "bias": bias, **extra}
    base, expected = _adapt(tmp_path, _bert(), modules_to_save=["classifier"], **settings)
    ours = _compare(base, expected, tmp_path)
    assert "classifier.weight" in ours.touched


@pytest.mark.parametrize("targets", [["experts.gate_up_proj", "experts.down_proj"], ["down_proj"]])
def test_equals_peft_on_fused_experts(targets: list[str], tmp_path: Path) -> None:
    torch.manual_seed(3)
    base, expected = _adapt(
        tmp_path,
        _mixtral(),
        target_modules=["q_proj"],
        target_parameters=targets,
        rank_pattern={"experts.down_proj": 3},
    )
    ours = _compare(base, expected, tmp_path)
    name = "model.layers.0.mlp.experts.down_proj"
    assert name in ours.touched
    assert torch.equal(_whole(ours, name), _whole(ours, name, 7))


def test_equals_peft_on_transposed_experts(tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = torch.nn.Sequential()
    model.add_module("experts", _Experts())
    base, expected = _adapt(
        tmp_path, model, target_modules=[], target_parameters=["experts.gate_up_proj"], r=2
    )
    _compare(base, expected, tmp_path)


@pytest.mark.parametrize("dora", [False, True])
def test_equals_peft_on_convolutions(dora: bool, tmp_path: Path) -> None:
    torch.manual_seed(5)
    base, expected = _adapt(
        tmp_path,
        _Convolutions(),
        target_modules=["plane", "line"],
        modules_to_save=["norm"],
        use_dora=dora,
    )
    ours = _compare(base, expected, tmp_path)
    assert ours.block("norm.num_batches_tracked", 0, 1).dtype == torch.int64


def test_reads_adapters_saved_by_torch(tmp_path: Path) -> None:
    base, expected = _adapt(tmp_path, _llama(), safe=False, target_modules=_ATTENTION)
    assert (tmp_path / "adapter_model.bin").exists()
    _compare(base, expected, tmp_path)


def test_tied_adapters_are_applied_once(tmp_path: Path) -> None:
    model = _llama(tie_word_embeddings=True)
    base, _ = _adapt(
        tmp_path,
        model,
        target_modules=["embed_tokens"],
        modules_to_save=None,
        ensure_weight_tying=True,
    )
    saved = load_file(tmp_path / "adapter_model.safetensors")
    a = saved["base_model.model.model.embed_tokens.lora_embedding_A"]
    b = saved["base_model.model.model.embed_tokens.lora_embedding_B"]
    del base.values["lm_head.weight"]
    ours = AdaptedCheckpoint(_Memory(base.values), tmp_path)
    expected = base.values["model.embed_tokens.weight"] + a.T @ b.T
    assert (_whole(ours, "model.embed_tokens.weight") - expected).abs().max() <= 1e-6


def test_bfloat16_base_is_adapted_in_float32(tmp_path: Path) -> None:
    base, _ = _adapt(tmp_path, _llama(), target_modules=["q_proj"], r=4, lora_alpha=8)
    half = _Memory({name: value.bfloat16() for name, value in base.values.items()})
    ours = AdaptedCheckpoint(half, tmp_path)
    name = "model.layers.1.self_attn.q_proj"
    saved = load_file(tmp_path / "adapter_model.safetensors")
    a, b = (saved[f"base_model.model.{name}.lora_{x}.weight"].double() for x in "AB")
    expected = half.values[f"{name}.weight"].double() + 2 * (b @ a)
    result = _whole(ours, f"{name}.weight")
    assert result.dtype == torch.float32
    assert (result - expected).abs().max() <= 1e-6
    assert ours.tensors[f"{name}.weight"].dtype == "BF16"
    assert ours.tensors[f"{name}.weight"].begin == -1
    untouched = "model.layers.1.mlp.up_proj.weight"
    assert ours.block(untouched, 0, 9).dtype == torch.bfloat16


def _wide(folder: Path, rows: int, cols: int, **settings: Any) -> _Memory:
    """One matrix and an adapter, by hand: large enough for several tiles."""
    torch.manual_seed(6)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    factors = {
        "base_model.model.h.0.x.lora_A.weight": torch.randn(4, cols),
        "base_model.model.h.0.x.lora_B.weight": torch.randn(rows, 4),
    }
    if settings.get("use_dora"):
        factors["base_model.model.h.0.x.lora_magnitude_vector"] = torch.rand(rows)
    save_file(factors, folder / "adapter_model.safetensors")
    return _Memory({"h.0.x.weight": torch.randn(rows, cols)})


@pytest.mark.parametrize("cut", [65_537, 7, 1])
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("flipped", [False, True])
def test_cuts_do_not_matter(cut: int, dora: bool, flipped: bool, tmp_path: Path) -> None:
    rows, cols = (700, 900) if cut > 10 else (210, 250) if cut > 1 else (70, 100)
    base = _wide(tmp_path, rows, cols, use_dora=dora)
    if flipped:
        base = _Memory({"h.0.x.weight": base.values["h.0.x.weight"].T.contiguous()})
    whole = _whole(AdaptedCheckpoint(base, tmp_path), "h.0.x.weight")
    assert torch.equal(whole, _whole(AdaptedCheckpoint(base, tmp_path), "h.0.x.weight", cut))


@pytest.mark.parametrize("order", ["forward", "backward"])
def test_order_and_threads_do_not_matter(order: str, tmp_path: Path) -> None:
    base = _wide(tmp_path, 900, 700, use_dora=True)
    base = _Memory({"h.0.x.weight": base.values["h.0.x.weight"].T.contiguous()})
    expected = _whole(AdaptedCheckpoint(base, tmp_path), "h.0.x.weight").view(-1)
    shared = AdaptedCheckpoint(base, tmp_path)
    result = torch.empty_like(expected)
    starts = list(range(0, result.numel(), 50_001))[:: 1 if order == "forward" else -1]

    def work(mine: list[int]) -> None:
        for at in mine:
            end = min(at + 50_001, result.numel())
            result[at:end] = shared.block("h.0.x.weight", at, end)

    threads = [threading.Thread(target=work, args=(starts[i::3],)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(result, expected)


def test_blas_threads_do_not_matter(tmp_path: Path) -> None:
    base = _wide(tmp_path, 900, 700, use_dora=True)
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(_whole(AdaptedCheckpoint(base, tmp_path), "h.0.x.weight"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


def test_a_block_belongs_to_the_caller(tmp_path: Path) -> None:
    base, expected = _adapt(
        tmp_path, _bert(), target_modules=["query"], modules_to_save=["classifier"], bias="all"
    )
    ours = AdaptedCheckpoint(base, tmp_path)
    for name in ours.touched:
        ours.block(name, 0, torch.Size(ours.tensors[name].shape).numel()).zero_()
        assert (_whole(ours, name) - expected[name]).abs().max() <= 1e-6


def test_ranges_outside_are_refused(tmp_path: Path) -> None:
    ours = AdaptedCheckpoint(_wide(tmp_path, 8, 8), tmp_path)
    assert ours.block("h.0.x.weight", 5, 5).shape == (0,)
    for start, stop in [(-1, 3), (0, 65), (5, 4)]:
        with pytest.raises(IndexError, match="64"):
            ours.block("h.0.x.weight", start, stop)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.", ""),
        ("model.", "language_model.model."),
        ("model.", "model.language_model."),
    ],
)
def test_names_that_differ_by_a_prefix(old: str, new: str, tmp_path: Path) -> None:
    base, expected = _adapt(tmp_path, _llama(), target_modules=_ATTENTION)
    renamed = {
        (new + name.removeprefix(old) if name.startswith(old) else name): value
        for name, value in base.values.items()
    }
    ours = AdaptedCheckpoint(_Memory(renamed), tmp_path)
    for name, value in expected.items():
        mine = new + name.removeprefix(old) if name.startswith(old) else name
        assert (_whole(ours, mine) - value).abs().max() <= 1e-6


def test_experts_whose_shapes_do_not_tell_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(7)
    model = torch.nn.Sequential()
    experts = _Experts()
    experts.gate_up_proj = torch.nn.Parameter(torch.randn(3, 8, 8))
    model.add_module("experts", experts)
    base, _ = _adapt(tmp_path, model, target_modules=[], target_parameters=["experts.gate_up_proj"])
    with pytest.raises(MismatchError, match="2 ways"):
        AdaptedCheckpoint(base, tmp_path)

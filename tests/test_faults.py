"""Faults of mergekit 0.1.5 or its repository that a merge must be free of, one test for each.

Their numbers are those of the project's list.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cermet import api
from cermet.cli.app import main
from cermet.core.errors import MismatchError, NonFiniteError, RecipeError
from tests.recipes.pools import (
    HIDDEN,
    VOCAB,
    config_of,
    llama,
    llama_config,
    merged,
    planned,
    save,
    save_llama,
    write_recipe,
)
from tests.recipes.vocabularies import ids_of, save_model, weighted

_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def _deltas(base: str, *experts: str, method: str = "ties", **parameters: Any) -> dict[str, Any]:
    models = [{"model": m, "parameters": {"weight": 1.0}} for m in experts]
    recipe = {"merge_method": method, "models": models, "base_model": base}
    return {**recipe, "parameters": parameters}


@pytest.fixture
def pool(tmp_path: Path) -> tuple[str, str, str]:
    found = [save_llama(tmp_path / name, i) for i, name in enumerate("abc")]
    return found[0], found[1], found[2]


def test_fault_01_unknown_keys_and_parameters_are_ignored(pool: tuple[str, str, str]) -> None:
    a, b, c = pool
    recipe = _deltas(a, b, c)
    with pytest.raises(RecipeError, match=r"unknown key 'out_dtpe'\. Did you mean 'out_dtype'"):
        planned({**recipe, "out_dtpe": "float32"})
    with pytest.raises(RecipeError, match=r"takes no 'densty'.*Did you mean 'density'"):
        planned({**recipe, "parameters": {"densty": 0.5}})


def test_fault_02_a_base_that_is_not_set_depends_on_the_hash_seed(
    pool: tuple[str, str, str], tmp_path: Path
) -> None:
    a, b, c = pool
    recipe = _deltas(a, b, c)
    del recipe["base_model"]
    with pytest.raises(RecipeError, match="'ties' needs a base_model"):
        planned(recipe)
    # Where no base is needed, the first model lends config and tokenizer, whatever the seed.
    text = json.dumps(
        {"merge_method": "linear", "models": [{"model": m} for m in (c, a, b)],
         "parameters": {"weight": 1}}
    )  # fmt: skip
    path = write_recipe(tmp_path, text)
    code = f"from cermet import api; p = api.plan({str(path)!r}); print(p.donor, *p.models)"
    other = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": other},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    here = api.plan(path)
    assert run.stdout.split() == [str(here.donor), *map(str, here.models)] == ["0", c, a, b]


def test_fault_03_models_vanish_from_norm_and_head_when_slices_differ(
    pool: tuple[str, str, str], tmp_path: Path
) -> None:
    a, b, c = pool

    def piece(layer: int, *models: str) -> dict[str, Any]:
        span = [layer, layer + 1]
        own = {"weight": 1}
        return {"sources": [{"model": m, "layer_range": span, "parameters": own} for m in models]}

    for count, slices in (
        (3, [piece(0, a), piece(1, a, b, c)]),
        (1, [piece(0, a, b), piece(1, a)]),
    ):
        recipe = {"merge_method": "linear", "slices": slices}
        found = merged(recipe, tmp_path / str(count))
        for name in ("model.norm.weight", _HEAD):
            expected = torch.stack([llama(i)[name] for i in range(count)]).mean(0)
            torch.testing.assert_close(found[name], expected)
        models = 1 if count == 3 else 2
        expected = torch.stack([llama(i)[_EMBEDDING] for i in range(models)]).mean(0)
        torch.testing.assert_close(found[_EMBEDDING], expected)


@pytest.mark.parametrize("method", ["breadcrumbs", "breadcrumbs_ties"])
@pytest.mark.parametrize("numel", [1, 3, 7, 100])
def test_fault_04_gamma_0_or_a_small_tensor_drops_the_whole_delta(method: str, numel: int) -> None:
    base = {"x": torch.zeros(numel)}
    delta = torch.arange(1, numel + 1, dtype=torch.float32)
    for gamma in (0.0, 0.01):
        found = api.merge_tensors(
            method, base, [{"x": delta}], weight=1.0, density=1.0, gamma=gamma
        )
        assert torch.count_nonzero(found["x"]) >= numel - int(gamma * numel)


@pytest.mark.parametrize("method", ["ties", "dare_ties", "della", "breadcrumbs", "sce"])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 2), (0,), (0, 4)])
def test_fault_05_a_share_below_one_element_crashes(method: str, shape: tuple[int, ...]) -> None:
    base, expert = {"x": torch.zeros(shape)}, {"x": torch.ones(shape)}
    numbers = {"select_topk": 0.1} if method == "sce" else {"weight": 1.0, "density": 0.1}
    if method == "della":
        numbers["epsilon"] = 0.05
    found = api.merge_tensors(method, base, [expert, expert], **numbers)
    assert found["x"].shape == shape
    assert bool(torch.isfinite(found["x"]).all())


def test_fault_06_tensors_of_unequal_shape_are_skipped(pool: tuple[str, str, str]) -> None:
    a, b, c = pool
    odd = {**llama(2), "model.layers.1.mlp.up_proj.weight": torch.ones(25, HIDDEN)}
    save(Path(c), odd, llama_config())
    with pytest.raises(MismatchError, match=r"layers\.1\.mlp\.up_proj.* is \[25, 16\].*\[24, 16\]"):
        planned(_deltas(a, b, c))


def test_fault_07_sums_and_weights_run_in_bf16(tmp_path: Path) -> None:
    """A sum of many bfloat16 models is rounded once; so is a weight."""
    models = [llama(i)[_HEAD].bfloat16() for i in range(12)]
    weights = [0.1 + 0.013 * i for i in range(12)]
    listed = [
        {"model": save(tmp_path / str(i), {"x": m}), "parameters": {"weight": w}}
        for i, (m, w) in enumerate(zip(models, weights, strict=True))
    ]
    found = merged({"merge_method": "linear", "models": listed}, tmp_path / "out")["x"]
    wide = torch.stack([m.double() * w for m, w in zip(models, weights, strict=True)]).sum(0)
    exact = wide / sum(weights)
    assert found.dtype == torch.bfloat16
    half = exact.abs() * 2.0**-8  # no further off than half a step of bfloat16
    assert bool(((found.double() - exact).abs() <= half * 1.001 + 1e-9).all())


def test_fault_07_ranks_of_della_lose_order_above_256() -> None:
    """The probability to be kept grows with the rank all along a row of 2,000 elements."""
    size, draws = 2000, 200
    base = {"x": torch.zeros(draws, size)}
    row = torch.linspace(0.5, 1.5, size)
    expert = {"x": row.repeat(draws, 1).bfloat16()}
    found = api.merge_tensors(
        "della_linear", base, [expert], weight=1.0, density=0.5, epsilon=0.4, rescale=False
    )
    kept = (found["x"] != 0).float().mean(0).view(8, -1).mean(1)
    assert bool((kept.diff() > 0.05).all())
    assert kept[0] < 0.2
    assert kept[-1] > 0.8


@pytest.mark.parametrize("method", ["arcee_fusion", "ramplus_tl", "ram"])
def test_fault_08_some_methods_write_float32_files(method: str, tmp_path: Path) -> None:
    weights = [{n: t.bfloat16() for n, t in llama(i).items()} for i in range(2)]
    a, b = (save(tmp_path / str(i), w, llama_config()) for i, w in enumerate(weights))
    recipe = {"merge_method": method, "base_model": a, "models": [{"model": b}]}
    found = merged(recipe, tmp_path / "out")
    assert {t.dtype for t in found.values()} == {torch.bfloat16}


def test_fault_09_slices_leave_the_layer_count_and_take_negative_ranges(tmp_path: Path) -> None:
    """Also for an architecture that nobody has heard of."""
    config = llama_config(3, model_type="unheard", architectures=["Unheard"])
    weights = {n.replace("layers", "blocks"): t for n, t in llama(1, 3).items()}
    a = save(tmp_path / "a", weights, config)
    recipe = {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": a, "layer_range": [0, 2]}]}] * 2,
    }
    found = merged(recipe, tmp_path / "out")
    assert config_of(tmp_path / "out")["num_hidden_layers"] == 4
    assert "model.blocks.3.mlp.up_proj.weight" in found
    recipe["slices"] = [{"sources": [{"model": a, "layer_range": [0, -1]}]}]
    with pytest.raises(RecipeError, match=r"layer_range \[0, -1\] is not inside the 3 layers"):
        planned(recipe)


def test_fault_10_tokens_of_kind_zero_crash(tmp_path: Path) -> None:
    models = [save_model(tmp_path / name, seed) for seed, name in enumerate("ab")]
    rule = {"source": {"kind": "zero"}, "force": True}
    recipe = weighted(models, tokenizer={"source": "union", "tokens": {"the": rule}})
    found = merged(recipe, tmp_path / "out")[_EMBEDDING]
    index = ids_of(tmp_path / "out")["the"]
    assert not found[index].any()
    assert found[index + 1].any()


def test_fault_11_an_adapter_is_loaded_whole_merged_and_cached(tmp_path: Path) -> None:
    own = torch.Generator().manual_seed(0)
    base = torch.randn(64, 48, generator=own)
    save(tmp_path / "base", {"model.layers.0.self_attn.q_proj.weight": base})
    left, right = torch.randn(64, 4, generator=own), torch.randn(4, 48, generator=own)
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    adapter = tmp_path / "adapter"
    save(adapter, {f"{name}.lora_A.weight": right, f"{name}.lora_B.weight": left})
    (adapter / "model.safetensors").rename(adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    before = sorted(p for p in tmp_path.rglob("*"))
    model = f"{tmp_path / 'base'}+{adapter}"
    plan = planned({"merge_method": "passthrough", "models": [{"model": model}]})
    block = plan.checkpoints[0].block(plan.tasks[0].name, 48, 96)
    assert block.untyped_storage().nbytes() == 48 * 4  # the one row, not the matrix
    torch.testing.assert_close(block, (base + 2 * left @ right)[1])
    found = merged(
        {"merge_method": "passthrough", "models": [{"model": model}]}, tmp_path / "out", block=48
    )
    torch.testing.assert_close(found[plan.tasks[0].name], base + 2 * left @ right)
    assert sorted(p for p in tmp_path.rglob("*") if "out" not in p.parts) == before


def _spoilt_merge(pool: tuple[str, str, str], out: Path) -> None:
    """A merge that is stopped half way, and goes on."""
    recipe, seen = _deltas(*pool), list[str]()

    def stop(name: str, nbytes: int) -> None:
        seen.append(name)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.merge(recipe, out, threads=1, progress=stop)
    assert not out.exists()
    assert api.merge(recipe, out, threads=1, resume=True).resumed_pieces >= 4


def test_fault_12_no_resume_no_checksum_no_check_for_nan(
    pool: tuple[str, str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    _spoilt_merge(pool, out)
    assert api.verify(out).problems == []
    data = bytearray((out / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (out / "model.safetensors").write_bytes(data)
    assert "has changed since it was written" in api.verify(out).problems[0]
    spoilt = llama(1)
    spoilt["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save(Path(pool[1]), spoilt, llama_config())
    with pytest.raises(NonFiniteError, match=r"layers\.1\.mlp\.up_proj.* holds nan at element 53"):
        api.merge(_deltas(*pool), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_fault_13_errors_of_the_recipe_come_after_the_download(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import huggingface_hub

    asked = list[str]()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: asked.append(name))
    for wrong in ({"parameters": {"densty": 1}}, {"dtype": "fp7"}, {"base_model": None}):
        with pytest.raises(RecipeError):
            planned({**_deltas("org/a", "org/b"), **wrong})
    assert asked == []


def test_fault_14_embeddings_of_unequal_vocabulary_are_cut(
    pool: tuple[str, str, str], tmp_path: Path
) -> None:
    grown = {**llama(1), _EMBEDDING: torch.ones(VOCAB + 2, HIDDEN)}
    save(Path(pool[1]), grown, llama_config())
    with pytest.raises(MismatchError, match=r"Their vocabularies differ\. Say which"):
        api.merge(_deltas(*pool), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _two_heads(tmp_path: Path, base: bool, expert: bool) -> dict[str, Any]:
    """A base and an expert that tie their heads, and store them or not."""
    tied = llama_config(tie_word_embeddings=True)
    paths = []
    for i, stored in enumerate((base, expert)):
        weights = llama(i, head=False)
        if stored:
            weights[_HEAD] = weights[_EMBEDDING].clone()
        paths.append(save(tmp_path / f"m{i}", weights, tied))
    return _deltas(*paths, method="dare_linear", density=0.5)


@pytest.mark.parametrize("base", [False, True])
@pytest.mark.parametrize("expert", [False, True])
def test_fault_15_a_tied_head_is_missing_or_doubled(
    base: bool, expert: bool, tmp_path: Path
) -> None:
    found = merged(_two_heads(tmp_path, base, expert), tmp_path / "out")
    assert _HEAD not in found
    assert _EMBEDDING in found
    assert config_of(tmp_path / "out")["tie_word_embeddings"] is True


def test_fault_16_generation_config_and_chat_template_are_lost(
    pool: tuple[str, str, str], tmp_path: Path
) -> None:
    carried = {
        "generation_config.json": '{"temperature": 0.3}',
        "chat_template.jinja": "{{ messages }}",
        "tokenizer_config.json": '{"chat_template": "{{ old }}"}',
        "preprocessor_config.json": "{}",
    }
    for name, text in carried.items():
        (Path(pool[0]) / name).write_text(text)
    merged(_deltas(*pool), tmp_path / "out")
    for name, text in carried.items():
        assert (tmp_path / "out" / name).read_text() == text


def test_fault_17_sliced_hybrids_keep_the_wrong_layer_types(tmp_path: Path) -> None:
    kinds = ["linear_attention", "full_attention", "linear_attention"]
    a = save_llama(tmp_path / "a", 1, 3, layer_types=kinds)
    pieces = [{"sources": [{"model": a, "layer_range": [i, i + 2]}]} for i in (0, 1)]
    merged({"merge_method": "passthrough", "slices": pieces}, tmp_path / "out")
    assert config_of(tmp_path / "out")["layer_types"] == [*kinds[:2], *kinds[1:]]


def test_fault_18_a_bad_merge_gives_no_diagnosis(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = save_llama(tmp_path / "a", 1), save_llama(tmp_path / "b", 2)
    models = [{"model": m, "parameters": {"weight": 40.0}} for m in (a, b)]
    recipe = {"merge_method": "linear", "models": models, "parameters": {"normalize": False}}
    api.merge(recipe, tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["cermet", "verify", str(tmp_path / "out"), "--load"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "far more surprised by plain text" in capsys.readouterr().out


def test_every_fault_has_a_test() -> None:
    told = {name[11:13] for name in globals() if name.startswith("test_fault_")}
    assert told == {f"{i:02}" for i in range(1, 19)}

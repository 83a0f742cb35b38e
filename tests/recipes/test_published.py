"""The algebra of the recipes in docs/published.md: what they must give at their ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import cermet
from tests.recipes.pools import HIDDEN, llama_config, save, save_llama
from tests.recipes.vocabularies import CHAT, EMBED, HEAD, ids_of, save_model
from tests.reliability.runs import weights, write_model

SHAPE = (12, 8)


@pytest.fixture
def pool(tmp_path: Path) -> dict[str, Path]:
    """A base, an instruct model and a domain model of one family, in float32."""
    found = {}
    for seed, name in enumerate(("base", "instruct", "domain")):
        tensors = {
            n: t.float() if t.is_floating_point() else t for n, t in weights(2, SHAPE, seed).items()
        }
        found[name] = write_model(tmp_path / name, tensors)
    return found


def _merged(recipe: Mapping[str, Any], out: Path) -> dict[str, Tensor]:
    cermet.merge(recipe, out)
    return {n: t.clone() for n, t in cermet.open(out).items()}


def _held(folder: Path) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in cermet.open(folder).items()}


def _residual(base: Path, instruct: Path, domain: Path, factor: float) -> dict[str, Any]:
    """Chat Vector: domain + factor · (instruct − base)."""
    graft = {"model": str(instruct), "delta_of": str(base), "parameters": {"weight": factor}}
    return {"merge_method": "task_arithmetic", "base_model": str(domain), "models": [graft]}


def _close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)


def test_chat_vector_onto_the_base_is_the_instruct_model(
    pool: dict[str, Path], tmp_path: Path
) -> None:
    found = _merged(_residual(pool["base"], pool["instruct"], pool["base"], 1), tmp_path / "out")
    _close(found, _held(pool["instruct"]))


def test_chat_vector_of_nothing_is_the_domain_model(pool: dict[str, Path], tmp_path: Path) -> None:
    for number, recipe in enumerate(
        (
            _residual(pool["base"], pool["base"], pool["domain"], 1),
            _residual(pool["base"], pool["instruct"], pool["domain"], 0),
        )
    ):
        found = _merged(recipe, tmp_path / f"out{number}")
        assert all(torch.equal(found[n], t) for n, t in _held(pool["domain"]).items())


def test_chat_vector_is_symmetric_in_domain_and_instruction(
    pool: dict[str, Path], tmp_path: Path
) -> None:
    one = _merged(_residual(pool["base"], pool["instruct"], pool["domain"], 1), tmp_path / "one")
    two = _merged(_residual(pool["base"], pool["domain"], pool["instruct"], 1), tmp_path / "two")
    _close(one, two)


def test_negating_twice_gives_the_model_back(pool: dict[str, Path], tmp_path: Path) -> None:
    recipe = {"merge_method": "task_arithmetic", "base_model": str(pool["base"])}
    less = {"model": str(pool["instruct"]), "parameters": {"weight": -1}}
    _merged({**recipe, "models": [less]}, tmp_path / "less")
    again = {"model": str(tmp_path / "less"), "parameters": {"weight": -1}}
    found = _merged({**recipe, "models": [again]}, tmp_path / "again")
    _close(found, _held(pool["instruct"]))


def test_shadow_ft_is_chat_vector_on_linear_layers(pool: dict[str, Path], tmp_path: Path) -> None:
    graft = {"model": str(pool["domain"]), "delta_of": str(pool["base"])}
    recipe = {"merge_method": "shadow_ft", "base_model": str(pool["instruct"]), "models": [graft]}
    found = _merged(recipe, tmp_path / "out")
    whole = _merged(
        _residual(pool["base"], pool["domain"], pool["instruct"], 1), tmp_path / "whole"
    )
    instruct = _held(pool["instruct"])
    for name, value in found.items():
        assert torch.equal(value, whole[name] if "up_proj" in name else instruct[name])


def test_a_gradient_of_weights_is_lines(pool: dict[str, Path], tmp_path: Path) -> None:
    models = [{"model": str(pool[n])} for n in ("instruct", "domain")]
    recipe = {"merge_method": "lines", "base_model": str(pool["base"]), "models": models}
    found = _merged({**recipe, "parameters": {"alpha": 0.3, "beta": 0.5}}, tmp_path / "lines")
    graded = {**recipe, "merge_method": "task_arithmetic", "parameters": {"weight": [0.3, 0.8]}}
    _close(found, _merged(graded, tmp_path / "graded"))


def _task_arithmetic(base: Path, *models: dict[str, Any]) -> dict[str, Any]:
    return {"merge_method": "task_arithmetic", "base_model": str(base), "models": list(models)}


def _weighed(model: Path, weight: float) -> dict[str, Any]:
    return {"model": str(model), "parameters": {"weight": weight}}


def test_instruct_plus_domain_at_weight_1_is_either_residual(
    pool: dict[str, Path], tmp_path: Path
) -> None:
    both = (_weighed(pool["instruct"], 1), _weighed(pool["domain"], 1))
    found = _merged(_task_arithmetic(pool["base"], *both), tmp_path / "both")
    one = _residual(pool["base"], pool["instruct"], pool["domain"], 1)
    _close(found, _merged(one, tmp_path / "residual"))


def test_a_domain_residual_at_0_is_the_instruct_model(
    pool: dict[str, Path], tmp_path: Path
) -> None:
    """And where the domain model is the base, at any factor."""
    instruct = _held(pool["instruct"])
    for number, (domain, factor) in enumerate((("domain", 0.0), ("base", 0.6))):
        recipe = _residual(pool["base"], pool[domain], pool["instruct"], factor)
        found = _merged(recipe, tmp_path / str(number))
        assert all(torch.equal(found[n], t) for n, t in instruct.items())


def test_residuals_onto_either_model_differ_at_other_factors(
    pool: dict[str, Path], tmp_path: Path
) -> None:
    """C + r(I - B) and I + r(C - B) are (1 - r)(C - I) apart."""
    one = _merged(_residual(pool["base"], pool["instruct"], pool["domain"], 0.5), tmp_path / "1")
    two = _merged(_residual(pool["base"], pool["domain"], pool["instruct"], 0.5), tmp_path / "2")
    domain, instruct = _held(pool["domain"]), _held(pool["instruct"])
    apart = {n: 0.5 * (domain[n] - instruct[n]) for n in _weights_of(one)}
    _close({n: one[n] - two[n] for n in apart}, apart)


def _weights_of(model: Mapping[str, Tensor]) -> list[str]:
    return [n for n, t in model.items() if t.is_floating_point()]


def test_interpolation_at_its_ends_and_turned_round(pool: dict[str, Path], tmp_path: Path) -> None:
    """UnIVAL and rewarded soups: exact ends, and the same from either side."""

    def between(first: str, second: str, share: float, name: str) -> dict[str, Tensor]:
        models = [_weighed(pool[first], share), _weighed(pool[second], 1 - share)]
        return _merged({"merge_method": "linear", "models": models}, tmp_path / name)

    ends = {1.0: "instruct", 0.0: "domain"}
    for share, model in ends.items():
        found = between("instruct", "domain", share, f"end{share}")
        assert all(torch.equal(found[n], t) for n, t in _held(pool[model]).items())
    _close(between("instruct", "domain", 0.3, "one"), between("domain", "instruct", 0.7, "other"))


def test_an_average_of_averages_is_the_ratatouille(pool: dict[str, Path], tmp_path: Path) -> None:
    """Uniform soups: two models averaged count as two when the third is added."""
    names = ("base", "instruct", "domain")
    recipe: dict[str, Any] = {"merge_method": "linear"}
    pair = {**recipe, "models": [_weighed(pool[n], 1) for n in names[:2]]}
    _merged(pair, tmp_path / "pair")
    rest = {**recipe, "models": [_weighed(tmp_path / "pair", 2), _weighed(pool["domain"], 1)]}
    whole = {**recipe, "models": [_weighed(pool[n], 1) for n in names]}
    _close(_merged(rest, tmp_path / "rest"), _merged(whole, tmp_path / "whole"))


def test_fixed_coefficients_of_sum_1_are_a_point_between_the_experts(
    pool: dict[str, Path], tmp_path: Path
) -> None:
    """Self-Positioning's form: at lambda 1 the base cancels, at lambda 0 it is left."""
    models = [_weighed(pool["instruct"], 0.7), _weighed(pool["domain"], 0.3)]
    recipe = _task_arithmetic(pool["base"], *models)
    found = _merged(recipe, tmp_path / "found")
    _close(found, _merged({"merge_method": "linear", "models": models}, tmp_path / "linear"))
    nothing = _merged({**recipe, "parameters": {"lambda": 0}}, tmp_path / "nothing")
    assert all(torch.equal(nothing[n], t) for n, t in _held(pool["base"]).items())


def _hi(pool: Mapping[str, Path], weights: list[float], other: float) -> dict[str, Any]:
    """Hi-Merging's second step: the layers of one expert by a list, what is outside apart."""
    weight = [{"filter": ".layers.", "value": weights}, {"value": other}]
    models = [
        {"model": str(pool["instruct"]), "parameters": {"density": 0.5, "weight": weight}},
        _weighed(pool["domain"], 0),
    ]
    return {"merge_method": "ties", "base_model": str(pool["base"]), "models": models}


def test_one_layer_of_one_expert(tmp_path: Path) -> None:
    """That layer is the trimmed expert's, everything else the base's to the bit."""
    pool = {}
    for seed, name in enumerate(("base", "instruct", "domain")):
        tensors = {n: t.float() for n, t in weights(24, SHAPE, seed).items() if "layers" in n}
        tensors["model.norm.weight"] = torch.full((8,), float(seed))
        pool[name] = write_model(tmp_path / name, tensors, 24)
    active = 12  # before layer 13, whose depth times 23 is not 13 after rounding
    found = _merged(_hi(pool, [float(i == active) for i in range(24)], 0), tmp_path / "out")
    alone = [_weighed(pool["instruct"], 1)]
    whole = {"merge_method": "ties", "base_model": str(pool["base"]), "models": alone}
    trimmed = _merged({**whole, "parameters": {"density": 0.5}}, tmp_path / "trimmed")
    base = _held(pool["base"])
    for name, value in found.items():
        expected = trimmed if f".layers.{active}." in name else base
        assert torch.equal(value, expected[name]), name


def test_layer_scales_of_one_without_pruning_are_ties(
    pool: dict[str, Path], tmp_path: Path
) -> None:
    """Hi-Merging's recipe before any layer has been decided upon."""
    scales = [{"filter": ".layers.", "value": [1, 1]}, {"value": 1}]
    names = ("instruct", "domain")
    lists = [{"model": str(pool[n]), "parameters": {"weight": scales}} for n in names]
    recipe = {"merge_method": "ties", "base_model": str(pool["base"])}
    found = _merged({**recipe, "models": lists}, tmp_path / "lists")
    plain = [_weighed(pool[n], 1) for n in names]
    wanted = _merged({**recipe, "models": plain}, tmp_path / "plain")
    assert all(torch.equal(found[n], t) for n, t in wanted.items())


def _adapter(folder: Path, module: str, a: Tensor, b: Tensor) -> Path:
    """A LoRA adapter of rank 2 and scale 2 for one matrix."""
    folder.mkdir()
    at = f"base_model.model.{module}"
    factors = {f"{at}.lora_A.weight": a, f"{at}.lora_B.weight": b}
    save_file(factors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    return folder


def test_shadow_ft_of_an_adapter_is_that_of_the_tuned_base(tmp_path: Path) -> None:
    """`base+adapter`, beside the same tuned model made whole."""
    base, instruct = (save_llama(tmp_path / n, i) for i, n in enumerate(("base", "instruct")))
    own = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, HIDDEN, generator=own), torch.randn(HIDDEN, 2, generator=own)
    module = "model.layers.1.self_attn.q_proj"
    adapter = _adapter(tmp_path / "adapter", module, a, b)
    tensors = _held(Path(base))
    tensors[f"{module}.weight"] += 2.0 * (b @ a)
    tuned = save(tmp_path / "tuned", tensors, llama_config())

    def grafted(model: str, out: str) -> dict[str, Tensor]:
        graft = {"model": model, "delta_of": base}
        recipe = {"merge_method": "shadow_ft", "base_model": instruct, "models": [graft]}
        return _merged(recipe, tmp_path / out)

    found = grafted(f"{base}+{adapter}", "one")
    _close(found, grafted(tuned, "other"))
    before = _held(Path(instruct))
    assert [n for n, t in found.items() if not torch.equal(t, before[n])] == [f"{module}.weight"]


def test_chat_vector_onto_a_vocabulary_of_its_own(tmp_path: Path) -> None:
    """Its rows stay, and the chat model's special tokens come whole, not as differences."""
    base = save_model(tmp_path / "base", 0)
    chat = save_model(tmp_path / "chat", 1, added=CHAT)
    domain = save_model(tmp_path / "domain", 2, added=("nya", "mew", "wug"))
    skipped = [{"filter": "embed_tokens", "value": 0}, {"filter": "lm_head", "value": 0}]
    graft = {"model": chat, "delta_of": base, "parameters": {"weight": [*skipped, {"value": 1}]}}
    special = {token: {"source": chat, "force": True} for token in CHAT}
    recipe = _task_arithmetic(Path(domain), graft)
    recipe["tokenizer"] = {"source": "base", "tokens": special}
    found, theirs = _merged(recipe, tmp_path / "out"), _held(Path(chat))
    for name in (EMBED, HEAD):
        rows = _held(Path(domain))[name]
        assert torch.equal(found[name][: len(rows)], rows)
        assert len(found[name]) == len(rows) + len(CHAT)
        for token in CHAT:
            place = ids_of(tmp_path / "out")[token]
            assert torch.equal(found[name][place], theirs[name][ids_of(chat)[token]])
    norms = [_held(Path(m))["model.norm.weight"] for m in (domain, chat, base)]
    torch.testing.assert_close(found["model.norm.weight"], norms[0] + norms[1] - norms[2])

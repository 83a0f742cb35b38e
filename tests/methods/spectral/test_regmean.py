"""RegMean against the normal equations, and Gram matrices as statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import cermet
from cermet import api, merge_tensors
from tests.methods.spectral.matrices import close
from tests.recipes.pools import llama, save_llama

Q = "model.layers.0.self_attn.q_proj.weight"


def _inputs(count: int, columns: int = 8) -> list[Tensor]:
    own = torch.Generator().manual_seed(1)
    scales = torch.linspace(0.2, 2, columns)
    return [torch.randn(40, columns, generator=own) * scales.roll(3 * i) for i in range(count)]


def _grams(inputs: list[Tensor]) -> list[Tensor]:
    return [x.t() @ x / len(x) for x in inputs]


def _experts(count: int, rows: int = 5, columns: int = 8) -> list[Tensor]:
    own = torch.Generator().manual_seed(0)
    return [torch.randn(rows, columns, generator=own) for _ in range(count)]


def _merged(experts: list[Tensor], grams: list[Tensor], **given: Any) -> Tensor:
    needs = {"gram": [{"w": g} for g in grams]}
    return merge_tensors("regmean", None, [{"w": e} for e in experts], needs=needs, **given)["w"]


def test_it_is_the_least_squares_solution() -> None:
    """At γ 1: of all outputs together, by LAPACK on the inputs themselves."""
    experts, inputs = _experts(3), _inputs(3)
    outputs = torch.cat([x @ e.t() for x, e in zip(inputs, experts, strict=True)])
    expected = torch.linalg.lstsq(torch.cat(inputs).double(), outputs.double()).solution.t()
    found = _merged(experts, _grams(inputs), gamma=1.0)
    close(found, expected.float())
    scaled = [1000 * g for g in _grams(inputs)]
    close(_merged(experts, scaled, gamma=1.0), found)


def test_statistics_above_merged_layers_make_regmean_plus_plus() -> None:
    """Layer by layer, as its statistics arise, and in one run from all of them: the same model."""
    first, second, inputs = _experts(2), _experts(2, 4, 5), _inputs(2)
    below = _merged(first, _grams(inputs), gamma=1.0)
    seen = [torch.relu(x @ below.t()) for x in inputs]
    above = _merged(second, _grams(seen), gamma=1.0)
    needs = [{"a": g, "b": h} for g, h in zip(_grams(inputs), _grams(seen), strict=True)]
    experts = [{"a": a, "b": b} for a, b in zip(first, second, strict=True)]
    found = merge_tensors("regmean", None, experts, needs={"gram": needs}, gamma=1.0)
    assert torch.equal(found["a"], below)
    assert torch.equal(found["b"], above)
    outputs = torch.cat([x @ e.t() for x, e in zip(seen, second, strict=True)]).double()
    close(above, torch.linalg.lstsq(torch.cat(seen).double(), outputs).solution.t().float())
    own = [torch.relu(x @ e.t()) for x, e in zip(inputs, first, strict=True)]
    assert float((above - _merged(second, _grams(own), gamma=1.0)).abs().amax()) > 0.01


def test_without_off_diagonals_every_column_is_a_mean() -> None:
    experts, grams = _experts(2), _grams(_inputs(2))
    first, second = (g.diagonal() * c for g, c in zip(grams, (0.25, 0.75), strict=True))
    expected = (experts[0] * first + experts[1] * second) / (first + second)
    close(_merged(experts, grams, gamma=0.0, weight=[1.0, 3.0]), expected)


def test_inputs_that_no_expert_has_seen_give_the_mean() -> None:
    experts, inputs = _experts(2), _inputs(2)
    for x in inputs:
        x[:, 3] = 0
    found = _merged(experts, _grams(inputs))
    close(found[:, 3], (experts[0] + experts[1])[:, 3] / 2)
    assert not torch.allclose(found[:, 2], (experts[0] + experts[1])[:, 2] / 2, atol=0.01)
    dead = [torch.zeros(8, 8)] * 2
    close(_merged(experts, dead), (experts[0] + experts[1]) / 2)


def test_equal_gram_matrices_give_the_mean() -> None:
    experts, (gram,) = _experts(3), _grams(_inputs(1))
    close(_merged(experts, [gram] * 3), torch.stack(experts).mean(dim=0))


def test_from_files_with_gram_matrices_of_linear_maps_alone(tmp_path: Path) -> None:
    """Two recipes of one pool: the plan wants a Gram matrix of each map, and no other."""
    recipe: dict[str, Any] = {"merge_method": "regmean", "models": []}
    held, grams = [], []
    for seed in (1, 2):
        model = llama(seed)
        maps = [n for n in model if n.endswith("_proj.weight")]
        gram = {
            n: model[n].float().t() @ model[n].float() + torch.eye(model[n].shape[1]) for n in maps
        }
        path = tmp_path / f"gram{seed}.safetensors"
        save_file(gram, path)
        where = save_llama(tmp_path / f"m{seed}", seed)
        recipe["models"].append({"model": where, "needs": {"gram": str(path)}})
        held.append(load_file(next(Path(where).glob("*.safetensors"))))
        grams.append(gram)
    cermet.merge(recipe, tmp_path / "out")
    assert api.verify(tmp_path / "out").problems == []
    found = load_file(next((tmp_path / "out").glob("*.safetensors")))
    expected = merge_tensors("regmean", None, held, needs={"gram": grams})
    assert all(torch.equal(found[n], v) for n, v in expected.items())
    recipe["parameters"] = {"vocabulary": "head"}
    with pytest.raises(cermet.RecipeError, match=r"'lm_head.weight' is missing in the statistics"):
        cermet.plan(recipe)
    wrong = {**grams[0], Q: torch.ones(3, 3)}
    with pytest.raises(cermet.MismatchError, match=r"is F32 \[3, 3\] in the statistics"):
        merge_tensors("regmean", None, held, needs={"gram": [wrong, grams[1]]})


def test_one_expert_comes_back() -> None:
    (expert,), grams = _experts(1), _grams(_inputs(1))
    close(_merged([expert], grams), expert)

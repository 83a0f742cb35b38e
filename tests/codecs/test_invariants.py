"""The error that theory predicts, the numbers of the methods that share a name, and more bits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import cermet
from cermet.codecs.bands import fitted_bands
from tests.codecs.pools import save

NAME = "model.layers.0.mlp.up_proj.weight"


def _model(shape: tuple[int, int], seed: int, decay: float = 0.0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    value = torch.randn(shape, generator=draw)
    if not decay:
        return value
    u, s, v = torch.linalg.svd(value, full_matrices=False)
    return (u * torch.arange(1, len(s) + 1) ** -decay) @ v


def _run(
    folder: Path, delta: Tensor, codec: str, base: Tensor | None = None, **given: Any
) -> tuple[cermet.Compressed, Tensor]:
    """What a codec makes of a delta on a base, zero by default."""
    start = torch.zeros_like(delta) if base is None else base
    models = (save(folder / "b", {NAME: start}), save(folder / "e", {NAME: start + delta}))
    done = cermet.compress(*models, folder / "d", codec=codec, overwrite=True, **given)
    cermet.restore(folder / "d", folder / "out", overwrite=True)
    return done, cermet.open(folder / "out")[NAME].clone()


def test_bitdelta_has_the_best_scale_for_its_signs(tmp_path: Path) -> None:
    delta = _model((300, 200), 1)
    delta[0, :5] = 0.0  # zeros count as plus
    done, found = _run(tmp_path, delta, "bitdelta")
    scale = delta.abs().mean()
    assert found.abs().unique().tolist() == pytest.approx([float(scale)])
    assert (found[0, :5] > 0).all()
    moved = delta != 0
    assert torch.equal(found.sign()[moved], delta.sign()[moved])
    assert done.error == pytest.approx(math.sqrt(1 - 2 / math.pi), abs=5e-3)
    predicted = 1 - float(scale.double() ** 2 * delta.numel() / delta.double().square().sum())
    assert done.error == pytest.approx(math.sqrt(predicted), rel=1e-4)
    for other in (0.99, 1.01):
        assert float((other * found - delta).norm()) > float((found - delta).norm())


@pytest.mark.parametrize("codec", ["tsv_compress", "lora"])
@pytest.mark.parametrize("shape", [(60, 40), (40, 60)])
def test_low_rank_leaves_the_tail_of_the_spectrum(
    codec: str, shape: tuple[int, int], tmp_path: Path
) -> None:
    delta = _model(shape, 2, decay=1.0)
    given = {"rank": 10} if codec == "lora" else {"density": 0.25}
    done, _ = _run(tmp_path, delta, codec, **given)
    sizes = torch.linalg.svdvals(delta.double())
    predicted = float(sizes[10:].norm() / sizes.norm())
    assert done.error == pytest.approx(predicted, rel=1e-4)


def test_a_delta_of_low_rank_comes_back(tmp_path: Path) -> None:
    delta = _model((60, 4), 3) @ _model((4, 50), 4)
    for codec, given in (("tsv_compress", {"density": 0.1}), ("lora", {"rank": 5})):
        done, _ = _run(tmp_path, delta, codec, **given)
        assert done.error < 1e-6


def test_lora_divides_its_singular_values(tmp_path: Path) -> None:
    delta = _model((30, 20), 5, decay=1.0)
    _run(tmp_path, delta, "lora", rank=4)
    factors = cermet.open(tmp_path / "d" / "adapter_model.safetensors")
    module = f"base_model.model.{NAME.removesuffix('.weight')}"
    a, b = (factors[f"{module}.lora_{side}.weight"] for side in "AB")
    torch.testing.assert_close(a.norm(dim=1), b.norm(dim=0))


def test_compeft_has_one_size_and_the_signs(tmp_path: Path) -> None:
    delta = _model((70, 90), 6)
    _, found = _run(tmp_path, delta, "compeft", density=0.2, alpha=2.0)
    kept = found != 0
    assert int(kept.sum()) == int(0.2 * delta.numel()) + 1
    assert float(delta[kept].abs().min()) > float(delta[~kept].abs().max())
    torch.testing.assert_close(found[kept], 2.0 * delta.std() * delta.sign()[kept])
    _, thrice = _run(tmp_path, 3 * delta, "compeft", density=0.2, alpha=2.0)
    torch.testing.assert_close(thrice, 3 * found)


def test_pruned_keeps_what_compeft_keeps(tmp_path: Path) -> None:
    delta = _model((70, 90), 6)
    _, signs = _run(tmp_path, delta, "compeft", density=0.2)
    done, found = _run(tmp_path, delta, "pruned", density=0.2, precision="float32")
    assert torch.equal(found, torch.where(signs != 0, delta, 0.0))
    left = delta[signs == 0]
    assert done.error == pytest.approx(float(left.norm() / delta.norm()), rel=1e-5)


def test_dare_is_the_method_of_this_name(tmp_path: Path) -> None:
    base, delta = _model((200, 300), 7), 0.01 * _model((200, 300), 8)
    given = {"density": 0.2, "seed": 9}
    done, found = _run(tmp_path, delta, "dare_sparse", base, precision="float32", **given)
    expert = cermet.open(tmp_path / "e")[NAME]
    models = {NAME: base}, [{NAME: expert}]
    merged = cermet.merge_tensors("dare_official", *models, weight=1, **given)
    torch.testing.assert_close(found, merged[NAME], rtol=0, atol=1e-7)
    assert done.error == pytest.approx(2.0, abs=0.05)  # √(1/0.2 − 1)
    other, _ = _run(tmp_path, delta, "dare_sparse", base, density=0.2, seed=10)
    assert other.error != done.error


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_rounding_is_within_half_a_step(codec: str, tmp_path: Path) -> None:
    delta = _model((64, 100), 10)
    _, found = _run(tmp_path, delta, codec, group=64)
    most = 127 if codec == "int8" else 7
    grouped = delta.reshape(-1, 64)
    step = grouped.abs().amax(dim=1, keepdim=True) / most
    # the scale is kept in bfloat16, so it is off by one part in 256
    assert ((found.reshape(-1, 64) - grouped).abs() <= step * (0.5 + most / 256)).all()


def test_more_bits_less_error(tmp_path: Path) -> None:
    delta = _model((128, 160), 11, decay=0.7)
    errors, sizes = [], []
    for bits in (0.5, 1.0, 2.0, 4.0, 16.0):
        done, _ = _run(tmp_path, delta, "delta_come", bits=bits, at_3=8, group=32)
        errors.append(done.error)
        sizes.append(done.roles[0].bytes)
    assert errors == sorted(errors, reverse=True)
    assert sizes == sorted(sizes)
    exact, _ = _run(tmp_path, delta, "delta_come", at_16=128, at_8=0, at_3=0, at_2=0, exact=True)
    assert exact.error < 1e-5


def test_the_budget_of_the_paper() -> None:
    """4096 x 4096 at one bit: the authors' 2, 32 and 968 columns in 8, 3 and 2 bits."""
    bands = fitted_bands({8: 2, 3: 32}, 4096, 1.0 * 4096 * 4096 / (2 * 4096))
    assert bands == [(8, 2), (3, 32), (2, 968)]
    assert fitted_bands({8: 2, 3: 32}, 4, 1000) == [(16, 4)]
    assert fitted_bands({8: 2, 3: 4, 2: 6}, 5, None) == [(8, 2), (3, 3)]
    assert fitted_bands({8: 2, 3: 32}, 64, 7.9) == [(4, 1), (3, 1)]


def test_gptq_serves_the_inputs_it_was_given(tmp_path: Path) -> None:
    """With a Gram matrix the error on these inputs is smaller than with rounding alone."""
    delta = _model((96, 64), 12)
    draw = torch.Generator().manual_seed(13)
    inputs = torch.randn(500, 8, generator=draw) @ torch.randn(8, 64, generator=draw)
    inputs += 0.1 * torch.randn(500, 64, generator=draw)
    save_file({NAME: inputs.t() @ inputs}, tmp_path / "gram.safetensors")
    given = {"at_8": 0, "at_3": 64, "at_2": 0, "group": 32}
    plain, rounded = _run(tmp_path, delta, "delta_come", **given)
    needs = {"gram": tmp_path / "gram.safetensors"}
    tuned, better = _run(tmp_path, delta, "delta_come", needs=needs, **given)
    off = [float((inputs @ (found - delta).t()).norm()) for found in (rounded, better)]
    assert off[1] < 0.5 * off[0]
    assert tuned.error > plain.error  # on all inputs alike it is no better


def test_compeft_keeps_the_places_of_what_it_has_made(tmp_path: Path) -> None:
    _, found = _run(tmp_path, _model((70, 90), 6), "compeft", density=0.2)
    _, again = _run(tmp_path, found, "compeft", density=0.2)
    assert torch.equal(again.sign(), found.sign())

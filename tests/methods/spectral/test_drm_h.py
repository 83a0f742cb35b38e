"""Decom-Renorm-Merge: its rows of length 1, its pruning, its share of the spectrum."""

from __future__ import annotations

import torch
from torch import Tensor

from cermet import merge_tensors
from tests.methods.spectral.matrices import close, deltas, merged


def _expected(models: list[Tensor], density: float) -> Tensor:
    """As the authors write it, with the decomposition of all deltas side by side."""
    left, values, right = torch.linalg.svd(torch.cat(models, dim=1).double(), full_matrices=False)
    rank = int((values > 0.01 * values[0]).sum())
    blocks = torch.stack(right[:rank].chunk(len(models), dim=1))
    lengths = blocks.norm(dim=2, keepdim=True)
    shares = blocks / lengths
    dropped = shares.numel() - round(shares.numel() * density)
    least = shares.abs().flatten().kthvalue(dropped).values
    parts = values[:rank, None] * lengths * shares * (shares.abs() >= least)
    agreeing = parts * (parts.sign() == parts.sum(dim=0).sign())
    mean = agreeing.sum(dim=0) / (agreeing != 0).sum(dim=0).clamp_min(1)
    return (left[:, :rank] @ mean).float()


def test_it_is_what_the_authors_do() -> None:
    for rows, columns in ((12, 20), (40, 9)):
        models = deltas(3, rows, columns)
        close(merged("drm_h", models, density=0.3), _expected(models, 0.3))


def test_it_grows_with_the_deltas_and_weights() -> None:
    models = deltas(3)
    one = merged("drm_h", models)
    close(merged("drm_h", [3 * m for m in models]), 3 * one)
    close(merged("drm_h", models, weight=3.0), 3 * one)


def test_a_model_without_a_direction_is_zero_there() -> None:
    models = [torch.zeros(6, 8), torch.zeros(6, 8)]
    models[0][0, 0], models[1][1, 1] = 2.0, 3.0
    close(merged("drm_h", models, density=0.5), models[0] + models[1])


def test_density_one_is_the_mean_of_what_moved() -> None:
    models = deltas(2)
    models[0][0] = 0.0
    expected = (models[0] + models[1]) / 2
    expected[0] = models[1][0]
    close(merged("drm_h", models, density=1.0), expected)
    close(merged("drm_h", models, density=1.0, disjoint=False), sum(models) / 2)


def test_others_are_trimmed_for_the_whole_model() -> None:
    zero = {"a.bias": torch.zeros(2), "b.bias": torch.zeros(2)}
    models = [{"a.bias": torch.tensor([4.0, -3.0]), "b.bias": torch.tensor([2.0, 1.0])}] * 2
    found = merge_tensors("drm_h", zero, models, others_density=0.5)
    assert (found["a.bias"].tolist(), found["b.bias"].tolist()) == ([4.0, -3.0], [2.0, 0.0])

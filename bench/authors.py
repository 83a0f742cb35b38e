"""Spectral methods in the form that their authors publish, with torch alone: the peers of a bench.

Each takes the deltas [rows, columns] of all experts and gives the merged delta, in the dtype and on
the device of the deltas: whole singular value decompositions, and every step of a descent over all
experts. Facts are those of the specification; iterations have 300 steps as the papers have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["AUTHORS"]

_STEPS = 300
_RATE = 1e-5
_RATE_OF_ADAPTERS = 1e-4
_ALPHA = 0.5
_DENSITY = 0.2
_SHARE = 1e-2


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left, values, right


def _whitened(matrix: Tensor) -> Tensor:
    left, _, right = _svd(matrix)
    return left @ right


def _best(matrix: Tensor, rank: int) -> Tensor:
    """The best approximation of a rank, of all triplets, as the authors' code finds it."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=True)
    found: Tensor = (left[:, :rank] * values[:rank]) @ right[:rank]
    return found


def _tsv_m(models: Sequence[Tensor]) -> Tensor:
    rank = int(min(models[0].shape) / len(models))
    parts = [_svd(m) for m in models]
    left = _whitened(torch.cat([u[:, :rank] for u, _, _ in parts], dim=1))
    right = _whitened(torch.cat([v[:rank] for _, _, v in parts]))
    return (left * torch.cat([s[:rank] for _, s, _ in parts])) @ right


def _iso_c(models: Sequence[Tensor]) -> Tensor:
    left, values, right = _svd(torch.stack(list(models)).sum(dim=0))
    return values.mean() * (left @ right)


def _iso_cts(models: Sequence[Tensor]) -> Tensor:
    size = min(models[0].shape)
    own = round((size - int(size * 0.8)) / len(models))
    left, values, right = _svd(torch.stack(list(models)).sum(dim=0))
    kept = size - own * len(models)
    first = left[:, :kept]
    parts = [_svd(m - first @ (first.t() @ m)) for m in models]
    mean = torch.cat([*(s[:own] for _, s, _ in parts), values[:kept]]).mean()
    u = _whitened(torch.cat([*(u[:, :own] for u, _, _ in parts), first], dim=1))
    v = _whitened(torch.cat([*(v[:own] for _, _, v in parts), right[:kept]]))
    return mean * (u @ v)


def _descended(
    point: Tensor,
    targets: Sequence[Tensor],
    inputs: Sequence[Tensor],
    shares: Sequence[Tensor],
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
) -> Tensor:
    """Steps on the sum of share * |(point - target) inputs^T|^2, one expert after another."""
    point = torch.nn.Parameter(point)
    moving = optimizer([point])
    for _ in range(_STEPS):
        moving.zero_grad()
        loss = point.new_zeros(())
        for target, seen, share in zip(targets, inputs, shares, strict=True):
            loss = loss + share * ((point - target) @ seen.t()).square().sum()
        torch.autograd.backward(loss)
        moving.step()
    return point.detach()


def _shares(models: Sequence[Tensor]) -> list[Tensor]:
    return [1.0 / m.square().sum() for m in models]


def _wudi(models: Sequence[Tensor]) -> Tensor:
    start = torch.stack(list(models)).sum(dim=0)
    return _descended(start, models, models, _shares(models), lambda p: torch.optim.Adam(p, _RATE))


def _padded(matrix: Tensor, rank: int) -> Tensor:
    """Leading singular values times right vectors, padded with zeros to the size of the matrix."""
    _, values, right = torch.linalg.svd(matrix, full_matrices=True)
    found = torch.zeros_like(matrix)
    found[:rank] = values[:rank, None] * right[:rank]
    return found


def _optmerge(models: Sequence[Tensor]) -> Tensor:
    rank, together = min(models[0].shape) // len(models), torch.stack(list(models))
    mean = together.mean(dim=0)
    targets = [mean + _best(m - mean, rank) for m in models]
    inputs = [_padded(m, rank) for m in models]
    return _descended(
        together.sum(dim=0), targets, inputs, _shares(models),
        lambda p: torch.optim.Adam(p, _RATE),
    )  # fmt: skip


def _optmerge_lora(models: Sequence[Tensor]) -> Tensor:
    rank = min(models[0].shape) // len(models)
    return _descended(
        torch.stack(list(models)).mean(dim=0), [_best(m, rank) for m in models],
        [_padded(m, rank) for m in models], _shares(models),
        lambda p: torch.optim.SGD(p, _RATE_OF_ADAPTERS, momentum=0.9),
    )  # fmt: skip


def _opcm(models: Sequence[Tensor]) -> Tensor:
    merged, scale, sizes = models[0].clone(), 1.0, [float(models[0].norm())]
    for model in models[1:]:
        sizes.append(float(model.norm()))
        left, values, right = torch.linalg.svd(merged, full_matrices=True)
        block = int((values.cumsum(0) / values.sum() > _ALPHA).int().argmax())
        turned = left.t() @ model @ right.t()
        turned.diagonal().zero_()
        turned[:block, :block] = 0
        merged = scale * merged + left @ turned @ right
        size, mean = float(merged.norm()), sum(sizes) / len(sizes)
        scale = size / mean
        merged *= mean / size
    return merged


def _knots_ties(models: Sequence[Tensor]) -> Tensor:
    left, values, right = _svd(torch.cat(list(models), dim=1).double())
    kept = int((values > 1e-5).sum())
    blocks = (values[:kept, None] * right[:kept]).chunk(len(models), dim=1)
    parts = torch.stack(blocks).to(models[0].dtype)
    agreeing = parts * (parts.sign() == parts.sum(dim=0).sign())
    mean = agreeing.sum(dim=0) / (agreeing != 0).sum(dim=0).clamp_min(1)
    return left[:, :kept].to(models[0].dtype) @ mean


def _drm_h(models: Sequence[Tensor]) -> Tensor:
    left, values, right = _svd(torch.cat(list(models), dim=1))
    kept = int((values > _SHARE * values[0]).sum())
    parts = torch.stack(right[:kept].chunk(len(models), dim=1))
    lengths = parts.norm(dim=2, keepdim=True)
    unit = parts / lengths
    sizes = unit.abs().flatten()
    dropped = sizes.numel() - round(sizes.numel() * _DENSITY)
    unit = unit * (unit.abs() >= sizes.kthvalue(dropped).values)
    sized = unit * lengths * values[:kept, None]
    agreeing = sized * (sized.sign() == sized.sum(dim=0).sign())
    mean = agreeing.sum(dim=0) / (agreeing != 0).sum(dim=0).clamp_min(1)
    found: Tensor = left[:, :kept] @ mean
    return found


def _drm_v(models: Sequence[Tensor]) -> Tensor:
    return _drm_h([m.t() for m in models]).t()


AUTHORS: Mapping[str, Callable[[Sequence[Tensor]], Tensor]] = {
    "drm_h": _drm_h,
    "drm_v": _drm_v,
    "iso_c": _iso_c,
    "iso_cts": _iso_cts,
    "knots_ties": _knots_ties,
    "opcm": _opcm,
    "optmerge": _optmerge,
    "optmerge_lora": _optmerge_lora,
    "tsv_m": _tsv_m,
    "wudi": _wudi,
}
"""Methods as their authors write them."""

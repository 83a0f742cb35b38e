"""Orthogonal matching pursuit, against the same steps on one vector with a solver of lines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cermet.maths import pursuit
from cermet.maths.pursuit import Atoms, batch_size, pursue, working_bytes


def _vectors(count: int, width: int, seed: int = 0) -> Tensor:
    own = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=own, dtype=torch.float64)


def _scalar(target: np.ndarray, atoms: np.ndarray, k: int) -> tuple[list[int], np.ndarray]:
    """The textbook: one target, one step after the other, least squares anew in each."""
    taken: list[int] = []
    left, fit = target.copy(), np.zeros(0)
    for _ in range(k):
        norms = np.linalg.norm(atoms, axis=1)
        scores = np.abs(atoms @ left) / np.where(norms > 0, norms, np.inf)
        scores[taken] = -1
        taken.append(int(scores.argmax()))
        fit = np.linalg.lstsq(atoms[taken].T, target, rcond=None)[0]
        left = target - fit @ atoms[taken]
    return taken, fit


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_the_steps_are_those_of_the_textbook(k: int) -> None:
    targets, atoms = _vectors(30, 12), _vectors(25, 12, 1).float()
    found = pursue(targets, Atoms(atoms), k)
    for i, target in enumerate(targets.numpy()):
        taken, fit = _scalar(target, atoms.double().numpy(), k)
        assert found.indices[i].tolist() == taken
        np.testing.assert_allclose(found.coefficients[i], fit, rtol=1e-7, atol=1e-9)
        left = target - fit @ atoms.double().numpy()[taken]
        share = np.linalg.norm(left) / np.linalg.norm(target)
        assert float(found.error[i]) == pytest.approx(share, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(0, 1000))
def test_orthonormal_dictionaries_give_back_what_was_put_in(sparsity: int, seed: int) -> None:
    basis = torch.linalg.qr(_vectors(24, 24, seed))[0]
    own = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(24, generator=own)[:sparsity]
    shares = torch.linspace(1, 2, sparsity, dtype=torch.float64)
    target = (shares @ basis[chosen]).unsqueeze(0)
    found = pursue(target, Atoms(basis), 12)
    dense = torch.zeros(24, dtype=torch.float64)
    dense.scatter_add_(0, found.indices[0], found.coefficients[0])
    wanted = torch.zeros(24, dtype=torch.float64)
    wanted[chosen] = shares
    torch.testing.assert_close(dense, wanted, rtol=0, atol=2e-6)  # the basis is in float32
    assert float(found.error) < 1e-6


def test_a_sum_of_few_atoms_is_found_exactly() -> None:
    atoms = _vectors(200, 128).float()
    shares = torch.tensor([1.5, -2.0, 0.75], dtype=torch.float64)
    targets = torch.stack([shares @ atoms[[i, i + 40, i + 90]].double() for i in range(50)])
    found = pursue(targets, Atoms(atoms), 8)
    assert float(found.error.max()) < 1e-6
    for i in range(50):
        used = {
            int(j): float(c)
            for j, c in zip(found.indices[i], found.coefficients[i], strict=True)
            if abs(float(c)) > 1e-9
        }
        assert used == pytest.approx({i: 1.5, i + 40: -2.0, i + 90: 0.75})


def test_more_atoms_never_make_it_worse() -> None:
    targets, atoms = _vectors(20, 16), Atoms(_vectors(40, 16, 1))
    errors = torch.stack([pursue(targets, atoms, k).error for k in (1, 2, 4, 8, 16)])
    assert bool((errors.diff(dim=0) <= 1e-12).all())
    assert float(errors[-1].max()) < 1e-6


def test_more_steps_than_directions_end_without_noise() -> None:
    """Two directions, six atoms: nothing is divided by what is only rounding."""
    atoms = Atoms(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 0.0], [0, 0], [1, -1]]))
    found = pursue(_vectors(9, 2, 3), atoms, 6)
    assert float(found.coefficients.abs().max()) < 10
    assert float(found.error.max()) < 1e-6


def test_zeros_among_targets_and_atoms() -> None:
    atoms = torch.zeros(4, 3)
    atoms[2] = torch.tensor([0.0, 2.0, 0.0])
    targets = torch.tensor([[0, 0, 0], [0, 3, 0], [1, 0, 0]], dtype=torch.float64)
    found = pursue(targets, Atoms(atoms), 3)
    assert found.coefficients.sum(1).tolist() == [0.0, 1.5, 0.0]
    assert found.indices[1, 0] == 2
    assert found.error.tolist() == [0.0, 0.0, 1.0]


def test_the_first_of_equal_atoms_is_taken_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = Atoms(_vectors(3, 8).repeat(5, 1))
    whole = pursue(_vectors(6, 8, 1), atoms, 3)
    assert bool((whole.indices < 3).all())
    monkeypatch.setattr(pursuit, "_CHUNK", 4)  # in pieces of the dictionary: the same
    pieces = pursue(_vectors(6, 8, 1), atoms, 3)
    torch.testing.assert_close(pieces.indices, whole.indices)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_atoms_of_any_floating_dtype(dtype: torch.dtype) -> None:
    atoms = _vectors(10, 6).to(dtype)
    found = pursue(atoms[3:4].double(), Atoms(atoms), 2)
    assert found.indices[0, 0] == 3
    assert float(found.coefficients[0, 0]) == pytest.approx(1, abs=1e-6)


def test_batches_are_bounded_and_told() -> None:
    assert batch_size(64, 4096) * 64 * 4096 <= 1 << 24
    assert batch_size(1, 8) == 256
    assert batch_size(1 << 20, 1 << 10) == 8
    assert working_bytes(30_000, 4096, 64, 2) > 30_000 * 4096 * 4

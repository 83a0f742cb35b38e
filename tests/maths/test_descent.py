"""Adam against torch's own, momentum in closed form, and linear systems by their products."""

from __future__ import annotations

import torch

from cermet.maths.descent import adam, conjugate, momentum_response


def test_adam_takes_the_steps_of_torch() -> None:
    own = torch.Generator().manual_seed(0)
    matrix, aim = torch.randn(6, 6, generator=own), torch.randn(4, 6, generator=own)
    point = torch.nn.Parameter(torch.zeros(4, 6))
    optimizer = torch.optim.Adam([point], lr=0.05)
    for _ in range(40):
        point.grad = (point.detach() - aim) @ (matrix @ matrix.t())
        optimizer.step()
    found = adam(lambda x: (x - aim) @ (matrix @ matrix.t()), torch.zeros(4, 6), 40, 0.05)
    torch.testing.assert_close(found, point.detach(), rtol=0, atol=1e-6)


def test_no_gradient_moves_nothing() -> None:
    start = torch.tensor([1.0, -2.0])
    assert torch.equal(adam(torch.zeros_like, start.clone(), 10, 0.1), start)
    assert torch.equal(adam(torch.ones_like, start.clone(), 0, 0.1), start)


def test_momentum_takes_the_steps_of_torch() -> None:
    """On the loss xᵀHx − 2bᵀx, along the eigenvectors of H."""
    own = torch.Generator().manual_seed(0)
    root = torch.randn(5, 5, generator=own).double()
    hessian, aim = root @ root.t(), torch.randn(5, generator=own).double()
    point = torch.nn.Parameter(torch.zeros(5).double())
    optimizer = torch.optim.SGD([point], lr=0.01, momentum=0.9)
    for _ in range(60):
        point.grad = 2 * (hessian @ point.detach() - aim)
        optimizer.step()
    values, basis = torch.linalg.eigh(hessian)
    found = basis @ (momentum_response(values, 60, 0.01, 0.9) * (basis.t() @ aim))
    torch.testing.assert_close(found, point.detach(), rtol=1e-10, atol=1e-12)


def test_conjugate_gradients_solve_the_system() -> None:
    own = torch.Generator().manual_seed(0)
    root = torch.randn(9, 6, generator=own).double()
    goal = torch.randn(2, 3, generator=own).double()
    hessian = root.t() @ root
    found = conjugate(lambda x: (hessian @ x.reshape(6)).reshape(2, 3), goal, 20)
    expected = torch.linalg.solve(hessian, goal.reshape(6)).reshape(2, 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_of_many_solutions_the_shortest() -> None:
    """A singular matrix, and a goal in its range; one that is zero is met by zero."""
    own = torch.Generator().manual_seed(0)
    root = torch.randn(3, 6, generator=own).double()
    hessian = root.t() @ root
    goal = hessian @ torch.randn(6, generator=own).double()
    found = conjugate(lambda x: hessian @ x, goal, 20)
    torch.testing.assert_close(found, torch.linalg.pinv(hessian) @ goal, rtol=0, atol=1e-6)
    assert not conjugate(lambda x: hessian @ x, torch.zeros_like(goal), 20).any()

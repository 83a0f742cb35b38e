"""Orthogonal matching pursuit: a vector as a sum of few vectors of a dictionary.

In each step the atom with the largest cosine to what is left is taken, and all taken atoms are
fitted anew by least squares (Pati, Rezaiifar and Krishnaprasad, 1993). Many vectors are treated
at once; their fits are QR factorisations that grow by a column a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int

__all__ = ["Atoms", "Pursuit", "batch_size", "pursue", "working_bytes"]

_CHUNK = 1 << 14  # atoms that are compared at once: what is left is not multiplied by all of them
_ROOM = 1 << 24  # float64 numbers of the growing factors of a batch
_MOST = 256  # vectors of a batch
_EXACT = 1e-7  # of a vector's length: what is left then is its rounding
_DEPENDENT = 1e-6  # of an atom's length: what is new in it then is its rounding


class Atoms:
    """A dictionary. Atoms without length are never taken.

    vectors: [atoms, width], in any floating dtype, kept in float32.
    """

    def __init__(self, vectors: Float[torch.Tensor, "atoms width"]) -> None:
        self.vectors = vectors.to(torch.float32)
        lengths = torch.linalg.vector_norm(self.vectors, dim=1)
        self.inverse = torch.where(lengths > 0, 1.0 / lengths, 0.0)

    def __len__(self) -> int:
        return len(self.vectors)

    def nearest(
        self, left: Float[torch.Tensor, "batch width"], taken: Int[torch.Tensor, "batch steps"]
    ) -> tuple[Float[torch.Tensor, " batch"], Int[torch.Tensor, " batch"]]:
        """The largest |cosine| times length with an atom that is not taken, and that atom.

        Of equal ones the first is chosen.
        """
        best = torch.full((len(left),), -1.0, device=left.device)
        index = torch.zeros(len(left), dtype=torch.int64, device=left.device)
        for begin in range(0, len(self), _CHUNK):
            stop = min(begin + _CHUNK, len(self))
            scores = (left @ self.vectors[begin:stop].T).abs_().mul_(self.inverse[begin:stop])
            rows, columns = torch.nonzero((taken >= begin) & (taken < stop), as_tuple=True)
            scores[rows, taken[rows, columns] - begin] = -1.0
            found, place = scores.max(dim=1)
            better = found > best
            best = torch.where(better, found, best)
            index = torch.where(better, place + begin, index)
        return best, index


@dataclass(frozen=True)
class Pursuit:
    """Each vector as a sum of atoms.

    indices: [batch, k], the atoms; coefficients: [batch, k], float64, 0 for those not needed.
    error: [batch], length of what is left, as a share of the vector's; 0 for a vector of zeros.
    """

    indices: Int[torch.Tensor, "batch k"]
    coefficients: Float[torch.Tensor, "batch k"]
    error: Float[torch.Tensor, " batch"]


def batch_size(k: int, width: int) -> int:
    """How many vectors to pursue at once, by their shape alone."""
    return max(8, min(_MOST, _ROOM // max(1, k * width)))


def working_bytes(atoms: int, width: int, k: int, threads: int) -> int:
    """Bytes that pursuits on some threads take: the dictionary, and what each batch needs."""
    batch = batch_size(k, width)
    factors = batch * (k * (width + k) + 8 * width) * 8
    return atoms * width * 4 + threads * (factors + 3 * batch * min(atoms, _CHUNK) * 4)


def pursue(targets: Float[torch.Tensor, "batch width"], atoms: Atoms, k: int) -> Pursuit:
    """The sum of at most `k` atoms that is near each target, by orthogonal matching pursuit.

    Atoms are compared in float32; the fits are float64. A target that k atoms or fewer make up
    exactly is left alone from there on.

    Source: Pati et al. 1993; Rubinstein et al. 2008 for many vectors at once.
    """
    left = targets.to(torch.float64, copy=True)
    count, width = left.shape
    length = torch.linalg.vector_norm(left, dim=1)
    basis = left.new_zeros(count, k, width)
    upper = torch.eye(k, dtype=left.dtype, device=left.device).repeat(count, 1, 1)
    along = left.new_zeros(count, k)
    taken = torch.full((count, k), -1, dtype=torch.int64, device=left.device)
    for step in range(k):
        score, index = atoms.nearest(left.to(torch.float32), taken[:, :step])
        live = (score > 0) & (torch.linalg.vector_norm(left, dim=1) > _EXACT * length)
        if not bool(live.any()):
            break
        atom = atoms.vectors[index].to(torch.float64)
        new, shares = _orthogonal(atom, basis[:, :step])
        size = torch.linalg.vector_norm(new, dim=1)
        taken[:, step] = torch.where(live, index, -1)
        live &= size > _DEPENDENT * torch.linalg.vector_norm(atom, dim=1)
        direction = torch.where(live, 1.0 / size, 0.0).unsqueeze(1) * new
        basis[:, step] = direction
        upper[:, :step, step] = torch.where(live.unsqueeze(1), shares, 0.0)
        upper[:, step, step] = torch.where(live, size, 1.0)
        along[:, step] = (direction * left).sum(1)
        left -= along[:, step].unsqueeze(1) * direction
    solved = torch.linalg.solve_triangular(upper, along.unsqueeze(2), upper=True).squeeze(2)
    rest = torch.linalg.vector_norm(left, dim=1)
    error = torch.where(length > 0, rest / length, 0.0)
    return Pursuit(taken.clamp(min=0), solved, error)


def _orthogonal(
    atom: Float[torch.Tensor, "batch width"], basis: Float[torch.Tensor, "batch steps width"]
) -> tuple[Float[torch.Tensor, "batch width"], Float[torch.Tensor, "batch steps"]]:
    """What is new in each atom, and its shares along the basis.

    Where that is little of an atom, a pass has lost digits, and a second one finds them.
    """
    shares = torch.bmm(basis, atom.unsqueeze(2)).squeeze(2)
    new = atom - torch.bmm(shares.unsqueeze(1), basis).squeeze(1)
    little = torch.linalg.vector_norm(new, dim=1) < 0.5 * torch.linalg.vector_norm(atom, dim=1)
    if bool(little.any()):
        again = torch.bmm(basis, new.unsqueeze(2)).squeeze(2)
        new = new - torch.bmm(again.unsqueeze(1), basis).squeeze(1)
        shares = shares + again
    return new, shares

"""A checkpoint in another vocabulary: every cut of it is what a table of rows says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cermet.checkpoints.bins import BinCheckpoint
from cermet.checkpoints.reader import Checkpoint, MemoryCheckpoint
from cermet.checkpoints.revocabulary import AVERAGE, FILL, ZERO, RevocabularyCheckpoint, Rows

_WIDTH, _ROWS = 6, 40


def _opened(kind: str, value: Tensor, folder: Path) -> Checkpoint:
    if kind == "memory":
        return MemoryCheckpoint(kind, {"e": value})
    torch.save({"e": value}, folder / f"{value.dtype}.bin".replace("torch.", ""))
    return BinCheckpoint(folder / f"{value.dtype}.bin".replace("torch.", ""))


def _rows(givers: list[Checkpoint], seed: int, kinds: tuple[int, ...]) -> Rows:
    """Rows of any order: own ones, another model's, and those of the kinds given."""
    draw = np.random.default_rng(seed)
    origin = draw.choice(np.array([0, 0, 1, *kinds], dtype=np.int32), _ROWS)
    row = np.where(origin >= 0, draw.integers(0, 20, _ROWS), -1)
    row[10:20], origin[10:20] = np.arange(3, 13), 0  # a run that lies together in the file
    shared = draw.integers(0, 20, (2, _ROWS))
    shared[1, ::3] = -1
    tokens = origin != FILL
    return Rows("e", [(g, "e") for g in givers], origin, row, shared, tokens)


def _dense(rows: Rows, tensors: list[Tensor]) -> Tensor:
    """The same by the definition, in float64."""
    found = torch.zeros((_ROWS, *tensors[0].shape[1:]), dtype=torch.float64)
    for i, (origin, row) in enumerate(zip(rows.origin, rows.row, strict=True)):
        if origin >= 0:
            found[i] = tensors[origin][row].double()
        elif origin == AVERAGE:
            has = [t[s[i]].double() for t, s in zip(tensors, rows.shared, strict=True) if s[i] >= 0]
            found[i] = torch.stack(has).mean(0)
    found[torch.from_numpy(rows.origin == FILL)] = found[torch.from_numpy(rows.tokens)].mean(0)
    return found


@pytest.mark.parametrize("kinds", [(), (ZERO,), (ZERO, AVERAGE, FILL)])
@pytest.mark.parametrize("held", ["memory", "bin"])
@pytest.mark.parametrize("shape", [(20, _WIDTH), (20,), (20, 2, 3)])
def test_every_cut_is_what_the_table_says(
    shape: tuple[int, ...], held: str, kinds: tuple[int, ...], tmp_path: Path
) -> None:
    own = torch.Generator().manual_seed(len(shape))
    tensors = [torch.randn(shape, generator=own).to(d) for d in (torch.bfloat16, torch.float32)]
    opened = [_opened(held, t, tmp_path) for t in tensors]
    rows = _rows(opened, 3, kinds)
    found = RevocabularyCheckpoint(opened[0], {"e": rows}, [tmp_path / "tokenizer.json"])
    info = found.tensors["e"]
    assert (info.shape, info.dtype, info.begin) == ((_ROWS, *shape[1:]), "BF16", -1)
    assert info.nbytes == info.numel * 2
    assert found.adapter == (tmp_path / "tokenizer.json",)
    whole = found.block("e", 0, info.numel)
    assert whole.dtype == torch.float32  # no row loses anything
    expected = _dense(rows, tensors).reshape(-1).float()
    torch.testing.assert_close(whole, expected, rtol=1e-6, atol=1e-7)
    for step in (1, 7, 64):
        cuts = range(0, info.numel, step)
        pieces = [found.block("e", i, min(i + step, info.numel)) for i in cuts]
        assert torch.equal(torch.cat(pieces), whole)
    assert found.block("e", 5, 5).numel() == 0


def test_rows_that_lie_together_are_views_of_the_file() -> None:
    value = torch.arange(40.0).reshape(20, 2)
    base = MemoryCheckpoint("m", {"e": value})
    count = np.zeros(12, dtype=np.int32)
    row = np.arange(4, 16)
    rows = Rows("e", [(base, "e")], count, row, row[None], count == 0)
    found = RevocabularyCheckpoint(base, {"e": rows}, [])
    block = found.block("e", 3, 9)
    assert block.data_ptr() == value[4:].data_ptr() + 3 * 4
    assert torch.equal(found.block("e", 0, 24), value[4:16].reshape(-1))


def test_a_vector_may_lie_in_a_matrix_of_one_row() -> None:
    base = MemoryCheckpoint("m", {"e": torch.arange(4.0).reshape(1, 4)})
    origin, row = np.array([0, 0, ZERO], dtype=np.int32), np.array([3, 1, -1])
    rows = Rows("e", [(base, "e")], origin, row, row[None], origin >= ZERO)
    found = RevocabularyCheckpoint(base, {"e": rows}, [])
    assert found.tensors["e"].shape == (1, 3)
    assert found.block("e", 0, 3).tolist() == [3.0, 1.0, 0.0]

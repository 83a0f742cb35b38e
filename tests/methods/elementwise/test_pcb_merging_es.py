"""PCB-Merging as the evolutionary search scores it; what it shares is in test_pcb_merging."""

from __future__ import annotations

import torch

from cermet import merge_tensors


def test_the_scale_of_the_deltas_does_not_change_what_is_kept() -> None:
    """Every score is made of magnitudes from 0 to 1; the other form's are made of the deltas."""
    own = torch.Generator().manual_seed(7)
    experts = [{"x": torch.randn(80, generator=own)} for _ in range(3)]
    base = {"x": torch.zeros(80)}
    found = merge_tensors("pcb_merging_es", base, experts, density=0.2)["x"]
    small = [{"x": expert["x"] / 64} for expert in experts]
    again = merge_tensors("pcb_merging_es", base, small, density=0.2)["x"]
    torch.testing.assert_close(again * 64, found)

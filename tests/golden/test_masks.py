"""DELLA's mask is that of the authors' code, entry by entry, where their random numbers are given.

What survives is rescaled differently (see Departures of `della`), so only the masks compare.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cermet import merge_tensors
from tests.golden.adapt import golden_folder, load

FILES = [
    path
    for path in sorted(golden_folder().glob("della_official-*.safetensors"))
    if load(path).parameters["variant"] == "della"
]


def test_there_is_such_a_file() -> None:
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_entries_are_kept_where_u_is_below_the_probability(path: Path) -> None:
    case = load(path)
    base, half = case.groups["base"], case.parameters["window_size"] / 2
    for i, expert in enumerate(case.experts):
        delta = {name: value - base[name] for name, value in expert.items()}
        merged = merge_tensors(
            "della_linear",
            {name: torch.zeros_like(value) for name, value in delta.items()},
            [delta],
            weight=1,
            density=case.parameters["density"],
            epsilon=half,
            rescale=False,
            noise={name: u[None] for name, u in case.groups[f"u{i}"].items()},
        )
        for name, probability in case.groups[f"prob{i}"].items():
            kept = case.groups[f"u{i}"][name] < probability.view_as(delta[name])
            assert torch.equal(merged[name], delta[name] * kept), name

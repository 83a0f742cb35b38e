"""A method on adapters from outside: the same contract, and a clear word where it breaks it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import cermet
from cermet.core import registry

_TEXT = """
import cermet

@cermet.method(on="factors", source="here", rank=lambda ranks: ranks[0] + MORE)
def first(factors, *, strength: float = 1.0):
    \"\"\"Keep the first adapter alone.\"\"\"
    return cermet.Factors(factors[0].a * strength, factors[0].b, factors[0].scale)
"""
_ADAPTER = (
    {"x.lora_A.weight": torch.ones(2, 3), "x.lora_B.weight": torch.ones(4, 2)},
    {"peft_type": "LORA", "r": 2, "lora_alpha": 3},
)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Leave the registry as it was found."""
    before = dict(registry.all_factor_methods())
    yield
    registry._on_factors.clear()
    registry._on_factors.update(before)


def _loaded(folder: Path, more: int) -> None:
    file = folder / "own.py"
    file.write_text(_TEXT.replace("MORE", str(more)), "utf-8")
    registry.load_plugin(file)


def test_it_is_run_and_its_scale_is_kept(tmp_path: Path) -> None:
    _loaded(tmp_path, 0)
    found, config = cermet.merge_adapters("first", [_ADAPTER] * 2, strength=2)
    assert torch.equal(found["x.lora_A.weight"], torch.full((2, 3), 2.0))
    assert (config["r"], config["lora_alpha"]) == (2, 3)


def test_a_rank_that_it_does_not_keep_is_refused(tmp_path: Path) -> None:
    _loaded(tmp_path, 1)
    with pytest.raises(cermet.MethodError, match="'first' must return Factors of rank 3 for 'x'"):
        cermet.merge_adapters("first", [_ADAPTER])


def test_it_stands_in_no_pipeline() -> None:
    with pytest.raises(cermet.MethodError, match="'lora_sum' works on factors; a pipeline"):
        cermet.merge_tensors([("lora_sum", {"weight": 1})], None, [{"x": torch.ones(2)}])

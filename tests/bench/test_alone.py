"""The benches of primitives and of adapters: both sides compute the same, and records are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.__main__ import main
from bench.primitives import PRIMITIVES
from bench.records import load
from bench.times import seconds_of
from cermet.core.registry import all_factor_methods

_SMALL = ("--shapes", "40x24", "--repeats", "1", "--records", "--folder")


def test_primitives_are_as_near_as_those_of_torch(tmp_path: Path) -> None:
    assert main(["primitives", "--exponents", "1", *_SMALL, str(tmp_path)]) == 0
    found = {record["primitive"]: record for record in load(tmp_path, "primitives")}
    assert set(found) == set(PRIMITIVES)
    for name, record in found.items():
        assert record["errors"][1] <= max(2 * record["errors"][0], 1e-3), name
        assert record["ours"] > 0
    assert found["polar.polar"]["peer"] == "torch.linalg.svd"


def test_adapters_stand_on_the_pages_of_their_methods(tmp_path: Path) -> None:
    assert main(["adapters", "--rank", "2", "--experts", "3", *_SMALL, str(tmp_path)]) == 0
    found = {record["method"]: record for record in load(tmp_path, "spectral")}
    assert set(found) == set(all_factor_methods())
    for name in ("lora_reduced", "lora_svd"):
        assert max(found[name]["errors"]) < 1e-5
    assert "| 40x24 | adapters of rank 2 | 3 |" in seconds_of("lora_ties", tmp_path)


@pytest.mark.parametrize("what", ["adapters", "primitives"])
def test_an_unknown_name_is_refused(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([what, "lu"])
    assert "'lu' is none of" in capsys.readouterr().err

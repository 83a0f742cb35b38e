"""The bench of spectral methods: our results are those of the authors' forms, and are kept."""

from pathlib import Path

import pytest

from bench.authors import AUTHORS
from bench.records import load
from bench.spectral import main
from bench.times import seconds_of, table

_SLOW = ["optmerge", "optmerge_lora", "wudi"]  # their authors take 300 steps


def _measured(folder: Path, *words: str) -> dict[str, dict[str, object]]:
    kept = ["--experts", "3", "--repeats", "1", "--records", "--folder", str(folder)]
    assert main([*words, *kept]) == 0
    return {f"{r['spectrum']} {r['method']}": dict(r) for r in load(folder, "spectral")}


@pytest.mark.parametrize(
    "methods",
    [
        [*(name for name in AUTHORS if name not in _SLOW), "delta_come"],
        pytest.param(_SLOW, marks=pytest.mark.slow),
    ],
    ids=["at once", "by steps"],
)
def test_results_are_those_of_the_authors_forms(tmp_path: Path, methods: list[str]) -> None:
    found = _measured(tmp_path, *methods, "--shapes", "40x24", "--exponents", "1")
    assert len(found) == len(methods)
    for name, record in found.items():
        errors = record["errors"]
        assert isinstance(errors, list), name
        assert errors[1] <= max(2 * errors[0], 2e-6), (name, errors)


def test_adapters_are_merged_in_their_span_by_what_can_be(tmp_path: Path) -> None:
    words = ("optmerge_lora", "tsv_m", "knots_ties", "--shapes", "40x24", "--exponents", "lora-2")
    found = _measured(tmp_path, *words)
    assert set(found) == {"lora-2 optmerge_lora", "lora-2 tsv_m"}
    errors = found["lora-2 optmerge_lora"]["errors"]
    assert isinstance(errors, list)
    assert errors[1] < 1e-5
    assert found["lora-2 tsv_m"]["errors"] is None
    assert "adapters of rank 2" in table(tmp_path)
    assert "| 40x24 | adapters of rank 2 |" in seconds_of("tsv_m", tmp_path)
    assert seconds_of("wudi", tmp_path) == ""


def test_each_machine_has_a_table_of_its_own(tmp_path: Path) -> None:
    _measured(tmp_path, "tsv_m", "--shapes", "16x16", "--exponents", "flat")
    file = tmp_path / "spectral.jsonl"
    line = file.read_text("utf-8")
    file.write_text(line + line.replace('"device": "cpu"', '"device": "NVIDIA X"'), "utf-8")
    assert table(tmp_path).count("| method |") == 2
    assert "Medians on NVIDIA X" in table(tmp_path)
    assert "--device cuda --records" in table(tmp_path)


def test_an_unknown_method_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["svd"])
    assert "'svd' is none of" in capsys.readouterr().err

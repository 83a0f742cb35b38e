"""The table of some records: what a column says, and where it says nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cermet.proving.formats import cells, columns, write_tables
from cermet.proving.table import across, tables


def _line(name: str, metrics: dict[str, str], flips: dict[str, float | None]) -> dict[str, Any]:
    tasks = {
        task: {"value": 0.5, "metric": metric, "examples": 9, "normalised": 0.5,
               "low": 0.4, "high": 0.6, "flips": flips[task]}
        for task, metric in metrics.items()
    }  # fmt: skip
    return {
        "pool": "p", "experts": 3, "seed": 0, "kind": "merge", "name": name, "split": "test",
        "point": {}, "tasks": tasks, "knob": None, "grid": [], "mean": 0.5, "normalised": 0.5,
        "low": 0.4, "high": 0.6, "worst": 0.5, "out_of_domain": None, "flips": 0.9,
        "seconds": 1.0, "peak_bytes": 0, "bytes": 1000,
    }  # fmt: skip


def test_flips_are_of_tasks_where_an_answer_is_right_or_wrong(tmp_path: Path) -> None:
    both = {"pick": "accuracy", "write": "exact_match", "bits": "bits_per_character"}
    (mixed,) = tables([_line("m", both, {"pick": 0.1, "write": 0.3, "bits": None})])
    assert mixed.rows[0].flips == 0.2
    assert cells(mixed)[0][columns(mixed).index("flips")] == "20.0%"
    # Records of before counted texts that take more bits, which says nothing of a model.
    (old,) = tables([_line("m", both, {"pick": 0.1, "write": 0.3, "bits": 0.9})])
    assert old == mixed


def test_where_no_answer_is_right_there_is_no_column_of_flips(tmp_path: Path) -> None:
    bits = {"a": "bits_per_character", "b": "bits_per_character"}
    found = tables(
        [_line("m", bits, {"a": None, "b": None}), _line("n", bits, {"a": 0.7, "b": 0.4})]
    )
    assert [row.flips for row in found[0].rows] == [None, None]
    assert "flips" not in columns(found[0])
    write_tables(found, tmp_path)
    head, *rows = [x.split(",") for x in (tmp_path / "table.csv").read_text().splitlines()]
    assert {row[head.index("flips")] for row in rows} == {""}
    assert "flips" not in (tmp_path / "table.md").read_text()
    assert '"flips": null' in (tmp_path / "table.json").read_text()


def test_seeds_are_told_where_some_rows_have_fewer() -> None:
    metric: dict[str, str] = {"a": "accuracy"}
    flips: dict[str, float | None] = {"a": 0.1}
    lines = [_line("m", metric, flips), _line("n", metric, flips)]
    assert "seeds" not in columns(tables(lines)[0])
    (uneven,) = tables([*lines, {**_line("m", metric, flips), "seed": 1}])
    told = {row[0]: row[columns(uneven).index("seeds")] for row in cells(uneven)}
    assert told == {"m": "2", "n": "1"}


def test_pools_of_growing_size_are_compared_over_the_seeds_that_all_have() -> None:
    flips: dict[str, float | None] = {"a": 0.1}

    def line(name: str, experts: int, seed: int, share: float) -> dict[str, Any]:
        told = _line(name, {"a": "accuracy"}, flips)
        return {**told, "experts": experts, "seed": seed, "normalised": share}

    lines = [line("m", 3, 0, 0.5), line("m", 3, 1, 0.9), line("m", 2, 0, 0.8)]
    lines += [line("n", 3, 0, 0.5), line("n", 2, 1, 0.5), line("o", 3, 0, 0.5)]
    lines += [{**line("o", 2, 0, 0.5), "not_run": "It cannot."}]
    found = across(lines)
    assert [(row.experts, row.normalised) for row in found.pop("m")] == [(2, 0.8), (3, 0.5)]
    assert not found  # n has no seed in common, and o was run once

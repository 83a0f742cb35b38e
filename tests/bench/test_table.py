"""Tables from the benchmark's records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.recipes import SHELF
from bench.records import RECORDS, append, latest, load
from bench.shelf import HEAVIER
from bench.table import tables

_CONTEXT: dict[str, Any] = {
    "date": "2026-01-02",
    "machine": {"system": "Linux", "processor": "A CPU", "cores": 2, "memory": 8 << 30},
    "versions": {"cermet": "0.1.0", "mergekit": "0.1.5", "python": "3.12", "torch": "2.13.0"},
}


def _runs(median: float, problem: str | None = None) -> dict[str, Any]:
    return {"seconds": [median], "median": median, "anonymous": 500_000_000, "problem": problem}


def _speed(
    method: str, own: float, peer: float | None, problem: str | None = None
) -> dict[str, Any]:
    return {
        "kind": "speed",
        "method": method,
        "shape": "1.1B",
        "parameters": 1_100_000_000,
        "models": 4,
        "threads": None,
        "cermet": {**_runs(own, problem), "sync": 0.5},
        "startup": _runs(1.0),
        "floor": _runs(2.0),
        "mergekit": None if peer is None else _runs(peer),
        **_CONTEXT,
    }


@pytest.fixture
def records(tmp_path: Path) -> Path:
    folder = tmp_path / "records"
    append(folder, _speed("ties", 9.0, 100.0))
    append(folder, _speed("ties", 5.0, 100.0))
    append(folder, _speed("linear", 4.5, 9.0))
    append(folder, _speed("sce", 1.0, 5.0, "exit 4: no room"))
    memory = {
        "kind": "memory",
        "method": "linear",
        "shape": "20M",
        "models": 40,
        "budget": "256MB",
        "cage": "cgroup v2 memory.max",
        "limit": 768 << 20,
        "model_bytes": 40_000_000,
        "cermet": _runs(3.0),
        "default": _runs(2.0),
        **_CONTEXT,
    }
    append(folder, memory)
    for threads, seconds in ((1, 11.0), (2, 6.0)):
        point = {
            "kind": "scaling",
            "axis": "threads",
            "value": threads,
            "method": "ties",
            "shape": "1.1B",
            "cermet": {**_runs(seconds), "sync": 0.0},
            "startup": _runs(1.0),
            **_CONTEXT,
        }
        append(folder, point)
    return folder


def test_the_last_record_of_a_method_counts(records: Path) -> None:
    found = latest(load(records, "speed"), "shape", "method", "threads")
    assert {r["method"]: r["cermet"]["median"] for r in found}["ties"] == 5.0
    text = tables(records)
    assert "| ties | 100.0 | 5.00 | 20.0 | 0.50 | 2.00 | 1.75 | 0.50 | 0.50 |" in text
    assert "9.00" not in text


def test_methods_stand_in_the_order_of_the_issue(records: Path) -> None:
    text = tables(records)
    assert text.index("| linear | 9.0 |") < text.index("| ties |") < text.index("| sce |")


def test_a_failure_is_shown_as_one(records: Path) -> None:
    assert "| sce |  | failed |" in tables(records)


def test_memory_and_scaling_have_tables(records: Path) -> None:
    text = tables(records)
    assert "| linear | 40 | 0.04 | 768 MiB | 3.0 | 500 | 500 |" in text
    assert "| threads | 2 | ties | 1.1B | 6.00 | 5.00 | 0.50 |" in text


def test_machines_are_not_mixed(records: Path) -> None:
    (one, *_) = load(records, "scaling")
    wide = {**_CONTEXT["machine"], "cores": 16}
    append(records, {**one, "machine": wide, "cermet": {**_runs(4.0), "sync": 0.0}})
    small, large = (part for part in tables(records).split("How time grows; ")[1:])
    assert small.startswith("A CPU, 2 cores")
    assert "| threads | 1 | ties | 1.1B | 11.00 | 10.00 | 1.00 |" in small
    assert large.startswith("A CPU, 16 cores")
    assert "| threads | 1 | ties | 1.1B | 4.00 | 3.00 | 1.00 |" in large


def test_the_table_says_where_and_when(records: Path) -> None:
    assert "A CPU, 2 cores, 8 GiB, 2026-01-02, Cermet 0.1.0, mergekit 0.1.5" in tables(records)


def test_without_the_peer_its_cells_are_empty(tmp_path: Path) -> None:
    append(tmp_path, _speed("linear", 4.0, None))
    assert "| linear |  | 4.00 |  | 0.50 | 2.00 | 1.25 |  | 0.50 |" in tables(tmp_path)


def test_no_records_say_so(tmp_path: Path) -> None:
    assert "Nothing has been measured yet" in tables(tmp_path)


def _shelf(method: str, own: float, passes: int, problem: str | None = None) -> dict[str, Any]:
    own_record = _speed(method, own, None, problem)
    return {**own_record, "kind": "shelf", "shape": "160M", "experts": 3, "passes": passes}


def test_the_shelf_is_told_by_pass_and_what_is_dearer_says_why(tmp_path: Path) -> None:
    """Start-up is 1 s, the disk 0.5 s and the floor 2 s, so 25.5 s are twelve times the floor."""
    append(tmp_path, _shelf("ties_official", 25.5, 3))
    append(tmp_path, _shelf("widen", 41.5, 3))
    append(tmp_path, _shelf("emr", 9.0, 2, "exit 4: no room"))
    append(tmp_path, {**_shelf("twin_merging", 9.5, 1), "budget": "9GB"})
    text = tables(tmp_path)
    assert "| ties_official | 3 | 25.50 | 2.00 | 12.00 | 4.00 | 0.50 |" in text
    assert "| widen | 3 | 41.50 | 2.00 | 20.00 | 6.67 | 0.50 |" in text
    assert "| emr | 2 | failed |" in text
    assert f"- widen: {HEAVIER['widen']}." in text
    assert "- ties_official" not in text
    assert text.count("--memory") == text.count("twin_merging ran with `--memory 9GB`, the") == 1


def test_every_row_that_is_dearer_has_a_reason() -> None:
    assert HEAVIER.keys() <= set(SHELF)
    assert not [line for line in tables(RECORDS).splitlines() if line.endswith(": .")]

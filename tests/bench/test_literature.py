"""Verdicts: a claim holds, does not hold here, or cannot be told, by a paired interval."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.literature import CLAIMS, literature, verdict
from bench.pools import POOLS, found_in, keep, main_table, results


@pytest.fixture(autouse=True)
def _forgotten() -> None:
    found_in.cache_clear()


def _line(name: str, shares: Mapping[str, float], **more: Any) -> dict[str, Any]:
    tasks = {
        task: {"value": share, "metric": "accuracy", "examples": 9, "normalised": share}
        for task, share in shares.items()
    }
    mean = sum(shares.values()) / len(shares)
    return {
        "format": 1, "key": name, "pool": "voices", "experts": 3, "seed": 0, "kind": "merge",
        "name": name, "split": "test", "point": {}, "recipe": {"models": "/home/me"},
        "tasks": tasks, "knob": None, "grid": [], "random": False, "mean": mean,
        "normalised": mean, "low": mean, "high": mean, "worst": min(shares.values()),
        "out_of_domain": None, "flips": 0.0, "seconds": 1.0, "peak_bytes": 0, "bytes": 1000,
        **more,
    }  # fmt: skip


def _kept(tmp_path: Path, *lines: dict[str, Any]) -> Path:
    out = tmp_path / "out"
    out.mkdir()
    (out / "bytes.png").write_bytes(b"png")
    (out / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    keep(out, tmp_path, tmp_path / "pictures")
    return tmp_path


@pytest.mark.parametrize(
    ("differences", "slack", "said"),
    [
        ([0.10, 0.11, 0.09], 0.0, "holds"),
        ([-0.10, -0.11, -0.09], 0.0, "does not hold here"),
        ([-0.10, 0.11, 0.02], 0.0, "cannot tell"),
        ([-0.004, -0.005, -0.003], 0.01, "holds"),
        ([-0.02, -0.021, -0.019], 0.01, "does not hold here"),
        ([0.5, 0.5], 0.0, "cannot tell"),
        ([1e-6, 2e-6, 1e-6], 0.0, "cannot tell"),
    ],
)
def test_the_verdict_follows_the_interval(
    differences: list[float], slack: float, said: str
) -> None:
    assert verdict(differences, slack) == said


def test_a_claim_is_told_on_the_pool_that_has_its_rows(tmp_path: Path) -> None:
    folder = _kept(
        tmp_path,
        _line("ties", {"a": 0.9, "b": 0.8, "c": 0.85}),
        _line("task_arithmetic", {"a": 0.8, "b": 0.71, "c": 0.74}),
    )
    rows = [row for row in literature(folder).splitlines() if "2306.01708" in row]
    assert len(rows) == 1
    assert "TIES is better than task arithmetic" in rows[0]
    assert "+10.0" in rows[0]
    assert "holds" in rows[0]
    assert "does not" not in rows[0]


def test_two_rows_are_compared_over_the_seeds_that_both_have(tmp_path: Path) -> None:
    shares = {"a": 0.9, "b": 0.8, "c": 0.85}
    folder = _kept(
        tmp_path,
        _line("ties", shares),
        _line("ties", dict.fromkeys(shares, 0.1), seed=1),
        _line("task_arithmetic", {task: share - 0.1 for task, share in shares.items()}),
    )
    (row,) = [row for row in literature(folder).splitlines() if "2306.01708" in row]
    assert "ties 85.0%, task_arithmetic 75.0% | +10.0" in row


def test_without_records_the_pages_say_so(tmp_path: Path) -> None:
    for text in (literature(tmp_path), main_table(tmp_path), results(tmp_path, POOLS[0])):
        assert text.startswith("Nothing has been measured yet")


def test_what_is_kept_names_no_folder_and_the_last_line_of_a_row(tmp_path: Path) -> None:
    folder = _kept(
        tmp_path,
        _line("ties", {"a": 0.1}),
        _line("ties", {"a": 0.2}, split="validation"),
        _line("ties", {"a": 0.9}),
    )
    kept = (folder / "pools/voices.jsonl").read_text().splitlines()
    assert [json.loads(line)["normalised"] for line in kept] == [0.9]
    assert "/home/me" not in kept[0]
    found = results(folder, "voices", folder / "pictures")
    assert "90.0%" in found
    assert "(pictures/voices-bytes.png)" in found
    assert "voices-experts" not in found
    assert "90.0%" in main_table(folder)


def test_a_reason_names_no_folder(tmp_path: Path) -> None:
    said = "'x.weight' of '/home/me/out/work/assembly' has changed since it was written."
    refused = {
        key: _line("rmm", {"a": 0.5})[key] for key in ("pool", "experts", "seed", "kind", "name")
    }
    folder = _kept(
        tmp_path, _line("ties", {"a": 0.9}), {**refused, "split": "test", "not_run": said}
    )
    told = results(folder, "voices", folder / "pictures")
    assert "`rmm`: 'x.weight' of 'assembly' has changed" in told


def _named(folder: Path, name: str, rows: Mapping[str, Mapping[str, float]], *seeds: int) -> None:
    """Keep the bench of a pool of that name; of several seeds, each further one at half of all."""
    out = folder / "benches" / name
    out.mkdir(parents=True)
    (out / "bytes.png").write_bytes(b"png")
    lines = [
        _line(row, {t: s / 2**i for t, s in shares.items()}, pool=name, seed=seed)
        for row, shares in rows.items()
        for i, seed in enumerate(seeds or (0,))
    ]
    (out / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert keep(out, folder, folder / "pictures") == folder / "pools" / f"{name}.jsonl"


_APART = {"a": 1.0, "b": 1.0, "c": 1.0}
_BASE = {"a": 0.4, "b": 0.5, "c": 0.6}


def test_a_row_is_compared_over_pools_by_share_and_by_way(tmp_path: Path) -> None:
    weak = {"a": 0.1, "b": 0.2, "c": 0.3}
    _named(tmp_path, "voices-weak", {
        "experts kept apart": _APART, "base": weak, "linear": {"a": 0.55, "b": 0.61, "c": 0.64},
    })  # fmt: skip
    assert "better base" not in literature(tmp_path)  # one pool is compared with nothing
    _named(tmp_path, "voices", {
        "experts kept apart": _APART, "base": _BASE, "linear": {"a": 0.64, "b": 0.70, "c": 0.75},
        "ties": _BASE, "tsv_m": _BASE,
    })  # fmt: skip
    found_in.cache_clear()
    text = literature(tmp_path)
    share, way = [row for row in text.splitlines() if "better base" in row]
    assert "| voices-weak, voices | linear: 60.0%, 69.7% | +9.7 (" in share
    assert share.endswith("| holds |")
    # (0.55 - 0.1) / 0.9, ... against (0.64 - 0.4) / 0.6, ...: the base alone has gained
    assert "linear, of the way from base to expert: 49.9%, 39.2% | -10.8 (" in way
    assert way.endswith("| does not hold here |")
    assert [p.name for p in (tmp_path / "pictures").iterdir()] == ["voices-bytes.png"]


def test_only_seeds_that_all_pools_have_are_compared(tmp_path: Path) -> None:
    rows = {"experts kept apart": _APART, "base": _BASE, "linear": {"a": 0.6, "b": 0.7, "c": 0.8}}
    _named(tmp_path, "voices-sizes-small", rows, 0)
    _named(tmp_path, "voices-sizes-large", rows, 0, 1)
    assert "linear: 70.0%, 70.0% | +0.0" in literature(tmp_path)
    shutil.rmtree(tmp_path / "benches")
    _named(tmp_path, "voices-sizes-small", rows, 2)
    assert "70.0%" not in literature(tmp_path)


def test_pools_of_other_tasks_are_not_compared(tmp_path: Path) -> None:
    few = {"a": 1.0, "b": 1.0, "d": 1.0}
    for name, shares in (("voices-weak", few), ("voices", _APART)):
        rows = dict.fromkeys(("experts kept apart", "base", "linear"), shares)
        _named(tmp_path, name, {**rows, "ties": shares, "task_arithmetic": shares})
    told, _, missing = literature(tmp_path).partition("Not tried yet:")
    assert "better base" not in told
    assert "better base" in missing


def test_what_has_records_is_no_longer_missing(tmp_path: Path) -> None:
    _named(tmp_path, "voices", {"ties": _BASE, "task_arithmetic": _APART})
    told, _, missing = literature(tmp_path).partition("Not tried yet:")
    assert "TIES is better than task arithmetic" in told
    assert "TIES is better than task arithmetic" not in missing
    for claim in CLAIMS:
        assert (f"| {claim.text} (" in told) != (f"- {claim.text} (" in missing)
        assert told.endswith("|\n\n")


def test_keeping_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"holds no records\.jsonl"):
        keep(tmp_path, tmp_path, tmp_path)


def test_claims_name_their_papers() -> None:
    assert all(claim.source.count(".") == 1 and claim.slack >= 0 for claim in CLAIMS)

"""All malformed inputs: how many there are of each class, and a sample through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.reliability.malformed import Case, Pool, snapshot
from tests.reliability.test_malformed_adapters import CASES as ADAPTERS
from tests.reliability.test_malformed_checkpoints import CASES as CHECKPOINTS
from tests.reliability.test_malformed_headers import CASES as HEADERS
from tests.reliability.test_malformed_hub import CASES as NAMES
from tests.reliability.test_malformed_pickles import CASES as PICKLES
from tests.reliability.test_malformed_recipes import CASES as RECIPES
from tests.reliability.test_malformed_records import BYTES, CHANGES, FINDINGS
from tests.reliability.test_malformed_tensors import CASES as TENSORS
from tests.reliability.test_malformed_yaml import CASES as YAML

ALL: list[Case] = [*HEADERS, *CHECKPOINTS, *PICKLES, *YAML, *RECIPES, *TENSORS, *ADAPTERS, *NAMES]

# Runs the command for every pair of arguments, in one process: the imports cost more than all.
COMMAND = """
import contextlib, io, json, sys
from cermet.cli.app import main

ended = []
for arguments in json.load(sys.stdin):
    sys.argv = ["cermet", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as left:
            code = left.code
    ended.append([code, out.getvalue(), err.getvalue()])
json.dump(ended, sys.stdout)
"""


def _run(arguments: list[list[str]]) -> list[tuple[int, str, str]]:
    """Exit code, standard output and standard error of each call."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [(code, out, err) for code, out, err in json.loads(done.stdout)]


def _is_one_sentence(err: str) -> None:
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("cermet: ")
    assert "Traceback" not in err


def test_there_are_hundreds_and_a_dozen_of_each_class() -> None:
    sizes = Counter(case.group for case in ALL)
    sizes["damaged records"] = len(BYTES) + len(CHANGES) + len(FINDINGS)
    assert {group: size for group, size in sizes.items() if size < 12} == {}
    assert len(sizes) >= 20
    assert sum(sizes.values()) >= 300


def test_no_case_stands_twice() -> None:
    named = Counter(map(str, ALL))
    assert [name for name, count in named.items() if count > 1] == []


def _sample() -> list[Case]:
    """Of every class the first case and one from its middle."""
    groups: dict[str, list[Case]] = {}
    for case in ALL:
        groups.setdefault(case.group, []).append(case)
    return [case for found in groups.values() for case in (found[0], found[len(found) // 2])]


def test_a_sample_through_the_command_line(tmp_path: Path) -> None:
    """Exit code 2 or 3 by the kind of error, one sentence on standard error, nothing written."""
    sample = _sample()
    arguments, pools = [], []
    for number, case in enumerate(sample):
        pool = Pool(tmp_path / str(number) / "in")
        case.spoil(pool)
        recipe = pool.save_recipe()
        pools.append((pool.root, snapshot(pool.root)))
        (tmp_path / f"out{number}").mkdir()
        out = tmp_path / f"out{number}" / "merged"
        arguments.append(["merge", str(recipe), str(out), "--threads", "1"])
    ended = _run(arguments)
    assert len(ended) == len(sample) >= 25
    for number, (case, (code, out, err)) in enumerate(zip(sample, ended, strict=True)):
        assert code == case.kind.exit_code, f"{case}: {err}"
        assert [place for place in case.places if place not in err] == [], f"{case}: {err}"
        assert out == ""
        _is_one_sentence(err)
        assert list((tmp_path / f"out{number}").iterdir()) == []
    assert {case.kind.exit_code for case in sample} == {2, 3}
    assert all(snapshot(root) == before for root, before in pools)


def test_the_other_verbs_and_the_machine(tmp_path: Path) -> None:
    """A budget too small is the machine's (4); `plan` and `verify` end like `merge`."""
    pool = Pool(tmp_path / "in")
    sound, out = str(pool.save_recipe()), str(tmp_path / "out")
    pool.write("bad.yaml", "merge_method: tise\n")
    pool.write("torn/cermet.json", "{")
    bad, torn = str(pool.root / "bad.yaml"), str(pool.root / "torn")
    expected = {
        ("merge", sound, out, "--memory", "10"): 4,
        ("merge", sound, out, "--memory", "lots"): 2,
        ("merge", sound, out, "--memory", "9" * 400 + "GB"): 2,
        ("merge", sound, out, "--shard-size", "0"): 2,
        ("merge", sound, out, "--device", "tpu"): 2,
        ("merge", sound, bad): 2,
        ("plan", bad): 2,
        ("plan", str(tmp_path / "nowhere.yaml")): 2,
        ("plan", sound, "--plugin", bad): 2,
        ("verify", torn): 3,
        ("verify", str(tmp_path / "nowhere")): 2,
        ("verify", str(pool.root / "a")): 2,
        ("methods", "tise"): 2,
    }
    for arguments, (code, _, err) in zip(expected, _run([list(a) for a in expected]), strict=True):
        assert code == expected[arguments], f"{arguments}: {err}"
        _is_one_sentence(err)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]

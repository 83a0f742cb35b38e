"""`cermet soup`: the score command, its wrong forms, and what is printed."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from tests.cli.commands import Cermet
from tests.reliability.runs import weights, write_model


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    return [str(write_model(tmp_path / f"m{i}", weights(2, (12, 8), i))) for i in (1, 2)]


def _command(code: str) -> str:
    return shlex.join([sys.executable, "-c", code, "{}"])


def test_json_tells_a_program_everything(cermet: Cermet, models: list[str], tmp_path: Path) -> None:
    score = _command("import sys; print(3 if sys.argv[1].endswith('m2') else 1)")
    done = cermet("soup", *models, "--score", score, "--out", tmp_path / "out", "--json")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert found["members"] == [models[1]]
    assert found["score"] == 3
    assert [s["taken"] for s in found["steps"]] == [True, False]
    record = json.loads((tmp_path / "out" / "cermet.json").read_text("utf-8"))
    assert models[1] in json.dumps(record["models"])


def test_a_table_for_people(cermet: Cermet, models: list[str], tmp_path: Path) -> None:
    score = _command("import sys; print(2 if 'soup' in sys.argv[1] else 1)")
    done = cermet("soup", *models, "--score", score, "--out", tmp_path / "out")
    assert done.code == 0
    assert "the average of 2 of 2 models, score 2." in done.out.replace("\n", " ")
    assert done.out.count("taken") == 2


@pytest.mark.parametrize(
    ("score", "said"),
    [
        ("python score.py", "has no {}"),
        ("python 'score.py {}", "is no command"),
        ("no-such-program {}", "no-such-program"),
        (_command("raise SystemExit(5)"), "ended with 5"),
        (_command("print('good')"), "printed 'good' last"),
        (_command(""), "printed '' last"),
        (_command("print('nan')"), "not a number"),
    ],
)
def test_wrong_score_commands(
    cermet: Cermet, models: list[str], tmp_path: Path, score: str, said: str
) -> None:
    done = cermet("soup", *models, "--score", score, "--out", tmp_path / "out")
    assert done.code == 2
    assert said in done.said
    assert not (tmp_path / "out").exists()

"""`cermet soup`: the score command, the texts, their wrong forms, and what is printed."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from tests.cli.commands import Cermet
from tests.learn.pools import CATS, DOGS, sentences, write_lines
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


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"text": text} for text in sentences(CATS, 30, seed=3)]
    return write_lines(tmp_path_factory.mktemp("data") / "texts.jsonl", rows)


def test_a_learned_soup_for_people(
    cermet: Cermet, llamas: list[str], texts: Path, tmp_path: Path
) -> None:
    done = cermet(
        "soup", *llamas, "--data", texts, "--out", tmp_path / "out",
        "--by-layer", "--steps", "12", "--learning-rate", "0.3", "--threads", "1",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    for line in ("uniform soup", "learned soup", "before", "model.layers.1", "after"):
        assert f"\n{line} " in done.out
    assert "Loss while learning: " in done.out
    assert "(step 1), " in done.out
    assert "(step 12)." in done.out
    assert "models by shares learnt from" in done.out.splitlines()[-1]


def test_a_learned_soup_for_programs_and_its_file(
    cermet: Cermet, llamas: list[str], texts: Path, tmp_path: Path
) -> None:
    file = tmp_path / "shares.safetensors"
    options = ["--data", texts, "--steps", "2", "--save-coefficients", file, "--json"]
    first = cermet("soup", *llamas, *options, "--out", tmp_path / "a")
    again = cermet("soup", *llamas, *options, "--out", tmp_path / "b")
    assert first.code == again.code == 0
    assert first.out == again.out
    found = json.loads(first.out)
    assert found["models"] == llamas
    assert [len(row) for row in found["coefficients"]] == [3]
    assert len(found["curve"]) == 2
    assert set(found["learned"]) == {"loss", "accuracy"}
    assert file.is_file()


def test_a_soup_that_is_no_better_is_called_so(
    cermet: Cermet, llamas: list[str], tmp_path: Path
) -> None:
    """It learns from one kind of text, and the one text that is held back is of the other."""
    rows = [{"text": text} for text in sentences(CATS, 3)]
    data = tmp_path / "texts.jsonl"
    for seed in range(40):  # until the draw holds back the text that is unlike the others
        write_lines(data, [*rows, {"text": " ".join(DOGS)}])
        done = cermet(
            "soup", *llamas, "--data", data, "--out", tmp_path / str(seed), "--overwrite",
            "--steps", "8", "--learning-rate", "0.5", "--seed", str(seed), "--json",
        )  # fmt: skip
        found = json.loads(done.out)
        best = min(found["uniform"]["loss"], *(s["loss"] for s in found["alone"]))
        assert bool(done.err) == (found["learned"]["loss"] > best)
        if done.err:
            assert done.said.startswith("warning: the ")
            assert "is better than the learned soup" in done.said
            return
    raise AssertionError("no draw held the other text back")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "exactly one of --score"),
        (["--score", "x {}", "--data", "x"], "exactly one of --score"),
        (["--score", "x {}", "--steps", "3"], "--steps is for a learned soup"),
        (["--score", "x {}", "--by-layer"], "--by-layer is for a learned soup"),
        (["--data", "no-such-file"], "The data 'no-such-file'"),
        (["--data", "no-such-file", "--learning-rate", "-1"], "The learning rate"),
    ],
)
def test_wrong_options(
    cermet: Cermet, models: list[str], tmp_path: Path, options: list[str], said: str
) -> None:
    done = cermet("soup", *models, *options, "--out", tmp_path / "out")
    assert done.code == 2
    assert said in done.said
    assert not (tmp_path / "out").exists()

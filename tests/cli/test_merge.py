"""`cermet merge`: what it prints, how it ends, and that it is quiet where nobody looks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.filesize import decimal

import cermet as package
from cermet.cli.progress import Bar
from tests.cli.commands import TEXT, Cermet, ready
from tests.recipes.pools import llama, llama_config, save


def test_one_line_says_what_was_made(cermet: Cermet, tmp_path: Path) -> None:
    recipe = ready(tmp_path)
    done = cermet("merge", recipe, tmp_path / "out")
    assert (done.code, done.err) == (0, "")
    count = len(llama())
    size = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert done.out.startswith(f"{tmp_path / 'out'}: {count} tensors, {decimal(size)}, merged in ")
    assert len(done.out.splitlines()) == 1
    assert set(package.open(tmp_path / "out")) == set(llama())


def test_options_reach_the_engine(cermet: Cermet, tmp_path: Path) -> None:
    recipe = ready(tmp_path)
    options = ("--memory", "200MB", "--threads", "1", "--shard-size", "9KB", "--device", "cpu")
    assert cermet("merge", recipe, tmp_path / "out", *options).code == 0
    record = json.loads((tmp_path / "out" / "cermet.json").read_text())
    run = record["run"]
    assert (run["memory_budget"], run["threads"], run["device"]) == (200_000_000, 1, "cpu")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2


def test_an_output_is_replaced_only_if_asked(cermet: Cermet, tmp_path: Path) -> None:
    recipe, out = ready(tmp_path), tmp_path / "out"
    assert cermet("merge", recipe, out).code == 0
    again = cermet("merge", recipe, out)
    assert (again.code, again.out) == (2, "")
    assert "exists. Choose another name, or use --overwrite." in again.said
    assert cermet("merge", recipe, out, "--overwrite").code == 0


def test_compat_warns_on_stderr(cermet: Cermet, tmp_path: Path) -> None:
    recipe = ready(tmp_path, TEXT + "name: mine\n")
    assert cermet("merge", recipe, tmp_path / "out").code == 2
    done = cermet("merge", recipe, tmp_path / "out", "--mergekit-compat")
    assert done.code == 0
    assert done.said == f"warning: {recipe}:9: 'name' is ignored."


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--memory", "lots"), "'lots' is not a size. Write it as 256MB"),
        (("--shard-size", "-1"), "'-1' is not a size"),
        (("--device", "tpu"), "'tpu' is not a device: cpu, cuda or cuda:0."),
        (("--plugin", "nowhere.py"), "The plugin 'nowhere.py' is not a Python file."),
    ],
)
def test_wrong_options_are_one_sentence(
    arguments: tuple[str, ...], words: str, cermet: Cermet, tmp_path: Path
) -> None:
    done = cermet("merge", ready(tmp_path), tmp_path / "out", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.said.startswith("cermet: ")
    assert words in done.said
    assert not (tmp_path / "out").exists()


def test_a_usage_error_ends_in_2(cermet: Cermet, tmp_path: Path) -> None:
    assert cermet("merge").code == 2
    assert cermet("merge", ready(tmp_path), tmp_path / "out", "--thread", "2").code == 2
    assert cermet("merge", ready(tmp_path), tmp_path / "out", "--threads", "0").code == 2
    assert cermet("mrege").code == 2


def test_errors_end_in_the_code_of_their_kind(cermet: Cermet, tmp_path: Path) -> None:
    recipe, out = ready(tmp_path), tmp_path / "out"
    assert cermet("merge", tmp_path / "nowhere.yaml", out).code == 2
    small = cermet("merge", recipe, out, "--memory", "10", "--threads", "1")
    blocked = tmp_path / "file"
    blocked.write_text("")
    disk = cermet("merge", recipe, blocked / "out")
    save(tmp_path / "b", {**llama(1), "lm_head.weight": torch.full((40, 16), torch.nan)})
    data = cermet("merge", recipe, out)
    save(
        tmp_path / "b", {n: t for n, t in llama(1).items() if n != "lm_head.weight"}, llama_config()
    )
    missing = cermet("merge", recipe, out)
    (tmp_path / "b" / "model.safetensors").write_bytes(b"\0" * 40)
    damaged = cermet("merge", recipe, out)
    found = {"memory": small, "disk": disk, "nan": data, "missing": missing, "damaged": damaged}
    codes = {"memory": 4, "disk": 4, "nan": 3, "missing": 3, "damaged": 3}
    assert {name: ended.code for name, ended in found.items()} == codes
    assert all(ended.said.startswith("cermet: ") for ended in found.values())
    assert not out.exists()
    assert not list(tmp_path.glob(".out*"))


def test_an_interrupt_says_how_to_go_on(
    cermet: Cermet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: Bar, tensor: str, nbytes: int) -> None:
        raise KeyboardInterrupt

    recipe, out = ready(tmp_path), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Bar, "advance", interrupt)
        ended = cermet("merge", recipe, out)
    assert ended.code == 130
    assert ended.said.endswith(f"Continue with: cermet merge {recipe} {out} --resume")
    done = cermet("merge", recipe, out, "--resume")
    assert done.code == 0
    assert "pieces were there already." in done.out


class _Terminal:
    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


def test_a_terminal_sees_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    with Bar("merging") as bar:
        bar.start(1000, 4)
        bar.advance("x", 500)
        bar.advance("x", 100)
        bar.advance("y", 400)
    assert "merging 2/4 tensors" in terminal.text


def test_a_bar_that_nobody_sees_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("merging") as bar:
        bar.start(1000, 4)
        bar.advance("x", 500)
    assert capsys.readouterr() == ("", "")


def test_the_real_command(tmp_path: Path) -> None:
    """In a process of its own: `python -m cermet`, relative paths, a pipe for a terminal."""
    recipe = ready(tmp_path, TEXT.replace("$", "./"))
    command = [sys.executable, "-m", "cermet", "merge", recipe.name, "out"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("out: ")
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith("cermet: ")
    assert "Traceback" not in again.stderr

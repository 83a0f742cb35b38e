"""`cermet transplant`: what it says, and how it ends."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.cli.commands import Cermet
from tests.recipes.vocabularies import EMBED, HEAD, save_model


def _pair(folder: Path) -> tuple[str, str]:
    model = save_model(folder / "a", 0, more=("cat",))
    return model, save_model(folder / "b", 1, more=("cow", "[red]pig[/red]"))


def test_it_says_what_was_done_and_how_far_it_is_off(cermet: Cermet, tmp_path: Path) -> None:
    model, donor = _pair(tmp_path)
    done = cermet("transplant", model, donor, tmp_path / "out", "--k", "8", "--threads", "2")
    assert (done.code, done.err) == (0, "")
    first, second, head, *rows = done.out.splitlines()
    assert re.fullmatch(rf"{tmp_path / 'out'}: 12 tensors, [\d.]+ kB, in .* on the disk\)\.", first)
    assert re.fullmatch(r"35 tokens in 35 rows: 33 shared, 2 approximated, 0 zero\.", second)
    assert re.split(r" {2,}", head.strip()) == [
        "off by, of 1", "mean", "worst", "mean row instead", "worst tokens",
    ]  # fmt: skip
    assert [row.split()[0] for row in rows] == [EMBED, HEAD]
    assert all("cow" in row and "[red]pig[/red]" in row for row in rows)
    assert cermet("verify", tmp_path / "out").code == 0


def test_without_new_tokens_there_is_no_table(cermet: Cermet, tmp_path: Path) -> None:
    model, _ = _pair(tmp_path)
    done = cermet("transplant", model, model, tmp_path / "out")
    assert (done.code, len(done.out.splitlines())) == (0, 2)
    assert "0 approximated" in done.out


def test_licences_are_warned_of(cermet: Cermet, tmp_path: Path) -> None:
    model, donor = _pair(tmp_path)
    (Path(donor) / "README.md").unlink()
    done = cermet("transplant", model, donor, tmp_path / "out", "--k", "4")
    assert done.said.startswith(f"warning: No licence is stated in a README.md of '{donor}'")


def test_mistakes_are_one_sentence(cermet: Cermet, tmp_path: Path) -> None:
    model, donor = _pair(tmp_path)
    done = cermet("transplant", model, donor, tmp_path / "out")
    assert done.code == 2
    assert "share 33 tokens, fewer than the 64" in done.said
    assert cermet("transplant", model, donor, tmp_path / "out", "--k", "0").code == 2
    assert cermet("transplant", model, donor, tmp_path / "out", "--k", "4").code == 0
    again = cermet("transplant", model, donor, tmp_path / "out", "--k", "4")
    assert (again.code, "--overwrite" in again.said) == (2, True)
    done = cermet("transplant", model, donor, tmp_path / "out", "--k", "5", "--overwrite")
    assert done.code == 0
    record = json.loads((tmp_path / "out" / "cermet.json").read_text("utf-8"))
    assert record["recipe"]["transplant"]["k"] == 5

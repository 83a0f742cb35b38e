"""Running the command line in this process, and a recipe that is ready to be run."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from cermet.cli.app import main
from tests.recipes.pools import save_llama, write_recipe

TEXT = """\
merge_method: ties
base_model: $a
models:
  - {model: $b, parameters: {weight: 0.5}}
  - {model: $c, parameters: {weight: 0.5}}
parameters:
  density: [{filter: mlp, value: 0.5}, {value: 0.9}]
dtype: float32
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """The one line on stderr."""
        (line,) = self.err.splitlines()
        return line


class Cermet:
    """The command, with what it prints."""

    def __init__(self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self._patch, self._capture = patch, capture

    def __call__(self, *arguments: str | Path) -> Ended:
        self._patch.setattr(sys, "argv", ["cermet", *map(str, arguments)])
        self._capture.readouterr()
        before = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            signal.signal(signal.SIGTERM, before)
        said = self._capture.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Ended(code, said.out, said.err)


def ready(folder: Path, text: str = TEXT) -> Path:
    """A recipe beside the three models that it names."""
    names = {name: save_llama(folder / name, i) for i, name in enumerate("abc")}
    return write_recipe(folder, text, **names)

"""`cermet soup MODEL... --score COMMAND --out OUT`."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer

from cermet.core.errors import InputError

__all__ = ["soup"]


def soup(
    models: Annotated[list[str], typer.Argument(help="Models tuned from one start.")],
    score: Annotated[
        str,
        typer.Option(help="Command that prints a model's score, larger is better; {} is its path."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the averaged checkpoint.")],
    memory: Annotated[str, typer.Option(help="Working memory, such as 256MB or 2GB.")] = "1GB",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; all cores by default.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output that Cermet wrote.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Average models greedily: best first, each kept if the score rises."""
    from cermet import api
    from cermet.engine.memory import parse_size

    words = _words(score)
    found = api.soup(
        models,
        lambda path: _score(words, path),
        out,
        memory=parse_size(memory),
        threads=threads,
        overwrite=overwrite,
    )
    steps = [
        {"model": models[s.model], "score": s.score, "together": s.together, "taken": s.taken}
        for s in found.steps
    ]
    if as_json:
        taken = [models[i] for i in found.members]
        typer.echo(json.dumps({"members": taken, "score": found.score, "steps": steps}, indent=2))
        return
    _print(steps)
    count = f"{len(found.members)} of {len(models)} models"
    typer.echo(f"{out}: the average of {count}, score {found.score:g}.")


def _print(steps: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "alone", "in the soup", "", box=None, pad_edge=False)
    for step in steps:
        together = "-" if step["together"] is None else f"{step['together']:g}"
        taken = "taken" if step["taken"] else "left out"
        table.add_row(step["model"], f"{step['score']:g}", together, taken)
    Console().print(table)


def _words(command: str) -> list[str]:
    """The command's words; InputError where it has none or no place for the path."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InputError(f"--score '{command}' is no command: {error}.") from error
    if not any("{}" in word for word in words):
        raise InputError(
            f"--score '{command}' has no {{}} where the path of the model goes, as in "
            "'python score.py {}'."
        )
    return words


def _score(words: list[str], path: Path) -> float:
    """The number on the last line that the command prints."""
    command = [word.replace("{}", str(path)) for word in words]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        raise InputError(f"The score command '{words[0]}': {error.strerror}.") from error
    if done.returncode:
        raise InputError(f"The score command ended with {done.returncode} on '{path}'.")
    lines = done.stdout.split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    try:
        return float(last)
    except ValueError:
        raise InputError(
            f"The score command printed '{last[:80]}' last on '{path}'; it must print the score, a "
            "number."
        ) from None

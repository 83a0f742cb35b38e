"""`cermet soup MODEL... --out OUT`, with `--score COMMAND` or with `--data FILE`."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cermet.core.errors import InputError

if TYPE_CHECKING:
    from cermet.learn.soup import LearnedSoup

__all__ = ["soup"]

_POINTS = 5  # of the curve, on the terminal


def soup(
    models: Annotated[list[str], typer.Argument(help="Models tuned from one start.")],
    out: Annotated[Path, typer.Option(help="Folder of the averaged checkpoint.")],
    score: Annotated[
        str | None,
        typer.Option(help="Command that prints a model's score, larger is better; {} is its path."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Texts to learn the shares from: JSON lines with text.")
    ] = None,
    by_layer: Annotated[
        bool, typer.Option("--by-layer", help="Learn the shares of each layer by themselves.")
    ] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of learning; 100.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of AdamW; 0.05.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Texts of a step; 8.")] = None,
    tokens: Annotated[
        int | None, typer.Option(min=2, help="Tokens of a text that are read; 256.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Draws the texts held back; 0.")] = None,
    save_coefficients: Annotated[
        Path | None, typer.Option(help="File of what is learnt; if it exists, it is used.")
    ] = None,
    memory: Annotated[str, typer.Option(help="Working memory, such as 256MB or 2GB.")] = "1GB",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; all cores by default.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output that Cermet wrote.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Average models, the best first while a score rises, or by shares learnt from texts."""
    from cermet.engine.memory import parse_size

    learning = {
        "by_layer": by_layer or None,
        "steps": steps,
        "learning_rate": learning_rate,
        "batch": batch,
        "tokens": tokens,
        "seed": seed,
        "save_coefficients": save_coefficients,
    }
    given: dict[str, Any] = {n: v for n, v in learning.items() if v is not None}
    options: dict[str, Any] = {
        "memory": parse_size(memory),
        "threads": threads,
        "overwrite": overwrite,
    }
    if data is not None and score is None:
        given["coefficients"] = given.pop("save_coefficients", None)
        _learned(models, data, out, as_json, {**given, **options})
    elif score is not None and data is None:
        if given:
            name = next(iter(given)).replace("_", "-")
            raise InputError(f"--{name} is for a learned soup; it goes with --data, not --score.")
        _greedy(models, score, out, as_json, options)
    else:
        raise InputError(
            "A soup takes exactly one of --score, for a greedy soup, and --data, for a learned one."
        )


def _greedy(
    models: list[str], score: str, out: Path, as_json: bool, options: dict[str, Any]
) -> None:
    from cermet import soups

    words = _words(score)
    found = soups.soup(models, lambda path: _score(words, path), out, **options)
    if as_json:
        steps = [
            {"model": models[s.model], "score": s.score, "together": s.together, "taken": s.taken}
            for s in found.steps
        ]
        members = [models[i] for i in found.members]
        typer.echo(json.dumps({"members": members, "score": found.score, "steps": steps}, indent=2))
        return
    rows = []
    for one in found.steps:
        together = "-" if one.together is None else f"{one.together:g}"
        taken = "taken" if one.taken else "left out"
        rows.append([models[one.model], f"{one.score:g}", together, taken])
    _table(["model", "alone", "in the soup", ""], rows)
    count = f"{len(found.members)} of {len(models)} models"
    typer.echo(f"{out}: the average of {count}, score {found.score:g}.")


def _learned(
    models: list[str], data: Path, out: Path, as_json: bool, options: dict[str, Any]
) -> None:
    from dataclasses import asdict

    from cermet import soups
    from cermet.cli.progress import steps

    with steps("learning", options.get("steps") or 100) as tick:
        found = soups.learned_soup(models, data, out, tick=tick, **options)
    if as_json:
        typer.echo(json.dumps({"models": models, **asdict(found)}, indent=2))
    else:
        _print_learned(models, found)
        typer.echo(
            f"{out}: the average of {len(models)} models by shares learnt from "
            f"{found.learnt_from} texts; on the {found.reported_on} held back its loss is "
            f"{found.learned.loss:.3f} (uniform soup {found.uniform.loss:.3f}, best model "
            f"{found.best.loss:.3f})."
        )
    if found.surpassed_by is not None:
        typer.echo(
            f"warning: {found.surpassed_by} is better than the learned soup on the texts held "
            "back; try more texts, fewer steps or a smaller learning rate, or take that one.",
            err=True,
        )


def _print_learned(models: list[str], found: LearnedSoup) -> None:
    """What each model is worth and its share, the shares by layer, the curve."""
    layered = len(found.groups) > 1
    mean = [sum(shares) / len(found.groups) for shares in zip(*found.coefficients, strict=True)]
    named = zip([*models, "uniform soup", "learned soup"],
                [*found.alone, found.uniform, found.learned],
                [*(f"{share:.3f}" for share in mean), "", ""], strict=True)  # fmt: skip
    rows = [[n, f"{s.loss:.3f}", f"{s.accuracy:.0%}", share] for n, s, share in named]
    _table(["", "loss", "right", "share, on average" if layered else "share"], rows)
    if layered:
        parts = zip(found.groups, found.coefficients, strict=True)
        _table(["", *models], [[group, *(f"{a:.3f}" for a in row)] for group, row in parts])
    last = len(found.curve) - 1
    points = sorted({round(i * last / (_POINTS - 1)) for i in range(_POINTS)})
    curve = ", ".join(f"{found.curve[i]:.3f} (step {i + 1})" for i in points)
    scaled = "" if found.scale == 1 else f"; the logits were multiplied by {found.scale:.3f}"
    typer.echo(f"Loss while learning: {curve}{scaled}.")


def _table(heads: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*heads, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
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

"""Options that several verbs take, and lists in one option."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

__all__ = ["AsJson", "Device", "Memory", "Threads", "words"]

Memory: TypeAlias = Annotated[str, typer.Option(help="Working memory, such as 256MB or 2GB.")]
Threads: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Threads; all cores by default.")
]
Device: TypeAlias = Annotated[str, typer.Option(help="Where it is done: cpu, cuda or cuda:1.")]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def words(text: str) -> list[str]:
    """What stands between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]

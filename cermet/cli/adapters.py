"""What `cermet plan` prints of a recipe whose models are adapters."""

from __future__ import annotations

from typing import Any

__all__ = ["print_adapters"]


def print_adapters(found: dict[str, Any]) -> None:
    """The adapters, the result, and how much each two overlap."""
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    console = Console()
    for warning in found["warnings"]:
        console.print(f"warning: {warning}", markup=False)
    for note in found["notes"]:
        console.print(f"note: {note}", markup=False)
    adapters = Table("adapter", "modules", "rank", "size", "base", box=None, pad_edge=False)
    for a in found["adapters"]:
        size = decimal(a["bytes"])
        adapters.add_row(a["name"], str(a["modules"]), _span(a["ranks"]), size, a["base"] or "-")
    console.print(adapters)
    console.print()
    if found["interference"]:
        titles = ("overlap of", "modules", "outputs", "inputs", "by chance", "cosine")
        table = Table(*titles, box=None, pad_edge=False)
        table.add_column("worst in", overflow="fold")  # the whole name, whatever the terminal
        for pair in found["interference"]:
            worst = pair["worst"]
            numbers = (f"{pair[key]:.3f}" for key in ("outputs", "inputs", "chance", "cosine"))
            table.add_row(
                " and ".join(pair["adapters"]), str(pair["modules"]), *numbers,
                f"{worst['module']} ({worst['outputs']:.3f}, {worst['inputs']:.3f})",
            )  # fmt: skip
        console.print(table)
        console.print()
    ranks = sorted({m["rank"] for m in found["modules"]})
    free = "" if found["disk_free"] is None else f" of {decimal(found['disk_free'])} free"
    whole = f", and {len(found['whole'])} whole tensor(s)" if found["whole"] else ""
    base = f"'{found['base']}'" if found["base"] else "a base without a name"
    count, method = len(found["modules"]), found["method"]
    method += " in the span of the adapters" if found["in_span"] else ""
    for line in (
        f"merges  {count} modules with {method}, rank {_span(ranks)}{whole}",
        f"writes  {decimal(found['bytes_written'])}{free}, an adapter of {base}",
    ):
        console.print(line, markup=False, highlight=False)


def _span(ranks: list[int]) -> str:
    if not ranks:
        return "-"
    return str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}"

"""Tables in sections that share their columns, and names with a sentence beside each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["print_grid", "print_sections", "print_table", "print_uncut"]

_WIDEST = 1000  # columns; more than a table can want


def print_sections(
    console: Console,
    titles: Sequence[str],
    sections: Mapping[str, Sequence[Sequence[str]]],
    left: Sequence[int] = (0,),
) -> None:
    """Rows under the headings of their sections; the columns whose index is in `left` lean left.

    A heading that is empty is not printed.
    """
    from rich.table import Table
    from rich.text import Text

    every = [titles, *(row for rows in sections.values() for row in rows)]
    widths = [max(len(row[i]) for row in every) for i in range(len(titles))]

    def table(rows: Sequence[Sequence[str]], header: bool) -> Table:
        made = Table(box=None, pad_edge=False, show_header=header)
        for i, title in enumerate(titles):
            made.add_column(title, justify="left" if i in left else "right", min_width=widths[i])
        for row in rows:
            made.add_row(*map(Text, row))
        return made

    console.print(table((), True))
    for heading, rows in sections.items():
        if heading:
            console.print(heading, style="bold", markup=False, highlight=False)
        console.print(table(rows, False))


def print_table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)
) -> None:
    """A line for each row; the columns whose index is in `left` lean left, and none is wrapped."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for i, title in enumerate(titles):
        table.add_column(Text(title), justify="left" if i in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    print_uncut(table)


def print_uncut(table: Table) -> None:
    """A table in a width of its own: cut to a narrow terminal it could not be read."""
    from rich.console import Console

    console = Console()
    needed = Console(width=_WIDEST).measure(table).maximum
    Console(width=max(console.width, needed)).print(table)


def print_grid(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    """A name and a sentence a line."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    for name, value in rows:
        grid.add_row(Text(name), Text(value))
    console.print(grid)

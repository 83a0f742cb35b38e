"""The part of README.md between the markers of the benchmark, written from the records."""

from __future__ import annotations

from pathlib import Path

from bench.table import tables

__all__ = ["BEGIN", "END", "expected", "rewrite"]

BEGIN = "<!-- bench:begin -->"
END = "<!-- bench:end -->"


def expected(text: str, records: Path) -> str:
    """The text of a README as the records want it. SystemExit where a marker is missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"The README has no part between '{BEGIN}' and '{END}'.")
    return f"{before}{BEGIN}\n{tables(records)}{END}{after}"


def rewrite(readme: Path, records: Path, *, check: bool) -> int:
    """Write the part anew, or with `check` only compare; 1 where it differs and stays so."""
    text = readme.read_text("utf-8")
    wanted = expected(text, records)
    if text == wanted:
        return 0
    if check:
        print(f"'{readme}' differs from the records: run `python -m bench readme`.")
        return 1
    readme.write_text(wanted, "utf-8")
    print(f"'{readme}' rewritten.")
    return 0

"""Large numbers as a reader takes them in: three digits and the letter of their size."""

from __future__ import annotations

__all__ = ["brief"]


def brief(count: float, unit: str = "") -> str:
    """A count in three digits, of some unit or of none: 768, 24.6 M, 5.96 MB.

    Bytes have decimal multiples, 1 kB = 1000 B.
    """
    value, letter = float(count), ""
    for larger in ("k", "M", "G", "T"):
        if value < 999.5:
            break
        value, letter = value / 1000, larger
    return f"{value:.3g} {letter}{unit}".rstrip()

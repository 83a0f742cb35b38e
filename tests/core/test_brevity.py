"""Three digits and a letter."""

from __future__ import annotations

import pytest

from cermet.core.brevity import brief


@pytest.mark.parametrize(
    ("count", "unit", "told"),
    [
        (0, "", "0"),
        (768, "", "768"),
        (999.4, "", "999"),
        (999.5, "", "1 k"),
        (24_600_000, "", "24.6 M"),
        (1.24e9, "", "1.24 G"),
        (768, "B", "768 B"),
        (1000, "B", "1 kB"),
        (5_960_000, "B", "5.96 MB"),
        (2e15, "B", "2e+03 TB"),
    ],
)
def test_counts_and_bytes(count: float, unit: str, told: str) -> None:
    assert brief(count, unit) == told

"""The checker of signatures under pytest: beartype, that takes whole numbers for floats too."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

__all__ = ["checked"]

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))

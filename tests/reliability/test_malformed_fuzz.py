"""Safetensors files with random damage: refused in one way, or read inside of the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from cermet import api
from cermet.checkpoints.header import read_header
from cermet.core.errors import FormatError
from tests.reliability.malformed import sound


def _names(error: FormatError, path: Path) -> None:
    assert str(path) in str(error)


SOUND = save(sound(1))
_HEADER = 8 + int.from_bytes(SOUND[:8], "little")
_flips = st.lists(
    st.tuples(st.integers(0, _HEADER - 1), st.integers(1, 255)), min_size=1, max_size=4
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flipped")


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(flips=_flips, stop=st.one_of(st.none(), st.integers(0, len(SOUND))))
def test_any_damage_is_refused_or_reads_inside_the_file(
    flips: list[tuple[int, int]], stop: int | None, folder: Path
) -> None:
    """Flipped and truncated at random: a CermetError, or tensors that lie in the file."""
    raw = bytearray(SOUND)
    for place, mask in flips:
        raw[place] ^= mask
    path = folder / "model.safetensors"
    path.write_bytes(raw[:stop])
    try:
        found = api.open(path)
    except FormatError as error:
        _names(error, path)
        return
    data = torch.cat([t.reshape(-1).view(torch.uint8) for t in found.values()])
    kept = raw[:stop]
    assert sorted(data.tolist()) == sorted(kept[len(kept) - len(data) :])


@settings(max_examples=100, deadline=None)
@given(text=st.binary(max_size=300))
def test_any_header_is_refused_or_valid(text: bytes, folder: Path) -> None:
    """Any bytes in the place of the header."""
    path = folder / "any.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    try:
        assert read_header(path) == {}  # there is no data
    except FormatError as error:
        _names(error, path)

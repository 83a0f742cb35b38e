"""Matching an adapter's names with a base whose prefixes differ."""

from __future__ import annotations

import pytest

from cermet.checkpoints.lora_names import Names
from cermet.core.errors import MismatchError

_TAIL = "layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("wanted", "base", "found"),
    [
        (f"model.{_TAIL}", [_TAIL], _TAIL),
        (_TAIL, [f"model.{_TAIL}"], f"model.{_TAIL}"),
        (
            f"model.language_model.{_TAIL}",
            [f"language_model.model.{_TAIL}", f"vision_tower.vision_model.encoder.{_TAIL}"],
            f"language_model.model.{_TAIL}",
        ),
        (f"decoder.{_TAIL}", [f"encoder.{_TAIL}"], None),
        (f"text_model.{_TAIL}", [f"vision_model.{_TAIL}"], None),
        (f"model.{_TAIL}", ["layers.1.self_attn.q_proj.weight"], None),
        ("model.lm_head.weight", ["lm_head.weight"], "lm_head.weight"),
        ("score.weight", ["weight"], None),
    ],
)
def test_finding_a_name(wanted: str, base: list[str], found: str | None) -> None:
    assert Names(base).find(wanted) == found


def test_an_ambiguous_name_is_refused() -> None:
    with pytest.raises(MismatchError, match=r"a\.layers\.0.*b\.layers\.0"):
        Names([f"a.{_TAIL}", f"b.{_TAIL}"]).find(f"model.{_TAIL}")

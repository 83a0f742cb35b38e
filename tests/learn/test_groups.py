"""Groups of tensors, their names in transformers, and what a recipe makes of their shares."""

from __future__ import annotations

from typing import Any

import pytest

from cermet import MismatchError
from cermet.core.types import Place, Role
from cermet.learn.groups import filtered, group_of, groups_of, translated
from tests.anatomy.table import Expected, table


def _place(name: str, expected: Expected) -> Place:
    return Place(
        name=name, shape=(1,), role=Role(expected.role), layer=expected.layer,
        layers=expected.layers, stack=expected.stack, position=expected.position,  # type: ignore[arg-type]
    )  # fmt: skip


def _value(cases: list[dict[str, Any]], name: str) -> float:
    """As recipes read filtered values: the first filter that is part of the name."""
    return float(next(case["value"] for case in cases if case["filter"] in name))


@pytest.mark.parametrize("family", sorted(table()))
def test_every_tensor_of_every_family_gets_the_share_of_its_group(family: str) -> None:
    places = [_place(name, e) for name, e in table()[family].tensors.items()]
    values = {group: float(i) for i, group in enumerate(groups_of(places))}
    cases = filtered(places, values)
    assert {p.name: _value(cases, p.name) for p in places} == {
        p.name: values[group_of(p)] for p in places
    }


def test_groups_follow_each_other_as_in_the_network() -> None:
    places = [_place(name, e) for name, e in table()["llama"].tensors.items()]
    found = groups_of(reversed(places))
    assert found[0] == "before"
    assert found[-1] == "after"
    assert found[1:-1] == tuple(f"model.layers.{i}" for i in range(len(found) - 2))


def test_a_stack_may_have_a_longer_name_in_transformers() -> None:
    own = ["before", "h.0", "h.1", "after"]
    known = translated(own, ["before", "transformer.h.0", "transformer.h.1", "after"])
    assert list(known.values()) == own
    assert translated(["x.h.0", "h.0"], ["h.0"]) == {"h.0": "h.0"}


@pytest.mark.parametrize("own", [["before"], ["a.h.0", "b.h.0"]])
def test_a_stack_without_one_counterpart_is_refused(own: list[str]) -> None:
    with pytest.raises(MismatchError, match="learnt by layer"):
        translated(own, ["h.0"])

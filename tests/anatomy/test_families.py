"""The anatomy of every family is what the tables written by hand say, tensor for tensor."""

from __future__ import annotations

import pytest

from cermet.anatomy import Anatomy, survey
from tests.anatomy.families import CLASSES, RELEASED, Specimen, released, saved, specimen
from tests.anatomy.table import Expected, table

_ISSUE = """llama mistral qwen2 qwen3 qwen3_moe mixtral gemma2 gemma3_text gemma3 phi3 gpt2 gpt_neox
opt falcon bloom mamba t5 bert roberta vit clip llava qwen2_vl whisper deepseek_v3"""
_AS_SAVED = sorted(name for name in CLASSES if f"{name}, saved" not in table())


def _specimen(name: str) -> Specimen:
    family, _, spelling = name.partition(", ")
    return {"": specimen, "saved": saved, "released": released}[spelling](family)


def _survey(given: Specimen) -> Anatomy:
    return survey(given.shapes, given.config)


def _found(anatomy: Anatomy) -> dict[str, Expected]:
    return {name: Expected.of(place) for name, place in anatomy.places.items()}


def test_every_family_has_a_table_and_every_table_a_family() -> None:
    assert set(_ISSUE.split()) <= set(CLASSES)
    assert {name for name in table() if "," not in name} == set(CLASSES)
    assert {n.partition(", ")[0] for n in table() if n.endswith(", released")} == set(RELEASED)


@pytest.mark.parametrize("name", sorted(table()))
def test_every_tensor_is_what_the_table_says(name: str) -> None:
    given, expected = _specimen(name), table()[name]
    # a line too many is as wrong as one too few
    assert set(expected.tensors) == set(given.shapes)
    assert _found(_survey(given)) == expected.tensors


@pytest.mark.parametrize("name", sorted(table()))
def test_the_stacks_are_those_of_the_table(name: str) -> None:
    anatomy = _survey(_specimen(name))
    assert anatomy.stacks == table()[name].stacks
    assert anatomy.main == table()[name].main


@pytest.mark.parametrize("name", _AS_SAVED)
def test_saving_only_leaves_out_copies_and_changes_no_place(name: str) -> None:
    expected = table()[name].tensors
    found = _found(_survey(saved(name)))
    assert found
    assert found == {tensor: expected[tensor] for tensor in found}


@pytest.mark.parametrize("name", sorted(table()))
def test_the_config_is_not_needed_for_roles_and_depths(name: str) -> None:
    given = _specimen(name)
    bare = {n: e for n, e in _found(survey(given.shapes, {})).items() if ".layers.3." not in n}
    expected = table()[name].tensors
    for tensor, found in bare.items():
        assert (found.role, found.bias) == (expected[tensor].role, expected[tensor].bias), tensor
        assert (found.layer, found.stack) == (expected[tensor].layer, expected[tensor].stack)


@pytest.mark.parametrize("name", sorted(table()))
def test_the_order_of_the_names_does_not_matter(name: str) -> None:
    given = _specimen(name)
    backwards = survey(dict(reversed(given.shapes.items())), given.config)
    assert backwards.places == _survey(given).places
    assert backwards.main == _survey(given).main

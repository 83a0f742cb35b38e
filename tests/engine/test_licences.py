"""Licences side by side: what agrees is carried, what is missing or does not fit is said."""

from __future__ import annotations

import pytest

from cermet.checkpoints.front_matter import FrontMatter
from cermet.checkpoints.origin import Origin
from cermet.engine.licences import Licences, compare_licences, terms_of


def _compared(*licences: str | tuple[str, ...] | None) -> Licences:
    """Of sources m0, m1, ...; None for a source that states nothing."""
    origins = []
    for i, given in enumerate(licences):
        names = (given,) if isinstance(given, str) else given or ()
        origins.append(Origin(f"m{i}", "model", None, None, (), FrontMatter(license=names)))
    return compare_licences(origins)


@pytest.mark.parametrize(
    ("license", "terms"),
    [
        ("mit", {"permissive"}),
        ("Apache-2.0", {"permissive"}),
        ("cc-by-4.0", {"permissive"}),
        ("cc0-1.0", {"permissive"}),
        ("gpl-3.0", {"share-alike"}),
        ("cc-by-sa-4.0", {"share-alike"}),
        ("cc-by-nc-4.0", {"non-commercial"}),
        ("cc-by-nc-sa-3.0", {"non-commercial", "share-alike"}),
        ("cc-by-nd-4.0", {"no-derivatives"}),
        ("cc-by-nc-nd-4.0", {"non-commercial", "no-derivatives"}),
        ("llama3.1", {"own terms"}),
        ("gemma", {"own terms"}),
        ("openrail", {"own terms"}),
        ("other", {"own terms"}),
        ("nobody-knows-this", {"own terms"}),
    ],
)
def test_what_a_licence_is_known_for(license: str, terms: set[str]) -> None:
    assert terms_of(license) == terms


def test_the_same_licence_is_carried() -> None:
    found = _compared("mit", "mit")
    assert found == Licences(("mit",), None, None, (), ())
    assert found.warnings() == []


def test_licences_that_differ_and_do_not_conflict_are_other() -> None:
    found = _compared("mit", "apache-2.0")
    assert (found.license, found.conflicts, found.warnings()) == (("other",), (), [])


def test_the_same_word_for_two_licences_is_not_the_same() -> None:
    cards = [FrontMatter(license=("other",), license_name=n, license_link="L") for n in ("a", "b")]
    origins = [Origin("m", "model", None, None, (), card) for card in cards]
    assert compare_licences(origins).license_name is None
    assert compare_licences(origins[:1] * 2).license_name == "a"


@pytest.mark.parametrize("unknown", [None, "unknown"])
def test_a_missing_licence_is_named_and_none_is_claimed(unknown: str | None) -> None:
    found = _compared("mit", unknown, "mit")
    assert (found.license, found.missing) == ((), ("m1",))
    (warning,) = found.warnings()
    assert "No licence is stated in a README.md of 'm1'" in warning


CONFLICTS = {
    ("cc-by-nc-4.0", "mit"): "excludes commercial use, which 'mit' (of 'm1') allows",
    ("apache-2.0", "cc-by-nc-sa-4.0"): "which 'apache-2.0' (of 'm0') allows",
    ("gpl-3.0", "cc-by-sa-4.0"): "'gpl-3.0' (of 'm0') asks that what is made of it keeps",
    ("llama3", "gpl-3.0"): "'gpl-3.0' (of 'm1') asks that what is made of it keeps its licence",
    ("cc-by-nc-4.0", "gpl-3.0"): "excludes commercial use, which 'gpl-3.0' (of 'm1') allows",
    ("cc-by-nc-sa-4.0", "cc-by-nc-4.0"): "'cc-by-nc-sa-4.0' (of 'm0') asks that",
    ("cc-by-nd-4.0",): "not known to allow that changed versions are shared",
}


@pytest.mark.parametrize("licences", CONFLICTS, ids="+".join)
def test_conflicts_are_said_with_both_sources(licences: tuple[str, ...]) -> None:
    found = _compared(*licences)
    assert len(found.conflicts) == 1
    assert CONFLICTS[licences] in found.conflicts[0]
    (warning,) = found.warnings()
    assert "does not give legal advice" in warning


@pytest.mark.parametrize(
    "licences",
    [("mit", "gpl-3.0"), ("llama3", "gemma"), ("cc-by-nc-4.0", "llama2"), ("gpl-3.0", "gpl-3.0"),
     (("mit", "apache-2.0"), "mit"), ()],
)  # fmt: skip
def test_what_is_no_conflict_by_its_name(licences: tuple[str, ...]) -> None:
    assert _compared(*licences).conflicts == ()

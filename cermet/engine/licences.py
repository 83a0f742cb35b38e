"""The licences of a merge's sources side by side: what they are, and where they do not fit.

The table tells what licences are commonly taken to ask for, by their names alone. It is no legal
advice: nothing here reads a licence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from cermet.checkpoints.origin import Origin

__all__ = ["Licences", "Terms", "compare_licences", "terms_of"]

Terms = Literal["permissive", "share-alike", "non-commercial", "no-derivatives", "own terms"]
"""What a licence is known for: own terms are those of one maker, to be read for themselves."""

_TABLE: dict[Terms, str] = {
    "permissive": "afl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause "
    "bsd-3-clause-clear bsl-1.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 ecl-2.0 "
    "etalab-2.0 isc mit ms-pl ncsa odc-by pddl postgresql unlicense wtfpl zlib",
    "share-alike": "agpl-3.0 cdla-sharing-1.0 epl-1.0 epl-2.0 eupl-1.1 eupl-1.2 gfdl gpl gpl-2.0 "
    "gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 lgpl-lr mpl-2.0 odbl ofl-1.1 osl-3.0",
    "non-commercial": "apple-amlr fair-noncommercial-research-license intel-research",
}
_KNOWN = {name: terms for terms, names in _TABLE.items() for name in names.split()}
_CREATIVE_COMMONS = re.compile(r"cc-by(-nc)?(-sa|-nd)?(-[0-9.]+)?")


@dataclass(frozen=True)
class Licences:
    """What can be said of the licences of several sources together.

    license, license_name, license_link: of the output, for its card; None where they say nothing.
    missing: sources whose licence is not known. conflicts: one sentence each.
    """

    license: tuple[str, ...]
    license_name: str | None
    license_link: str | None
    missing: tuple[str, ...]
    conflicts: tuple[str, ...]

    def warnings(self) -> list[str]:
        """What a user has to be told before a merge."""
        found = []
        if self.missing:
            named = ", ".join(f"'{name}'" for name in self.missing)
            found.append(
                f"No licence is stated in a README.md of {named}, so the card of the output states "
                "none either. Look it up before you share the output."
            )
        if self.conflicts:
            found.append(
                f"The licences of the sources may conflict: {'; '.join(self.conflicts)}. Cermet "
                "knows them by name only and does not give legal advice; read them before you use "
                "or share the output."
            )
        return found


def terms_of(license: str) -> frozenset[Terms]:
    """What a licence is known for, by its identifier on the hub."""
    name = license.lower()
    if name in _KNOWN:
        return frozenset({_KNOWN[name]})
    found = _CREATIVE_COMMONS.fullmatch(name)
    if found is None:
        return frozenset({"own terms"})
    terms: set[Terms] = set()
    if found[1]:
        terms.add("non-commercial")
    if found[2]:
        terms.add("share-alike" if found[2] == "-sa" else "no-derivatives")
    return frozenset(terms or {"permissive"})


def compare_licences(origins: Sequence[Origin]) -> Licences:
    """Put the licences of all sources beside each other."""
    missing = tuple(dict.fromkeys(o.name for o in origins if _unknown(o)))
    stated = {(o.card.license, o.card.license_name, o.card.license_link) for o in origins}
    license: tuple[str, ...] = ()
    name = link = None
    if origins and not missing:
        license = ("other",)
        if len(stated) == 1:
            ((license, name, link),) = stated
    return Licences(license, name, link, missing, tuple(_conflicts(origins)))


def _unknown(origin: Origin) -> bool:
    return not origin.card.license or origin.card.license == ("unknown",)


def _conflicts(origins: Sequence[Origin]) -> list[str]:
    """One sentence for each pair of licences that do not fit, with the first source of each."""
    first: dict[str, str] = {}
    for origin in origins:
        for license in origin.card.license:
            first.setdefault(license, origin.name)
    found = [
        f"{_called(name, first)} is not known to allow that changed versions are shared, and a "
        "merge is one"
        for name in first
        if "no-derivatives" in terms_of(name)
    ]
    for one, other in combinations(first, 2):
        sentence = _against(one, other, first) or _against(other, one, first)
        if sentence is not None:
            found.append(sentence)
    return found


def _against(one: str, other: str, first: dict[str, str]) -> str | None:
    """Where what the first licence asks for does not fit the other."""
    mine, theirs = terms_of(one), terms_of(other)
    if "non-commercial" in mine and not theirs & {"non-commercial", "own terms"}:
        return (
            f"{_called(one, first)} excludes commercial use, which {_called(other, first)} allows"
        )
    if "share-alike" in mine and theirs & {"share-alike", "non-commercial", "own terms"}:
        return (
            f"{_called(one, first)} asks that what is made of it keeps its licence, and "
            f"{_called(other, first)} has other terms"
        )
    return None


def _called(license: str, first: dict[str, str]) -> str:
    return f"'{license}' (of '{first[license]}')"

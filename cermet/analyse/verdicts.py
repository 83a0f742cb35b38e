"""What a comparison says in sentences: of form, tokens, ancestors and deltas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from cermet.analyse.comparison import Compared, Expert, Start
from cermet.analyse.likeness import ConfigDifference, TensorDifference
from cermet.analyse.products import Products
from cermet.analyse.relations import Group, Pair
from cermet.analyse.spaces import Space
from cermet.analyse.vocabulary import VocabularyDifference

__all__ = [
    "about_broken",
    "about_deltas",
    "about_form",
    "about_pairs",
    "about_tokens",
    "likelier_base",
    "refusal",
    "verdict_of",
]

_SHOWN = 3
_SIBLING = 0.35  # a mean cosine from which on another base is looked for
_SPREAD = 0.1  # below, two models are so near each other that an angle says nothing
_BETTER = 0.2  # how much closer to orthogonal it has to make the deltas


def about_form(
    models: Sequence[Compared],
    shared: int,
    differences: Sequence[TensorDifference],
    configs: Sequence[ConfigDifference],
) -> list[str]:
    """Whether the models have the same tensors and configs."""
    found = []
    if not differences:
        found.append(f"All {shared:,} tensors have the same names and shapes.")
    for model in models[1:]:
        own = [d for d in differences if d.model == model.path]
        if own:
            listed = ", ".join(map(_difference, own[:_SHOWN]))
            more = f" and {len(own) - _SHOWN:,} more" if len(own) > _SHOWN else ""
            found.append(
                f"{model.name} differs from {models[0].name} in {_tensors(len(own))}: "
                f"{listed}{more}; {shared:,} are the same in form."
            )
    known = [d for d in configs if d.everywhere]
    if known:
        listed = "; ".join(
            f"{d.key}: {', '.join(str(v)[:40] for v in d.values)}" for d in known[: 2 * _SHOWN]
        )
        found.append(f"The configs differ in {listed}.")
    some = [d.key for d in configs if not d.everywhere]
    if some:
        more = f" and {len(some) - 5} more" if len(some) > 5 else ""
        found.append(f"Not every config has {', '.join(some[:5])}{more}.")
    return found


def _tensors(count: int) -> str:
    return f"{count:,} tensor" + ("s" if count != 1 else "")


def _difference(found: TensorDifference) -> str:
    if found.shape is None:
        return f"{found.tensor} is missing"
    if found.base_shape is None:
        return f"{found.tensor} is one more"
    return f"{found.tensor} is {_shape(found.shape)} and not {_shape(found.base_shape)}"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def about_tokens(base: str, vocabularies: Sequence[VocabularyDifference]) -> list[str]:
    """Whether the models read text by the same tokens."""
    if vocabularies and all(v.same for v in vocabularies):
        return ["The tokenizers give every token the same id."]
    if vocabularies and all(v.same is None for v in vocabularies):
        return [f"The tokenizers were not compared: {vocabularies[0].problem}."]
    found = []
    for v in vocabularies:
        if v.same is None:
            found.append(f"The tokenizer of {v.model} was not compared: {v.problem}.")
        elif not v.same:
            first = v.differences[0]
            found.append(
                f"The tokenizer of {v.model} differs from that of {base}: {v.shared:,} tokens have "
                f"the same id; {v.moved:,} moved, {v.only_base:,} missing, {v.only_model:,} new; "
                f"first at id {first.id}: {_token(first.first)} became {_token(first.second)}."
            )
    return found


def _token(text: str | None) -> str:
    return "nothing" if text is None else repr(text)


def about_pairs(pairs: Sequence[Pair], starts: Sequence[Start]) -> list[str]:
    """Whether the models come from one ancestor, and which of them it may be."""
    near = [p.cosine if p.matrices is None else p.matrices for p in pairs]
    if len(pairs) > 1 and all(p.relation == "same ancestor" for p in pairs):
        return [
            "All come from one ancestor: the cosine of their attention and MLP matrices is at "
            f"least {_floor(min(near))} for each two of them (median over the matrices).",
            *_about_starts(pairs, starts),
        ]
    found = []
    for pair in pairs:
        both = f"{pair.first} and {pair.second}"
        if pair.relation == "equal":
            found.append(f"{both} have equal weights in all {_tensors(pair.tensors)} they share.")
            continue
        cosine = pair.cosine if pair.matrices is None else pair.matrices
        of = "weights" if pair.matrices is None else "attention and MLP matrices"
        told = f"the cosine of their {of} is {_floor(cosine)}"
        if pair.least is not None:
            told += f" (median; {_floor(pair.least)} at least)"
        same = f", {pair.equal:,} of {_tensors(pair.tensors)} are equal" if pair.equal else ""
        found.append(f"{both}: {pair.relation}; {told}{same}.")
    return found + _about_starts(pairs, starts)


def _floor(cosine: float) -> str:
    """Four digits, cut and not rounded: what is not 1 does not become it."""
    return f"{math.floor(cosine * 1e4) / 1e4:.4f}"


def likelier_base(pairs: Sequence[Pair], starts: Sequence[Start]) -> Start | None:
    """A model that looks more like the base than the one that was taken."""
    if not starts or any(p.relation in ("equal", "unrelated") for p in pairs):
        return None
    alike = [start for start in starts if start.spread >= _SPREAD]
    taken, best = starts[0], min(alike, key=lambda s: abs(s.cosine), default=starts[0])
    better = taken.cosine >= _SIBLING and abs(best.cosine) <= taken.cosine - _BETTER
    return best if better else None


def _about_starts(pairs: Sequence[Pair], starts: Sequence[Start]) -> list[str]:
    best = likelier_base(pairs, starts)
    if best is None:
        return []
    taken = starts[0]
    return [
        f"{best.model} looks more like the base: seen from it the others' deltas have the cosine "
        f"{round(best.cosine, 2) + 0.0:.2f}, seen from {taken.model} {taken.cosine:.2f} (three "
        "siblings have 0.5)."
    ]


def about_deltas(
    experts: Sequence[Expert], roles: Sequence[Group], spaces: Sequence[Space]
) -> list[str]:
    """What stands out in the deltas."""
    told = []
    for i, expert in enumerate(experts):
        still = [g.name for g in roles if g.norms[i] == 0]
        if still and expert.norm > 0:
            told.append(f"{expert.model} leaves as they are: {', '.join(still)}.")
        if expert.rank is not None and spaces and _low(expert.rank, spaces):
            told.append(
                f"The delta of {expert.model} has rank {expert.rank} or less in "
                f"{_matrices(spaces)}, as a LoRA adapter that was merged in has."
            )
    return told


def about_broken(names: Sequence[str], found: Mapping[str, Products]) -> list[str]:
    """Which models hold what is no number, a sentence for each."""
    told = []
    for i, model in enumerate(names):
        bad = [name for name, products in found.items() if products.broken[i]]
        if bad:
            more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
            told.append(f"{model} holds NaN or infinity in {', '.join(bad[:_SHOWN])}{more}.")
    return told


def _low(rank: int, spaces: Sequence[Space]) -> bool:
    """Whether a rank is far below that of every matrix that was looked at."""
    return 4 * rank <= min(min(space.shape) for space in spaces)


def _matrices(spaces: Sequence[Space]) -> str:
    return f"all {len(spaces)} matrices looked at" if len(spaces) > 1 else "the matrix looked at"


def verdict_of(shared: int, pairs: Sequence[Pair]) -> str:
    """One word for the weights: that of the pair that is furthest apart."""
    if not shared:
        return "unlike"
    order = ("unrelated", "far apart", "same ancestor", "equal")
    return min((pair.relation for pair in pairs), key=order.index)


def refusal(
    verdict: str, pairs: Sequence[Pair], planned: str | None, broken: Sequence[str]
) -> str | None:
    """Why no method applies, if none does.

    `planned`: what stops a plan of their average. `broken`: sentences on what is no number.
    """
    stopped = planned or next(iter(broken), None)
    if stopped is not None:
        return stopped.rstrip(".")
    if verdict == "equal":
        return "the weights are equal, so there is nothing to combine"
    far = next((p for p in pairs if p.relation == "unrelated"), None)
    if far is not None:
        cosine = far.cosine if far.matrices is None else far.matrices
        return (
            f"{far.first} and {far.second} share no ancestor (cosine {cosine:.3f}), so what lies "
            "between their weights is no model"
        )
    return None

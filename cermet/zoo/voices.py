"""The pool `voices`: small decoders, each of which has learnt to write one kind of text."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from posixpath import normpath
from typing import Any

from cermet.zoo import decoder
from cermet.zoo.cards import Card, model_card
from cermet.zoo.catalogue import Entry, Wanted
from cermet.zoo.decoder import Batch, Shape
from cermet.zoo.installed import DATA, DOMAINS, technical
from cermet.zoo.lora import Rank, ask_for_peft, save_adapter, with_adapter
from cermet.zoo.published import found_in
from cermet.zoo.steps import Blueprint, Step, Tick
from cermet.zoo.texts import Amounts, Part, Source, divide
from cermet.zoo.tokens import Tokens, learnt_tokens
from cermet.zoo.train import THREADS, Course

__all__ = ["ENTRY", "OWN", "Domain", "Settings", "blueprint", "domains"]

OWN = "technical"
"""The domain of the base: a task that no expert is tuned for."""

_TEXTS = 1  # to be raised when the texts of a seed change
_BASE = "base"
_SECOND = 7919  # what the seed of the second base is further than the first one's


@dataclass(frozen=True)
class Settings:
    """All that decides the pool but for seed and data.

    shape: of base and experts; small, large: of the extra sizes. vocabulary: tokens. length: of a
    block, in tokens. base, expert, multi_task, adapter: how each is trained; weak: the base of the
    extra `weak-base`, from the same weights on the first quarter of the same batches. own:
    characters of the base's training text, where others have `amounts.train`.
    """

    shape: Shape = field(default=Shape(width=160, layers=4, heads=5, inner=432))
    small: Shape = field(default=Shape(width=96, layers=3, heads=3, inner=256))
    large: Shape = field(default=Shape(width=256, layers=5, heads=8, inner=688))
    vocabulary: int = 512
    length: int = 256
    own: int = 1_300_000
    amounts: Amounts = field(default=Amounts(600_000))
    base: Course = field(default=decoder.course(steps=600, batch=4, rate=4e-3))
    weak: Course = field(default=decoder.course(steps=150, batch=4, rate=4e-3))
    expert: Course = field(default=decoder.course(steps=280, batch=4, rate=2e-3))
    multi_task: Course = field(default=decoder.course(steps=600, batch=4, rate=2e-3))
    adapter: Course = field(default=decoder.course(steps=280, batch=4, rate=1e-2))
    rank: Rank = field(default=Rank())


@dataclass(frozen=True)
class Domain:
    """A kind of text: its documents, what tells one state of them from another, and the data."""

    name: str
    source: Source
    stands: Mapping[str, Any]
    data: str

    def texts(self, seed: int, amounts: Amounts) -> Mapping[Part, tuple[str, ...]]:
        """The pieces of each split."""
        return _texts(self.source, seed, amounts)


@cache
def _texts(source: Source, seed: int, amounts: Amounts) -> Mapping[Part, tuple[str, ...]]:
    return divide(source(seed), amounts)


def _installed(name: str, source: Source) -> Domain:
    stands = {"python": platform.python_version(), "texts": _TEXTS}
    return Domain(name, source, stands, DATA[source])


def _own() -> Domain:
    return _installed(OWN, technical)


def domains(data: Path | None) -> tuple[Domain, ...]:
    """The domains of experts: those of the installation, and those that `data` holds."""
    found = [_installed(name, source) for name, source in DOMAINS.items()]
    if data is not None:
        found += [
            Domain(name, one.source(data), {"digest": one.digest(data), "texts": _TEXTS}, one.data)
            for name, one in found_in(data).items()
        ]
    return tuple(found)


@dataclass(frozen=True)
class Family:
    """A base and what is tuned from it, in one folder below the pool's.

    place: that folder, empty or ending in a slash. seed: of the texts; start: of weights and order.
    base: the way from that folder to what the experts are tuned from, its own or another family's.
    """

    place: str
    shape: Shape
    settings: Settings
    domains: tuple[Domain, ...]
    seed: int
    start: int
    base: str = _BASE

    def steps(self) -> Iterator[Step]:
        """The base, its experts, and the model tuned on all domains; with a base of another family
        the experts alone.
        """
        if not self._rooted:
            yield from self._experts()
            return
        yield self._step(_BASE, self._base, [_own()], self.settings.base)
        yield from self._experts()
        every = (_own(), *self.domains)
        make = partial(self._tuned, of=every, course=self.settings.multi_task)
        yield self._step("multi_task", make, every, self.settings.multi_task)

    def _experts(self) -> Iterator[Step]:
        for domain in self.domains:
            make = partial(self._tuned, of=(domain,), course=self.settings.expert)
            yield self._step(f"experts/{domain.name}", make, [domain], self.settings.expert)

    def adapters(self, asked: bool) -> Iterator[Step]:
        """A LoRA adapter of the base for each domain."""
        for domain in self.domains:
            make, course = partial(self._adapter, domain=domain), self.settings.adapter
            step = self._step(f"adapters/{domain.name}", make, [domain], course, "peft")
            yield replace(step, asked=asked)

    def pool(self, tasks: str, adapters: bool) -> Mapping[str, Any]:
        """What its pool.yaml holds. tasks: the way to the folder of tasks."""
        names = [domain.name for domain in self.domains]
        return {
            "cermet_pool": 1,
            "name": "-".join(["voices", *self.place.split("/")]).rstrip("-"),
            "base": self.base,
            "experts": {name: f"experts/{name}" for name in names},
            **({"adapters": {name: f"adapters/{name}" for name in names}} if adapters else {}),
            **({"multi_task": "multi_task"} if self._rooted else {}),
            "tasks": {
                name: {
                    "kind": "likelihood",
                    "validation": f"{tasks}/{name}.validation.jsonl",
                    "test": f"{tasks}/{name}.test.jsonl",
                }
                for name in (*names, OWN)
            },
        }

    def _step(
        self, name: str, make: Any, of: Sequence[Domain], course: Course,
        library: str = "transformers",
    ) -> Step:  # fmt: skip
        held = self.settings
        stands = {
            "seed": self.seed,
            "start": self.start,
            "threads": THREADS,
            "shape": asdict(self.shape),
            "vocabulary": held.vocabulary,
            "length": held.length,
            "own": held.own,
            "amounts": asdict(held.amounts),
            "course": course.plain(),
            "rank": asdict(held.rank) if name.startswith("adapters/") else None,
            "domains": {domain.name: domain.stands for domain in of},
        }
        after = () if name == _BASE else (self._origin,)
        names = ", ".join(domain.name for domain in of)
        learnt = names if self._rooted else f"all domains, and then on: {names}"
        card = model_card(
            f"A small decoder of Cermet's pool `voices`, trained on: {learnt}.",
            [domain.data for domain in (_own(), *(of if self._rooted else self.domains))],
            library_name=library,
        )
        return Step(f"{self.place}{name}", stands, make, after, f"{self.place}{name}", card)

    @property
    def _rooted(self) -> bool:
        """Whether its base is its own."""
        return self.base == _BASE

    @property
    def _origin(self) -> str:
        """The step that makes what the experts are tuned from."""
        return normpath(f"{self.place}{self.base}")

    def texts(self, domain: Domain) -> Mapping[Part, tuple[str, ...]]:
        """The texts of each split; of the base's own domain there is more to learn from."""
        amounts = self.settings.amounts
        if domain.name == OWN:
            amounts = replace(amounts, train=self.settings.own)
        return domain.texts(self.seed, amounts)

    def _batches(self, tokens: Tokens, texts: list[str], course: Course) -> Iterator[Batch]:
        return decoder.blocks(tokens.encode(texts), self.settings.length, course.batch, self.start)

    def _base(self, new: Path, root: Path, tick: Tick) -> None:
        texts = list(self.texts(_own())["train"])
        tokens = learnt_tokens(texts, self.settings.vocabulary)
        model = decoder.make(self.shape, tokens, self.start)
        decoder.tune(
            model, self._batches(tokens, texts, self.settings.base), self.settings.base, tick
        )
        decoder.save(model, tokens, new)

    def _tuned(
        self, new: Path, root: Path, tick: Tick, *, of: tuple[Domain, ...], course: Course
    ) -> None:
        base = root / self._origin
        tokens, model = Tokens.load(base), decoder.load(base)
        texts = [text for domain in of for text in self._share(domain)]
        decoder.tune(model, self._batches(tokens, texts, course), course, tick)
        decoder.save(model, tokens, new)

    def _share(self, domain: Domain) -> tuple[str, ...]:
        """The training text of a domain beside others: of the base's, no more than of theirs."""
        texts = self.texts(domain)["train"]
        if domain.name == OWN:
            texts = texts[: -(-len(texts) * self.settings.amounts.train // self.settings.own)]
        return texts

    def _adapter(self, new: Path, root: Path, tick: Tick, *, domain: Domain) -> None:
        base = root / self._origin
        tokens, course = Tokens.load(base), self.settings.adapter
        tuned = with_adapter(decoder.load(base), self.settings.rank, self.start)
        batches = self._batches(tokens, list(self.texts(domain)["train"]), course)
        decoder.tune(tuned, batches, course, tick)
        save_adapter(tuned, new)


def blueprint(wanted: Wanted, settings: Settings | None = None) -> Blueprint:
    """The steps of the pool of a seed.

    Raises InputError where the folder of data holds nothing, and ExtraError where adapters need
    peft.
    """
    chosen = settings or Settings()
    found = domains(wanted.data)
    first = Family("", chosen.shape, chosen, found, wanted.seed, wanted.seed)
    adapters = "adapters" in wanted.extras
    if adapters:
        ask_for_peft()
    steps = [_tasks(first), *first.steps(), *first.adapters(adapters)]
    more = [one for name, some in _further(first).items() if name in wanted.extras for one in some]
    for family in more:
        steps += family.steps()
    pools = {
        f"{one.place}pool.yaml": one.pool(
            "../" * one.place.count("/") + "tasks", adapters=one is first
        )
        for one in (first, *more)
    }
    return Blueprint(steps, pools)


def _further(first: Family) -> Mapping[str, tuple[Family, ...]]:
    """What each extra adds to the first family."""
    held = first.settings
    return {
        "sizes": (
            replace(first, place="sizes/small/", shape=held.small),
            replace(first, place="sizes/large/", shape=held.large),
        ),
        "second-base": (replace(first, place="second/", start=first.start + _SECOND),),
        "weak-base": (replace(first, place="weak/", settings=replace(held, base=held.weak)),),
        # The tuned model is the one that can do everything, every domain included, as a model that
        # was tuned to follow instructions has seen some of whatever it is tuned on next.
        "direct": (replace(first, place="direct/", base="../multi_task"),),
    }


def _tasks(family: Family) -> Step:
    """The held-out texts of each domain, as JSON lines."""
    every = (*family.domains, _own())

    def make(new: Path, root: Path, tick: Tick) -> None:
        for number, domain in enumerate(every, start=1):
            found = family.texts(domain)
            parts: tuple[Part, ...] = ("validation", "test")
            for part in parts:
                rows = "".join(
                    json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in found[part]
                )
                (new / f"{domain.name}.{part}.jsonl").write_text(rows, "utf-8")
            tick(number, len(every))

    stands = {
        "seed": family.seed,
        "own": family.settings.own,
        "amounts": asdict(family.settings.amounts),
        "domains": {domain.name: domain.stands for domain in every},
    }
    about = "The tasks of Cermet's pool `voices`: held-out pieces of texts."
    card = Card(about, [domain.data for domain in every])
    return Step("tasks", stands, make, (), "tasks", card)


ENTRY = Entry(
    "voices",
    "Small decoders of 1.3 M parameters and experts that each write one kind of text, in bits per "
    "character.",
    megabytes=32,
    minutes=5,
    blueprint=blueprint,
    extras={
        "adapters": "a LoRA adapter of rank 8 beside each expert.",
        "sizes": "the same pool in two further sizes, in sizes/small and sizes/large.",
        "second-base": "a second base from another seed with its own experts, in second.",
        "weak-base": "a base trained for a quarter of the steps with its own experts, in weak.",
        "direct": "the model tuned on all domains, tuned further on each of them, in direct.",
    },
    data="gsm8k/train.jsonl and gsm8k/test.jsonl, clinc150/data_full.json, or one of the two",
)

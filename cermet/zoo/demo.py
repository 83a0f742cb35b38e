"""The pool `demo`: the small form of `intents` that needs no data, four domains of templates."""

from __future__ import annotations

from collections.abc import Sequence

from cermet.zoo.cards import GENERATED
from cermet.zoo.catalogue import Entry, Wanted
from cermet.zoo.encoders import Encoders
from cermet.zoo.steps import Blueprint
from cermet.zoo.subjects import Subject
from cermet.zoo.templates import DOMAINS, domain
from cermet.zoo.train import Course
from cermet.zoo.utterances import utterances

__all__ = ["ENTRY", "demo_pool", "generated_subjects"]

_COURSE = Course(batch=32, rate=1e-4, epochs=3, pull=0.01)


def generated_subjects(
    seed: int, names: Sequence[str] = DOMAINS, per_intent: int | None = None
) -> list[Subject]:
    """The domains of that name, with `per_intent` texts of each intent in every split."""
    return [
        Subject(
            name,
            tuple(intent.example for intent in domain(name).intents),
            tuple(utterances(name, "train", seed, per_intent)),
            tuple(utterances(name, "validation", seed, per_intent)),
            tuple(utterances(name, "test", seed, per_intent)),
        )
        for name in names
    ]


def demo_pool(seed: int, subjects: Sequence[Subject], course: Course | None = None) -> Encoders:
    """The pool of some subjects, as the demo tunes it."""
    return Encoders("demo", subjects, GENERATED, seed, course or _COURSE)


def _blueprint(wanted: Wanted) -> Blueprint:
    return demo_pool(wanted.seed, generated_subjects(wanted.seed)).blueprint()


ENTRY = Entry(
    name="demo",
    about="MiniLM (22 M parameters) tuned for four domains of requests made from templates.",
    megabytes=460,
    minutes=2,
    blueprint=_blueprint,
)

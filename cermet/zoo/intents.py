"""The pool `intents`: a pretrained encoder, and an expert for each domain of CLINC150."""

from __future__ import annotations

from dataclasses import replace

from cermet.zoo.cards import BANKING77, CLINC150
from cermet.zoo.catalogue import Entry, Wanted
from cermet.zoo.clinc import WANTED, clinc_subjects
from cermet.zoo.encoders import Encoders
from cermet.zoo.lora import Rank
from cermet.zoo.steps import Blueprint
from cermet.zoo.train import Course

__all__ = ["ENTRY"]

_COURSE = Course(batch=32, rate=1e-4, epochs=2, pull=0.0)
_RANK = Rank()
_ADAPTER = replace(_COURSE, rate=1e-3)  # factors that begin at 0 have further to go


def _blueprint(wanted: Wanted) -> Blueprint:
    assert wanted.data is not None  # the entry asks for it
    return Encoders(
        "intents",
        clinc_subjects(wanted.data, wanted.seed),
        CLINC150,
        wanted.seed,
        _COURSE,
        multi_task=True,
        adapters=(_ADAPTER, _RANK),
        asked="adapters" in wanted.extras,
        measured=[BANKING77],
    ).blueprint()


ENTRY = Entry(
    name="intents",
    about="MiniLM (22 M parameters) tuned for ten domains of CLINC150, measured on BANKING77 too.",
    megabytes=1090,
    minutes=12,
    blueprint=_blueprint,
    extras={"adapters": f"LoRA experts of rank {_RANK.rank} for the ten domains."},
    data=WANTED,
    data_required=True,
)

"""Which module every tensor belongs to, in many families and spellings."""

from __future__ import annotations

from collections import Counter

import pytest

from cermet.anatomy import Modules, find_modules, survey
from tests.anatomy.families import CLASSES, RELEASED, Specimen, released, saved, specimen

TEXT, EYES, PROJECTOR = "text_decoder", "vision_tower", "multi_modal_projector"

# Numbers of tensors as saved, counted by hand from expected/*.yaml.
EXPECTED = {
    "llava": {TEXT: 30, PROJECTOR: 4, EYES: 39},
    "paligemma": {TEXT: 29, PROJECTOR: 2, EYES: 37},
    "gemma3": {TEXT: 41, PROJECTOR: 2, EYES: 37},
    "idefics3": {TEXT: 30, PROJECTOR: 1, EYES: 37},
    "qwen2_vl": {TEXT: 39, EYES: 25, PROJECTOR: 6},
    "internvl": {TEXT: 38, PROJECTOR: 6, EYES: 34},
    "blip2": {TEXT: 52, PROJECTOR: 73, EYES: 30},
    "mllama": {TEXT: 34, PROJECTOR: 2, EYES: 51},
    "clip": {"text_encoder": 53, PROJECTOR: 2, EYES: 39},
    "siglip": {"text_encoder": 56, EYES: 48},
    "whisper": {"decoder": 76, "encoder": 37},
    "t5": {"decoder": 42, "encoder": 26},
    "bart": {"decoder": 83, "encoder": 35},
}


def _modules(found: Specimen) -> Modules:
    return find_modules(survey(found.shapes, found.config))


def _shaped(*names: str) -> Modules:
    return find_modules(survey(dict.fromkeys(names, (4, 4)), {}))


def _layers(prefix: str, count: int = 2) -> list[str]:
    inner = ("self_attn.q_proj.weight", "mlp.up_proj.weight")
    return [f"{prefix}.{i}.{name}" for i in range(count) for name in inner]


@pytest.mark.parametrize("family", EXPECTED)
def test_modules_of_a_family(family: str) -> None:
    assert dict(Counter(_modules(saved(family)).of.values())) == EXPECTED[family]
    assert set(_modules(specimen(family)).names) == set(EXPECTED[family])
    if family in RELEASED:
        assert dict(Counter(_modules(released(family)).of.values())) == EXPECTED[family]


def test_every_other_family_is_one_module() -> None:
    families = [f for f in CLASSES if f not in EXPECTED and f != "t5_v1_1"]
    assert {f: _modules(saved(f)).names for f in families} == dict.fromkeys(families, ("default",))


def test_a_tower_has_its_stack_and_the_language_part_the_main_one() -> None:
    modules = _modules(saved("llava"))
    assert modules.main == TEXT
    assert modules.stacks == {
        TEXT: ("language_model.model.layers",),
        EYES: ("vision_tower.encoder.layers",),
    }


def test_what_stands_alone_goes_to_the_projector() -> None:
    """LLaVA-Next's newline, and InternVL's projector, whose name says nothing."""
    names = [*_layers("language_model.model.layers"), *_layers("vision_model.encoder.layers")]
    modules = _shaped(*names, "image_newline", "mlp1.1.weight", "language_model.model.norm.weight")
    assert modules.of["image_newline"] == PROJECTOR
    assert modules.of["mlp1.1.weight"] == PROJECTOR
    assert modules.of["language_model.model.norm.weight"] == TEXT


def test_audio_and_what_layers_hold_for_images() -> None:
    inner = "model.layers.0.mlp.vision_mlp.gate_proj.weight"
    modules = _shaped(*_layers("audio_tower.layers"), *_layers("model.layers"), inner)
    assert modules.of["audio_tower.layers.0.mlp.up_proj.weight"] == "audio_tower"
    assert modules.of[inner] == "vision_experts"


def test_another_stack_is_a_module_under_its_own_name() -> None:
    modules = _shaped(*_layers("model.layers", 3), *_layers("mtp.layers", 1), "mtp.norm.weight")
    assert modules.of["mtp.norm.weight"] == "mtp"
    assert modules.main == "default"


@pytest.mark.parametrize(
    ("family", "name", "module"),
    [
        ("llava", "language_model", TEXT),
        ("llava", "projector", PROJECTOR),
        ("llava", "default", None),
        ("llama", "text_decoder", "default"),
        ("llama", "vision_tower", None),
        ("whisper", "encoder", "encoder"),
    ],
)
def test_names_that_recipes_may_use(family: str, name: str, module: str | None) -> None:
    assert _modules(saved(family)).named(name) == module


def test_a_model_of_one_module_has_no_senses() -> None:
    assert _modules(saved("llava")).senses
    assert not _modules(saved("vit")).senses
    assert not _modules(saved("whisper")).senses

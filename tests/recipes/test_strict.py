"""What a recipe gets wrong is said in one sentence, with the line and the nearest spelling."""

from __future__ import annotations

from pathlib import Path

import pytest

from cermet import api
from cermet.core.errors import CermetError, InputError, MethodError, MismatchError, RecipeError
from tests.recipes.pools import save_llama, write_recipe

_GOOD = """\
merge_method: ties
base_model: $a
models:
  - model: $b
    parameters:
      weight: 0.5
  - model: $c
    parameters:
      weight: [0.5, 1.0]
parameters:
  normalize: true
dtype: float32
"""


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("pool")
    found = {name: save_llama(root / name, i) for i, name in enumerate("abc")}
    return {**found, "long": save_llama(root / "long", 9, layers=3)}


def _refused(tmp_path: Path, names: dict[str, str], text: str) -> tuple[CermetError, str]:
    """The error that a recipe ends in, and its message without the folder of the file."""
    path = write_recipe(tmp_path, text, **names)
    with pytest.raises(CermetError) as caught:
        api.plan(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith((".", "?"))
    return caught.value, message.replace(f"{tmp_path}/", "")


_Case = tuple[str, str, type[CermetError], str]
_CASES: dict[str, _Case] = {
    "key at the top": (
        "dtype:",
        "dtyp:",
        RecipeError,
        "recipe.yaml:12: unknown key 'dtyp'. Did you mean 'dtype'?",
    ),
    "key of a model": (
        "  - model: $b\n    parameters:",
        "  - model: $b\n    paramters:",
        RecipeError,
        "recipe.yaml:5: unknown key 'paramters'. Did you mean 'parameters'?",
    ),
    "key like no other": (
        "dtype:",
        "colour:",
        RecipeError,
        "recipe.yaml:12: unknown key 'colour'.",
    ),
    "parameter of a model": (
        "      weight: 0.5",
        "      wieght: 0.5",
        RecipeError,
        "recipe.yaml:6: 'ties' takes no 'wieght'",
    ),
    "its nearest spelling": (
        "      weight: 0.5",
        "      wieght: 0.5",
        RecipeError,
        "Did you mean 'weight'?",
    ),
    "parameter of the recipe": (
        "  normalize: true",
        "  normalise: true",
        RecipeError,
        "recipe.yaml:11: 'ties' takes no 'normalise'",
    ),
    "parameter of another method": (
        "  normalize: true",
        "  gamma: 0.1",
        RecipeError,
        "recipe.yaml:11: 'ties' takes no 'gamma'",
    ),
    "once only, given per model": (
        "      weight: 0.5",
        "      weight: 0.5\n      normalize: true",
        RecipeError,
        "recipe.yaml:7: 'ties' takes 'normalize' once for all models; move it",
    ),
    "method": (
        "merge_method: ties",
        "merge_method: tise",
        MethodError,
        "recipe.yaml:1: There is no method 'tise'. Did you mean 'ties'?",
    ),
    "method missing": ("merge_method: ties", "{}", RecipeError, "recipe.yaml"),
    "filter of nothing": (
        "      weight: 0.5",
        "      weight:\n        - {filter: mlp, value: 1}\n        - {filter: atn, value: 1}\n"
        "        - {value: 0.5}",
        RecipeError,
        "recipe.yaml:8: the filter 'atn' matches no tensor.",
    ),
    "filter of nothing in a filter": (
        "      weight: 0.5",
        "      weight:\n        - filter: mlp\n          value:\n"
        "            - {filter: dwon, value: 1}\n            - {value: 2}\n"
        "        - {value: 0.5}",
        RecipeError,
        "the filter 'dwon' matches no tensor.",
    ),
    "filter that is a number": (
        "      weight: 0.5",
        "      weight: [{value: 1}, {filter: 3, value: 1}]",
        RecipeError,
        "a filter is a text.",
    ),
    "case without a value": (
        "      weight: 0.5",
        "      weight: [{filter: mlp}]",
        RecipeError,
        "a filtered value is written {filter: part of a name, value: ...}.",
    ),
    "number and case mixed": (
        "[0.5, 1.0]",
        "[0.5, {filter: mlp, value: 1}]",
        RecipeError,
        "recipe.yaml:9: a filtered value is written",
    ),
    "word for a number": (
        "      weight: 0.5",
        "      weight: half",
        RecipeError,
        "recipe.yaml:6: 'weight' takes a number, not 'half'.",
    ),
    "number for a truth value": (
        "normalize: true",
        "normalize: 0.5",
        RecipeError,
        "recipe.yaml:11: 'normalize' takes true or false, not 0.5.",
    ),
    "density out of range": (
        "  normalize: true",
        "  density: 1.5",
        RecipeError,
        "recipe.yaml:11: 'density' must be at least 0 and at most 1, not 1.5.",
    ),
    "layer_range of a model": (
        "  - model: $b",
        "  - layer_range: [0, 1]\n    model: $b",
        RecipeError,
        "layer_range belongs to the sources of 'slices'",
    ),
    "models and slices": (
        "dtype: float32",
        "slices: [{sources: [{model: $b, layer_range: [0, 1]}]}]",
        RecipeError,
        "exactly one of 'models', 'slices' and 'modules'",
    ),
    "no models": ("models:", "mdels:", RecipeError, "unknown key 'mdels'. Did you mean 'models'?"),
    "no base": ("base_model: $a\n", "", RecipeError, "recipe.yaml:2: 'ties' needs a base_model."),
    "modules": (
        "dtype: float32",
        "modules: {}",
        RecipeError,
        "recipe.yaml:12: modules: dictionary should have at least 1 item",
    ),
    "tokenizer twice": (
        "dtype: float32",
        "tokenizer_source: base\ntokenizer: {source: union}",
        RecipeError,
        "recipe.yaml:13: a recipe has 'tokenizer_source' or 'tokenizer', not both.",
    ),
    "unknown key of the tokenizer": (
        "dtype: float32",
        "tokenizer: {sorce: union}",
        RecipeError,
        "recipe.yaml:12: unknown key 'sorce'. Did you mean 'source'?",
    ),
    "unknown key of a token": (
        "dtype: float32",
        "tokenizer:\n  tokens:\n    <x>: {forse: true}",
        RecipeError,
        "recipe.yaml:14: unknown key 'forse'. Did you mean 'force'?",
    ),
    "unknown key of a token's source": (
        "dtype: float32",
        "tokenizer: {tokens: {x: {source: {kind: model_token, modle: $b, token_id: 1}}}}",
        RecipeError,
        "unknown key 'modle'. Did you mean 'model'?",
    ),
    "kind of a token's source": (
        "dtype: float32",
        "tokenizer: {tokens: {x: {source: {kind: zeros}}}}",
        RecipeError,
        "tokenizer.tokens.x.source.kind: input should be 'model', 'model_token' or 'zero'.",
    ),
    "two rows for a token": (
        "dtype: float32",
        "tokenizer: {tokens: {x: {source: {kind: model_token, model: $b, token_id: 1, token: y}}}}",
        RecipeError,
        "a token of kind model_token has either token or token_id",
    ),
    "force without a source": (
        "dtype: float32",
        "tokenizer: {tokens: {x: {force: true}}}",
        RecipeError,
        "'force' needs a 'source' that says which row is forced",
    ),
    "padding to nothing": (
        "dtype: float32",
        "tokenizer: {pad_to_multiple_of: 0}",
        RecipeError,
        "recipe.yaml:12: tokenizer.pad_to_multiple_of: input should be greater than or equal to 1",
    ),
    "union of models without tokenizers": (
        "dtype: float32",
        "tokenizer_source: union",
        RecipeError,
        "holds no tokenizer.",
    ),
    "tokenizer that is not here": (
        "dtype: float32",
        "tokenizer_source: nowhere",
        RecipeError,
        "recipe.yaml:12: There is no folder 'nowhere'.",
    ),
    "tokenizer of a model without one": (
        "dtype: float32",
        "tokenizer_source: $b",
        RecipeError,
        "holds no tokenizer.",
    ),
    "chat template": (
        "dtype: float32",
        "chat_template: vicunna",
        RecipeError,
        "recipe.yaml:12: 'vicunna' is not a chat template. Known: auto, chatml",
    ),
    "model that is not here": (
        "model: $b",
        "model: nowhere",
        InputError,
        "There is no folder 'nowhere'.",
    ),
    "revision of a folder": (
        "model: $b",
        "model: $b@main",
        InputError,
        "is a local folder, so '@main' has no meaning.",
    ),
    "other depth": ("model: $b", "model: $long", MismatchError, "has 3 layers,"),
    "negative seed": ("dtype: float32", "seed: -1", RecipeError, "recipe.yaml:12: seed:"),
}


@pytest.mark.parametrize("case", _CASES)
def test_refused(case: str, names: dict[str, str], tmp_path: Path) -> None:
    old, new, kind, words = _CASES[case]
    assert old in _GOOD
    error, message = _refused(tmp_path, names, _GOOD.replace(old, new, 1))
    assert type(error) is kind
    assert words in message


def test_the_recipe_that_is_spoilt_is_good(names: dict[str, str], tmp_path: Path) -> None:
    assert api.plan(write_recipe(tmp_path, _GOOD, **names)).warnings == ()


@pytest.mark.parametrize(
    ("method", "models", "words"),
    [
        ("slerp", "[{model: $b}, {model: $c}]", "'slerp' takes 1 model beside its base, not 2"),
        ("slerp", "[{model: $a}]", "'slerp' takes 1 model beside its base, not 0"),
        ("nearswap", "[{model: $b}, {model: $c}]", "takes 1 model beside its base, not 2"),
        ("passthrough", "[{model: $b}]", "'passthrough' takes 1 model, not 2"),
    ],
)
def test_a_wrong_number_of_models_is_refused(
    method: str, models: str, words: str, names: dict[str, str], tmp_path: Path
) -> None:
    text = f"merge_method: {method}\nbase_model: $a\nmodels: {models}\nparameters: {{t: 0.5}}\n"
    text = text.replace("parameters: {t: 0.5}\n", "") if method == "passthrough" else text
    error, message = _refused(tmp_path, names, text)
    assert type(error) is RecipeError
    assert words in message


@pytest.mark.parametrize(
    ("epsilon", "words"), [(1.35, "'epsilon' must be at"), (0.3, "'della' on 'lm_head.weight':")]
)
def test_della_refuses_probabilities_out_of_range(
    epsilon: float, words: str, names: dict[str, str], tmp_path: Path
) -> None:
    numbers = f"  density: 0.9\n  epsilon: {epsilon}"
    text = _GOOD.replace("ties", "della").replace("  normalize: true", numbers)
    _, message = _refused(tmp_path, names, text)
    assert words in message


_MERGEKIT = """\
merge_method: ties
base_model: $a
name: my-merge
models:
  - model: $b
    parameters:
      weight: 0.5
      normalize: false
      t: 1
    residual: 3
parameters:
  int8_mask: true
  filter_wise: true
  density: [{filter: nothing, value: 0.1}, {value: 0.5}]
"""


def test_compat_only_warns(names: dict[str, str], tmp_path: Path) -> None:
    path = write_recipe(tmp_path, _MERGEKIT, **names)
    with pytest.raises(RecipeError, match="unknown key 'residual'"):
        api.plan(path)
    plan = api.plan(path, compat=True)
    said = " ".join(plan.warnings)
    for words in (
        "recipe.yaml:3: 'name' is ignored",
        "recipe.yaml:10: 'residual' is ignored",
        "recipe.yaml:8: 'ties' takes 'normalize' once",
        "recipe.yaml:13: 'ties' takes no 'filter_wise'",
        "recipe.yaml:14: the filter 'nothing' matches no tensor",
    ):
        assert words in said
    assert "int8_mask" not in said
    assert {t.parameters["normalize"] for t in plan.tasks} == {True}
    assert {t.parameters["density"] for t in plan.tasks} == {(0.5,)}


def test_compat_still_refuses_what_makes_no_sense(names: dict[str, str], tmp_path: Path) -> None:
    path = write_recipe(tmp_path, _GOOD.replace("weight: 0.5", "weight: half"), **names)
    with pytest.raises(RecipeError, match="takes a number"):
        api.plan(path, compat=True)


def test_nothing_is_opened_before_the_recipe_is_checked(tmp_path: Path) -> None:
    text = _GOOD.replace("normalize: true", "normalise: true")
    names = {n: f"org/not-here-{n}" for n in "abc"}
    _, message = _refused(tmp_path, names, text)
    assert "normalise" in message

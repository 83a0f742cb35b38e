"""The recipe language: what mergekit's users have, and what Cermet adds to it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    ValidationError,
    model_validator,
)

from cermet.core.errors import InputError, RecipeError
from cermet.recipes.document import Document, Where

__all__ = [
    "VERSION",
    "Block",
    "ModelRef",
    "Module",
    "Recipe",
    "Settings",
    "Slice",
    "Source",
    "Step",
    "TokenRule",
    "Vocabulary",
    "parse_model",
    "parse_recipe",
]

VERSION = 1
"""Version of the recipe language that this release writes."""

Scalar = bool | int | float | str
Settings = dict[str, Any]
"""Parameters as written: a number, a gradient, or a list of filtered values."""

Files = dict[str, Annotated[str, Field(min_length=1)]]
"""Statistics as written: their names, and the files that hold them."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelRef(_Strict):
    """A model: a folder or a hub name, perhaps a revision, perhaps a LoRA adapter on it."""

    path: str = Field(min_length=1)
    revision: str | None = None
    lora: str | None = None
    lora_revision: str | None = None

    def __str__(self) -> str:
        text = self.path + (f"@{self.revision}" if self.revision else "")
        if self.lora:
            text += f"+{self.lora}" + (f"@{self.lora_revision}" if self.lora_revision else "")
        return text


def _split(text: str) -> tuple[str, str | None]:
    path, at, revision = text.partition("@")
    if not path or (at and not revision) or "@" in revision:
        raise ValueError(f"'{text}' is not a model; write path, path@revision or model+adapter")
    return path, revision or None


def _model_ref(value: Any) -> Any:
    """Read `path[@revision][+lora[@revision]]` or mergekit's mapping.

    Its `override_architecture` is accepted and has no effect: anatomy is inferred.
    """
    if isinstance(value, str):
        model, plus, lora = value.partition("+")
        path, revision = _split(model)
        adapter, lora_revision = _split(lora) if plus else (None, None)
        return {
            "path": path,
            "revision": revision,
            "lora": adapter,
            "lora_revision": lora_revision,
        }
    if isinstance(value, dict) and "model" in value:
        allowed = {"model", "lora", "override_architecture"}
        if extra := set(value) - allowed:
            raise ValueError(f"unknown key '{sorted(extra)[0]}' in a model")
        found: dict[str, Any] = {}
        for key, (path_key, revision_key) in {
            "model": ("path", "revision"),
            "lora": ("lora", "lora_revision"),
        }.items():
            part = value.get(key)
            if isinstance(part, dict):
                if extra := set(part) - {"path", "revision"}:
                    raise ValueError(f"unknown key '{sorted(extra)[0]}' in '{key}'")
                found[path_key], found[revision_key] = part.get("path"), part.get("revision")
            elif isinstance(part, str):
                found[path_key], found[revision_key] = _split(part)
            elif part is not None:
                raise ValueError(f"'{key}' is a path, or a mapping of path and revision")
        return found
    return value


def parse_model(text: str) -> ModelRef:
    """The model that `path[@revision][+lora[@revision]]` names; InputError for anything else."""
    try:
        return ModelRef.model_validate(_model_ref(text))
    except ValueError as error:
        raise InputError(
            f"'{text}' is not a model; write path, path@revision or model+adapter."
        ) from error


Model = Annotated[ModelRef, BeforeValidator(_model_ref)]


class Source(_Strict):
    """One model of a recipe, or of a slice, with its own parameters."""

    model: Model
    layer_range: tuple[StrictInt, StrictInt] | None = None
    delta_of: Model | None = None
    parameters: Settings | None = None
    needs: Files | None = None


class Slice(_Strict):
    """Some layers of the output."""

    sources: list[Source] = Field(min_length=1)
    base_model: Model | None = None
    parameters: Settings | None = None

    @model_validator(mode="after")
    def _ranges(self) -> Slice:
        for source in self.sources:
            if source.layer_range is None:
                raise ValueError(f"the slice of '{source.model}' has no layer_range")
        return self


def _row(value: Any) -> Any:
    """Read a model, which gives its own row, or mergekit's mapping with a kind."""
    if isinstance(value, dict) and "kind" in value:
        return value
    return {"kind": "model", "model": value}


class TokenRow(_Strict):
    """Which row a token gets: that of a model, that of another token of a model, or zeros."""

    kind: Literal["model", "model_token", "zero"]
    model: Model | None = None
    token_id: Annotated[StrictInt, Field(ge=0)] | None = None
    token: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> TokenRow:
        others = (self.token_id is not None) + (self.token is not None)
        if self.kind == "zero" and (self.model is not None or others):
            raise ValueError("a token of kind zero takes nothing else")
        if self.kind != "zero" and self.model is None:
            raise ValueError(f"a token of kind {self.kind} names its model")
        if self.kind == "model_token" and others != 1:
            raise ValueError("a token of kind model_token has either token or token_id")
        if self.kind == "model" and others:
            raise ValueError("write kind: model_token to take the row of another token")
        return self


class TokenRule(_Strict):
    """What a recipe says of one token.

    source: its row in models that lack it; force: in the others too.
    """

    source: Annotated[TokenRow, BeforeValidator(_row)] | None = None
    force: bool = False

    @model_validator(mode="after")
    def _forced(self) -> TokenRule:
        if self.force and self.source is None:
            raise ValueError("'force' needs a 'source' that says which row is forced")
        return self


def _as_text(value: Any) -> Any:
    """A model as one text, where it is written as a mapping."""
    return str(ModelRef.model_validate(_model_ref(value))) if isinstance(value, dict) else value


Owner = Annotated[str, BeforeValidator(_as_text), Field(min_length=1)]


class Vocabulary(_Strict):
    """Which tokens the output has, and with which rows.

    source: `union`, `base`, or the model whose tokenizer it is.
    """

    source: Owner = "union"
    tokens: dict[str, TokenRule] | None = None
    pad_to_multiple_of: Annotated[StrictInt, Field(ge=1, le=1 << 20)] | None = None


class Module(_Strict):
    """What is done with one module of the output, such as the language part."""

    models: list[Source] | None = Field(default=None, min_length=1)
    slices: list[Slice] | None = Field(default=None, min_length=1)
    base_model: Model | None = None
    parameters: Settings | None = None

    @model_validator(mode="after")
    def _one_shape(self) -> Module:
        if (self.models is None) == (self.slices is None):
            raise ValueError("a module has exactly one of 'models' and 'slices'")
        _without_ranges(self.models)
        return self


def _without_ranges(models: list[Source] | None) -> None:
    if any(source.layer_range is not None for source in models or ()):
        raise ValueError("layer_range belongs to the sources of 'slices', not to 'models'")


@dataclass(frozen=True)
class Block:
    """The models or slices of a recipe, or of one of its modules; `where` it stands."""

    where: tuple[str, ...]
    models: list[Source] | None
    slices: list[Slice] | None
    base: ModelRef | None
    parameters: Settings | None
    module: str | None

    def sources(self) -> list[Source]:
        """Every source, in order."""
        return list(self.models or [s for part in self.slices or [] for s in part.sources])


class Step(_Strict):
    """One step of a pipeline: a transform or a method, with its parameters."""

    name: str
    parameters: Settings


def _step(value: Any) -> Any:
    """Read a name, or one name with a mapping of parameters."""
    if isinstance(value, str):
        return {"name": value, "parameters": {}}
    if isinstance(value, dict) and len(value) == 1:
        ((name, parameters),) = value.items()
        if parameters is None or isinstance(parameters, dict):
            return {"name": name, "parameters": parameters or {}}
    raise ValueError("a step is written as a name, or as name: {parameter: value, ...}")


class Recipe(_Strict):
    """A whole recipe."""

    version: Literal[1] = 1
    merge_method: str | None = None
    pipeline: list[Annotated[Step, BeforeValidator(_step)]] | None = Field(
        default=None, min_length=1
    )
    models: list[Source] | None = Field(default=None, min_length=1)
    slices: list[Slice] | None = Field(default=None, min_length=1)
    modules: dict[str, Module] | None = Field(default=None, min_length=1)
    keep: list[Annotated[str, Field(min_length=1)]] | None = Field(default=None, min_length=1)
    base_model: Model | None = None
    parameters: Settings | None = None
    needs: Files | None = None
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: Owner | None = None
    tokenizer: Vocabulary | None = None
    chat_template: str | None = None
    seed: int = Field(default=0, ge=0, lt=1 << 63, strict=True)

    @model_validator(mode="after")
    def _one_shape(self) -> Recipe:
        if self.merge_method is None and self.pipeline is None:
            raise ValueError("'merge_method' is missing (or 'pipeline', with steps)")
        if [self.models, self.slices, self.modules].count(None) != 2:
            raise ValueError("a recipe has exactly one of 'models', 'slices' and 'modules'")
        _without_ranges(self.models)
        return self

    @property
    def vocabulary(self) -> Vocabulary | None:
        """What is said of the vocabulary, in either spelling; None where nothing is."""
        if self.tokenizer_source is not None:
            return Vocabulary(source=self.tokenizer_source)
        return self.tokenizer

    def blocks(self) -> list[Block]:
        """The models or slices, module by module where the recipe has modules."""
        if self.modules is None:
            return [Block((), self.models, self.slices, self.base_model, None, None)]
        return [
            Block(("modules", name), m.models, m.slices, m.base_model or self.base_model,
                  m.parameters, name)
            for name, m in self.modules.items()
        ]  # fmt: skip

    def references(self) -> list[ModelRef]:
        """Every model that is named, once, in the order of the recipe."""
        blocks = self.blocks()
        sources = [s for block in blocks for s in block.sources()]
        bases = [self.base_model, *(block.base for block in blocks)]
        bases += [part.base_model for block in blocks for part in block.slices or []]
        named = [s.model for s in sources]
        named += [s.delta_of for s in sources if s.delta_of is not None]
        named += [base for base in bases if base is not None]
        return list(dict.fromkeys(named))


_IGNORED_KEYS = {"residual_weight"}  # mergekit reads it and does nothing with it


def parse_recipe(document: Document, *, compat: bool = False) -> tuple[Recipe, list[str]]:
    """The recipe in a document, and warnings.

    Raises RecipeError with file, line and the nearest spelling. With `compat`, unknown keys,
    which mergekit ignores, are warnings.
    """
    data = document.data
    if not isinstance(data, dict):
        raise RecipeError(f"{document.at(())}: a recipe is a mapping of keys to values.")
    for one, other in (("merge_method", "pipeline"), ("tokenizer_source", "tokenizer")):
        if one in data and other in data:
            place = document.at((other,))
            raise RecipeError(f"{place}: a recipe has '{one}' or '{other}', not both.")
    warnings: list[str] = []
    while True:
        try:
            return Recipe.model_validate(data), warnings
        except ValidationError as error:
            problems = error.errors()
            extra = [p for p in problems if p["type"] == "extra_forbidden"]
            if extra and (compat or all(p["loc"][-1] in _IGNORED_KEYS for p in extra)):
                for problem in extra:
                    where = tuple(problem["loc"])
                    warnings.append(f"{document.at(where)}: '{where[-1]}' is ignored.")
                    _drop(data, where)
                continue
            raise RecipeError(_explain(document, problems)) from error


def _drop(data: Any, where: Where) -> None:
    for step in where[:-1]:
        data = data[step]
    del data[where[-1]]


_KEYS = {
    "": list(Recipe.model_fields),
    "slices": list(Slice.model_fields),
    "sources": list(Source.model_fields),
    "models": list(Source.model_fields),
    "tokenizer": list(Vocabulary.model_fields),
    "modules": list(Module.model_fields),
}
_TOKEN_KEYS = {4: list(TokenRule.model_fields), 5: list(TokenRow.model_fields)}


def _explain(document: Document, problems: Sequence[Any]) -> str:
    """One sentence about the first problem: where, what, and what to write instead."""
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    where: Where = tuple(problem["loc"])
    place = document.at(where)
    if problem["type"] == "extra_forbidden":
        shelf = next((str(s) for s in reversed(where[:-1]) if isinstance(s, str)), "")
        shelf = "modules" if where[:1] == ("modules",) and len(where) == 3 else shelf
        known = _KEYS.get(shelf, [])
        if where[:2] == ("tokenizer", "tokens"):  # then the token, its rule, its source
            known = _TOKEN_KEYS.get(len(where), [])
        near = difflib.get_close_matches(str(where[-1]), known, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        return f"{place}: unknown key '{where[-1]}'.{hint}"
    if problem["type"] == "missing" and isinstance(where[-1], str):
        return f"{place}: '{where[-1]}' is missing."
    message = str(problem["msg"]).removeprefix("Value error, ")
    name = ".".join(str(step) for step in where)
    return f"{place}: {name + ': ' if name else ''}{message[:1].lower() + message[1:]}."

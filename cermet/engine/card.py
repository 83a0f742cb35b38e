"""The model card of an output: README.md, with front matter that the hub understands."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cermet.checkpoints.front_matter import FrontMatter, is_repository
from cermet.checkpoints.origin import Origin
from cermet.core.codec import Codec
from cermet.core.registry import Method
from cermet.engine.folder import RECORD
from cermet.engine.licences import compare_licences, terms_of
from cermet.engine.manifest import MANIFEST
from cermet.engine.transplant import Approximation
from cermet.recipes.assembly import labels_of
from cermet.recipes.plan import Plan

__all__ = [
    "model_card",
    "named",
    "page",
    "restored_card",
    "sources_section",
    "transplant_card",
    "unpacked_card",
]

_OWN_TAGS = ("merge", "cermet")


def page(
    origins: Sequence[Origin], body: str, *, tags: Iterable[str] = (), adapter_of: str | None = None
) -> str:
    """A card: front matter from what the sources state, and its text.

    adapter_of: of an adapter, the base that it names; it is linked where it is a name on the hub.
    """
    import yaml

    licences = compare_licences(origins)
    links = list(dict.fromkeys(link for origin in origins for link in origin.links))
    cards = [o.card for o in origins if o.part == "model"]
    library, relation = "transformers", "merge"
    if adapter_of is not None:
        on_hub = is_repository(adapter_of) and not Path(adapter_of).exists()
        links, library, relation = [adapter_of] if on_hub else [], "peft", "adapter"
        cards = [o.card for o in origins]
    data = {
        "license": _one_or_list(licences.license),
        "license_name": licences.license_name,
        "license_link": licences.license_link,
        "base_model": links or None,
        "base_model_relation": relation if links else None,
        "library_name": _agreed(cards, lambda c: c.library_name) or library,
        "pipeline_tag": _agreed(cards, lambda c: c.pipeline_tag),
        "language": _one_or_list(_agreed(cards, lambda c: c.language) or ()),
        "tags": list(dict.fromkeys([*_OWN_TAGS, *tags, *_shared_tags(cards)])),
    }
    stated = {key: value for key, value in data.items() if value is not None}
    front = yaml.safe_dump(stated, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{front}---\n\n{body.strip()}\n"


def _one_or_list(values: tuple[str, ...]) -> str | list[str] | None:
    return values[0] if len(values) == 1 else list(values) or None


def _agreed(cards: Sequence[FrontMatter], field: Callable[[FrontMatter], Any]) -> Any:
    """What every card states; None where one says something else, or nothing."""
    values = {field(card) for card in cards}
    return values.pop() if len(values) == 1 else None


def _shared_tags(cards: Sequence[FrontMatter]) -> list[str]:
    """Tags that every source has; what the hub derives (`license:mit`) is not repeated."""
    if not cards:
        return []
    own = [t for t in cards[0].tags if all(t in card.tags for card in cards)]
    return [tag for tag in own if ":" not in tag]


def sources_section(origins: Sequence[Origin], models: Sequence[Mapping[str, Any]]) -> str:
    """What the output was made of: repositories, licences, digests of every file.

    models: as the record lists them, with their files.
    """
    licences = compare_licences(origins)
    lines = ["## Sources and licences", ""]
    if origins:
        lines += ["| source | repository | licence | known as |", "| --- | --- | --- | --- |"]
        lines += [_row(origin) for origin in origins]
        lines += ["", *_verdict(licences.license, licences.warnings()), ""]
    lines += ["| file | bytes | digest of its contents |", "| --- | ---: | --- |"]
    for model in models:
        for file in model["files"]:
            digest = file.get("hub_sha256") or file.get("sha256") or file.get("content_sha256")
            kind = "content" if digest == file.get("content_sha256") else "sha256"
            shown = f"`{kind}:{digest}`" if digest else "not read as stored"
            name = _cell(f"{model['name']}: {file['file']}")
            lines.append(f"| {name} | {file['bytes']} | {shown} |")
    return "\n".join(lines)


def _verdict(license: tuple[str, ...], warnings: Sequence[str]) -> list[str]:
    if warnings:
        return list(warnings)
    if license == ("other",):
        return [
            "The licences of the sources are not the same, so the output's is given as `other`; "
            "all of them have to be kept. Cermet does not give legal advice."
        ]
    return ["All sources state the same licence. Cermet does not give legal advice."]


def _row(origin: Origin) -> str:
    where = "-"
    if origin.repository is not None:
        revision = f"@{origin.revision}" if origin.revision is not None else ""
        where = _cell(f"{origin.repository}{revision}")
    elif origin.revision is not None:
        where = _cell(f"@{origin.revision}")
    stated = [", ".join(origin.card.license), origin.card.license_name, origin.card.license_link]
    named = _cell(" / ".join(part for part in stated if part)) if any(stated) else "not stated"
    terms = sorted({term for name in origin.card.license for term in terms_of(name)})
    return f"| {_cell(origin.name)} ({origin.part}) | {where} | {named} | {', '.join(terms)} |"


def _cell(text: str) -> str:
    """A text as code in a cell of a table."""
    plain = text.replace("`", "'").replace("|", "\\|")
    return f"`{''.join(c if c.isprintable() else '?' for c in plain)}`"


def _how(method: Method) -> str:
    """A sentence on the method, or a list of the steps of a pipeline."""
    if not method.steps:
        return f"Made by Cermet with the method {named(method)}"
    steps = (f"{i}. {named(step)}" for i, step in enumerate(method.steps, start=1))
    return "\n".join(["Made by Cermet with a pipeline of these steps:", "", *steps, ""])


def named(method: Method) -> str:
    """A method's name, source and summary."""
    summary = method.summary[:1].lower() + method.summary[1:]
    return f"`{method.name}` ({method.source}): {summary}"


def model_card(
    plan: Plan,
    recipe_yaml: str,
    models: Sequence[Mapping[str, Any]],
    versions: Mapping[str, str],
) -> str:
    """README.md of the output: what it was made of, how, and how to make it again.

    models: with their files, as the record lists them. versions: of the libraries.
    """
    listed = "\n".join(f"- `{ref}`" for ref in plan.models)
    listed += "".join(f"\n- `{path}` (statistics)" for path in plan.statistics)
    count = sum(task.numel for task in plan.tasks)
    steps = [step.name for step in plan.method.steps] or [plan.method.name]
    made = ", ".join(f"{name} {version}" for name, version in versions.items())
    words = "" if plan.vocabulary is None else f"\nVocabulary: {plan.vocabulary.sentence()}."
    body = f"""
# A merge of {len(plan.models)} models

{_how(plan.method)}
{count:,} parameters in {len(plan.tasks)} tensors.{words}

## Models

{listed}
{_experts_card(plan)}
## Recipe

```yaml
{recipe_yaml.strip()}
```

{sources_section(plan.origins, models)}

## How to check it

Seed {plan.recipe.seed}; {made}. `cermet.json` holds the recipe resolved for every tensor, and the
digests of everything that was read and written; `cermet verify` checks them.
"""
    return page(plan.origins, body, tags=steps)


def _experts_card(plan: Plan) -> str:
    """How to get the experts back, for the model card of an assembly."""
    labels = labels_of(plan)
    if not labels:
        return ""
    return f"""
## Experts

This is an assembly: beside the merged model it holds what restores each of its experts,
{", ".join(f"`{label}`" for label in labels)}:

```
cermet restore FOLDER OUT --task {shlex.quote(labels[0])}
```
"""


def restored_card(
    blend: str,
    experts: int,
    method: Method,
    origins: Sequence[Origin],
    models: Sequence[Mapping[str, Any]],
) -> str:
    """README.md of what was restored from an assembly.

    blend: whose model it is. experts: of the assembly. models: with their files.
    """
    body = f"""
# {blend}, restored

Restored by Cermet from an assembly of {experts} experts, made with the method `{method.name}`
({method.source}). `{RECORD}` holds the digests of everything that was written; `cermet verify`
checks them. The assembly is described by its `{MANIFEST}`.

{sources_section(origins, models)}
"""
    return page(origins, body, tags=(method.name,))


def unpacked_card(
    expert: str,
    base: str,
    codec: Codec,
    origins: Sequence[Origin],
    models: Sequence[Mapping[str, Any]],
) -> str:
    """README.md of an expert that was restored from a delta archive.

    models: the base and the archive, with their files.
    """
    body = f"""
# {_cell(expert)}, restored

Restored by Cermet from {_cell(base)} and a delta archive of the codec `{codec.name}`
({codec.source}). `{RECORD}` holds the digests of everything that was written; `cermet verify`
checks them.

{sources_section(origins, models)}
"""
    return page(origins, body, tags=(codec.name,))


def transplant_card(
    asked: Mapping[str, Any],
    counts: Mapping[str, int],
    errors: Sequence[Approximation],
    origins: Sequence[Origin],
    models: Sequence[Mapping[str, Any]],
) -> str:
    """README.md of a transplant.

    asked: model, donor and k. counts: of tokens, rows, shared, approximated and unknown ones.
    models: with their files.
    """
    model, donor = _cell(str(asked["model"])), _cell(str(asked["donor"]))
    rows = [
        f"| `{each.tensor}` | {each.mean:.4f} | {each.worst:.4f} | {each.baseline:.4f} |"
        for each in errors
    ]
    table = "\n".join(rows)
    body = f"""
# {model} with the tokenizer of {donor}

Of its {counts["rows"]:,} rows for {counts["tokens"]:,} tokens {counts["shared"]:,} are rows of
{model}: of tokens that both have, or padding. {counts["approximated"]:,} were made of at
most {asked["k"]} shared ones each, by orthogonal matching pursuit in {donor};
{counts["unknown"]:,} are zero. How far they are off there, as a share of each row (1 is a row of
zeros):

| tensor | mean | worst | mean of all shared rows instead |
| --- | ---: | ---: | ---: |
{table}

`transplant.json` lists every token. The new rows were not trained; train the model on some text
before it is judged by them.

{sources_section(origins, models)}

`{RECORD}` holds the digests of everything that was written; `cermet verify` checks them.
"""
    return page(origins, body, tags=("transplant",))

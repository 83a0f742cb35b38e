"""Writes docs/methods/ and docs/codecs/ from the docstrings; `--check` only compares.

One page for each method, each transform and each codec, and an index of the methods. What is
written is checked in, so that it can be read without running anything; `make test` fails where it
differs from the code.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.examples import adapter_call, by_hand, tensor_call
from bench.methods import adapters, methods, source_of, transforms
from bench.records import RECORDS
from bench.times import seconds_of, table
from cermet.core.codec import CHUNK, Codec, all_codecs
from cermet.core.registry import (
    Method,
    Parameter,
    all_factor_methods,
    all_methods,
    all_transforms,
    call,
)
from cermet.core.types import Place, Role
from cermet.engine.describe import base_of, blocks_of, grain_of, models_of, pieces_of, sections

FOLDER = Path(__file__).resolve().parent / "methods"
_NOTE = (
    "<!-- Written by docs/generate.py from the docstring: change that, then `make tables`. -->\n"
)
_INDEX = """# Methods

{count} methods, each one page of a textbook: one file whose docstring is the page. `models` is the
number of models beside the base; `needs` is what a recipe has to name beside them, a base or
[statistics](../recipes.md#statistics); `passes` is how often the weights are read at most; `memory`
is how many float32 blocks a thread holds at once for two models (of 262,144 weights at most, and of
less under a small budget). The same list is printed by `cermet methods`, with sources and uses by
`cermet methods --long`, and one page by `cermet methods ties`. What is marked experimental says why
on its page.

{table}
Methods on deltas get each model minus the base, and what they return is added to the base.
Every parameter can be a number, a gradient over the layers or a list of filtered values, and those
marked *per model* can stand beside each model; see [Recipes](../recipes.md). Methods of your own
need no change to Cermet; see [Plugins](../plugins.md).

## Transforms

What can stand before or after a merge in a [pipeline](../recipes.md#pipelines). `more passes` is
how often the weights are read for it beside the merge itself, at most.

{transforms}{times}
## Adapters

Methods that merge LoRA adapters as adapters, from factors to factors; see
[Adapters](../adapters.md). The methods on deltas above work on adapters too.

{adapters}"""


_SHOWN = ((2048, 2048), (5632, 2048))
"""Matrices of a Llama of 1.1 billion weights, for which the pages of codecs tell sizes."""


def pages() -> dict[str, str]:
    """Every generated page by its path below docs/."""
    found = {f"{name}.md": page(method) for name, method in all_methods().items()}
    index = _INDEX.format(
        count=len(found),
        table=methods(""),
        transforms=transforms("transforms/"),
        times=f"\n## Time of one matrix\n\n{times}" if (times := table(RECORDS)) else "",
        adapters=adapters("adapters/"),
    )
    steps = {f"transforms/{name}.md": page(step) for name, step in all_transforms().items()}
    others = {f"adapters/{name}.md": page(one) for name, one in all_factor_methods().items()}
    shelf = {"index.md": _NOTE + "\n" + index, **found, **steps, **others}
    codecs = {f"codecs/{name}.md": codec_page(codec) for name, codec in all_codecs().items()}
    return {**{f"methods/{name}": text for name, text in shelf.items()}, **codecs}


def codec_page(codec: Codec) -> str:
    """The page of one codec."""
    said = sections(codec)
    whole = codec.grain == "tensor"
    pieces = "of whole matrices" if whole else f"of {CHUNK:,} weights"
    facts = (
        f"Passes over base and expert: up to {len(codec.rounds) + 1}; memory: "
        f"{codec.workspace + 2:.0f} float32 blocks {pieces} a thread"
        f"{'; random' if codec.noise else ''}.  \nSource: {source_of(codec)}."
    )
    commands = [
        f"$ cermet compress models/base models/math -o delta --codec {codec.name}",
        "...",
        "$ cermet restore delta math-again",
        "math-again: 39 tensors, 51.6 kB, restored in 0.01 s (and 0.00 s until all ...).",
    ]
    parts = [
        f"{_NOTE}\n# {codec.name}\n\n{codec.summary}\n\n{facts}",
        _fenced("text", said["Maths"]),
        f"## When\n\n{_sentence(said['When'])}",
        f"## On the command line\n\n{_fenced('console', commands)}\n\n{_parameters(codec, said)}",
        f"## What is kept\n\n{_sentence(said['Keeps'])}\n\n{_bits(codec)}",
        f"## Error\n\n{_sentence(said['Error'])}",
        f"## By hand\n\n{_fenced('text', by_hand(said['Example']))}",
        f"## Departures\n\n{_sentence(said['Departures'])}",
    ]
    return "\n\n".join(parts) + "\n"


def _bits(codec: Codec) -> str:
    """Bits a weight of matrices in bfloat16 under the defaults, where headers tell them."""
    if codec.size is None:
        return (
            "How many bits a weight takes depends on the numbers; `cermet compress` prints it "
            "(see [Compressing experts](../compress.md#codecs))."
        )
    known = {p.argument: p.default for p in codec.parameters.values()}
    rows = ["| matrix in bfloat16 | bits a weight by default |", "| --- | ---: |"]
    for shape in _SHOWN:
        place = Place("w", shape, Role.UP, 0, 1, "layers", "inside")
        size = 8 * call(codec.size, place=place, itemsize=2, **known)
        rows.append(f"| {shape[0]} × {shape[1]} | {size / (shape[0] * shape[1]):.3f} |")
    return "\n".join(rows)


def page(method: Method) -> str:
    """The page of one method or transform."""
    said = sections(method)
    random = "; random" if method.noise else ""
    facts = (
        f"Works on {method.on}; models: {models_of(method)}; base model: {base_of(method)}; "
        f"passes over the weights: up to {method.passes}; memory: {_memory(method)}{random}.  \n"
        f"Source: {source_of(method)}."
    )
    if method.kind == "transform":
        facts = (
            "A transform, for a [pipeline](../../recipes.md#pipelines); more passes over the "
            f"weights: up to {method.passes - 1}{random}.  \nSource: {source_of(method)}."
        )
    if method.on == "factors":
        facts = (
            f"Merges LoRA [adapters](../../adapters.md) as adapters{random}.  \n"
            f"Source: {source_of(method)}."
        )
    if method.experimental:
        facts += f'\n\n!!! warning "Experimental"\n    {_sentence([method.experimental])}'
    example = adapter_call if method.on == "factors" else tensor_call
    seconds = seconds_of(method.name, RECORDS)
    parts = [
        f"{_NOTE}\n# {method.name}\n\n{method.summary}\n\n{facts}",
        _fenced("text", said["Maths"]),
        *([f"## Time of one matrix\n\n{seconds.rstrip()}"] if seconds else []),
        f"## When\n\n{_sentence(said['When'])}",
        f"## In a recipe\n\n{_fenced('yaml', _recipe(method))}\n\n{_parameters(method, said)}",
        f"## Example\n\n{_fenced('pycon', example(said['Example']))}",
        f"## Properties\n\n{_sentence(said['Properties'])}",
        f"## Inputs\n\n{_sentence(said['Inputs'])}",
        f"## Departures\n\n{_sentence(said['Departures'])}",
    ]
    return "\n\n".join(parts) + "\n"


def _memory(method: Method) -> str:
    pieces = pieces_of(grain_of(method))
    return f"{blocks_of(method):.0f} float32 blocks{pieces} a thread for two models"


def _fenced(kind: str, lines: Sequence[str]) -> str:
    return "\n".join([f"```{kind}", *lines, "```"])


def _sentence(lines: Sequence[str]) -> str:
    text = _joined(lines)
    word = text.split()[0].rstrip(",;")
    if word.isascii() and word.isalpha():
        text = text[:1].upper() + text[1:]
    return _escaped(text) + ("" if text.endswith(".") else ".")


def _joined(lines: Sequence[str]) -> str:
    return " ".join(line.strip() for line in lines)


def _escaped(text: str) -> str:
    """Text in which no sign is taken for Markdown or HTML."""
    return re.sub(r"([\\`*_<>\[\]|])", r"\\\1", text)


def _parameters(method: Method | Codec, said: Mapping[str, Sequence[str]]) -> str:
    rows = [
        "| parameter | type | per model | default | limits |",
        "| --- | --- | --- | --- | --- |",
    ]
    for p in method.parameters.values():
        default = "required" if p.required else f"`{_spelled(p.default)}`"
        per_model = "yes" if p.per_model else ""
        rows.append(f"| `{p.name}` | {p.type_name} | {per_model} | {default} | {_limits(p)} |")
    rows += _other_rows(method)
    table = "\n".join(rows) if len(rows) > 2 else "It takes no parameters."
    about = said["Parameters"]
    return table if about == ["none"] else f"{table}\n\n{_about(method, about)}"


def _other_rows(method: Method | Codec) -> list[str]:
    """Statistics, and what has no effect."""
    if isinstance(method, Codec):
        return [f"| `{e.name}` | statistic |  | none | {e.about} |" for e in method.extras]
    rows = []
    for need in method.needs:
        per_model = "yes" if need.per_model else ""
        rows.append(f"| `{need.name}` | statistic | {per_model} | required | {need.about} |")
    for name, reason in method.accepts.items():
        rows.append(f"| `{name}` |  |  |  | accepted without effect: {reason} |")
    return rows


def _about(method: Method | Codec, lines: Sequence[str]) -> str:
    """What is said of the parameters: an item for each one that has a sentence of its own."""
    names = "|".join(method.parameters)
    parts = re.split(rf"(?:^|(?<=[.;] ))({names}): ", _joined(lines))
    items = [
        f"- `{name}`: {_escaped(text.strip().rstrip('.;'))}."
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    ]
    first = [_sentence([parts[0].strip().rstrip(".;")])] if parts[0].strip() else []
    return "\n".join([*first, *([""] if first and items else []), *items])


def _spelled(value: Any) -> str:
    first = value[0] if isinstance(value, tuple) else value
    return "none" if first is None else str(first).lower()


def _limits(parameter: Parameter) -> str:
    low, high = parameter.limits
    words = [f"at least {low:g}"] if low is not None else []
    return ", ".join([*words, f"at most {high:g}"] if high is not None else words)


def _recipe(method: Method) -> list[str]:
    """A recipe that runs: the fewest models up to two, and what has to be given."""
    if method.kind == "transform":
        return _pipeline(method)
    least, most = method.models
    count = max(least, min(2, most or 2))
    needed = [p for p in method.parameters.values() if p.required]
    each = [f"{p.name}: 0.5" for p in needed if p.per_model]
    lines = [f"merge_method: {method.name}"]
    if method.base in ("required", "first"):
        lines.append("base_model: models/base")
    lines.append("models:")
    kind = "adapters" if method.on == "factors" else "models"
    for name in (f"{kind}/math", f"{kind}/code")[:count]:
        lines.append(f"  - model: {name}")
        own = [f"{n.name}: {_file(n.name, name)}" for n in method.needs if n.per_model]
        if own:
            lines.append(f"    needs: {{{', '.join(own)}}}")
        if each:
            lines.append(f"    parameters: {{{', '.join(each)}}}")
    once = [f"{n.name}: {_file(n.name, 'models/base')}" for n in method.needs if not n.per_model]
    if once:
        lines.append(f"needs: {{{', '.join(once)}}}")
    shared = [f"{p.name}: 0.5" for p in needed if not p.per_model]
    if shared:
        lines.append(f"parameters: {{{', '.join(shared)}}}")
    return lines


def _file(statistic: str, model: str) -> str:
    return f"statistics/{statistic}-{model.rpartition('/')[2]}.safetensors"


def _pipeline(method: Method) -> list[str]:
    """A recipe with a transform before a merge."""
    needed = (p for p in method.parameters.values() if p.required)
    given = ", ".join(f"{p.name}: {p.choices[0] if p.choices else 0.5}" for p in needed)
    return [
        "pipeline:",
        f"  - {method.name}: {{{given}}}" if given else f"  - {method.name}",
        "  - task_arithmetic: {weight: 0.5}",
        "base_model: models/base",
        "models:",
        "  - model: models/math",
        "  - model: models/code",
    ]


def stale(folder: Path) -> list[str]:
    """Names of the pages below docs/ that are missing, differ, or should not be there."""
    wanted, docs = pages(), folder.parent
    found = [path for shelf in (folder, docs / "codecs") for path in shelf.rglob("*.md")]
    present = {str(path.relative_to(docs)): path.read_text("utf-8") for path in found}
    return sorted(n for n in wanted.keys() | present.keys() if wanted.get(n) != present.get(n))


def write(folder: Path) -> None:
    """Write every page that differs, and remove those of methods and codecs that are gone."""
    wanted, docs = pages(), folder.parent
    for shelf in (folder / "transforms", folder / "adapters", docs / "codecs"):
        shelf.mkdir(parents=True, exist_ok=True)
    for name in stale(folder):
        if name in wanted:
            (docs / name).write_text(wanted[name], "utf-8")
        else:
            (docs / name).unlink()
        print(f"'docs/{name}' rewritten.")


def main(arguments: list[str] | None = None, folder: Path = FOLDER) -> int:
    """Write the pages, or with `--check` return 1 where one is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where stale")
    if not parser.parse_args(arguments).check:
        write(folder)
        return 0
    found = stale(folder)
    for name in found:
        print(f"'docs/{name}' differs from the code: run `make tables`.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

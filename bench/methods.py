"""The registry as a Markdown table, for README.md and the documentation."""

from __future__ import annotations

import re

from cermet.core.registry import Method, all_methods

__all__ = ["base_of", "methods", "models_of", "source_of"]

_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
_BASES = {"required": "required", "first": "required", "optional": "optional", "none": "-"}


def methods(pages: str) -> str:
    """A row for each method; its name links to its page in the folder `pages`."""
    lines = ["| method | models | base | passes | what it does | source |"]
    lines.append("| --- | --- | --- | ---: | --- | --- |")
    for name, method in all_methods().items():
        cells = (
            f"[{name}]({pages}{name}.md)",
            models_of(method),
            base_of(method),
            str(method.passes),
            method.summary.removesuffix("."),
            source_of(method),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "".join(f"{line}\n" for line in lines)


def models_of(method: Method) -> str:
    """How many models a method takes, beside a base."""
    least, most = method.models
    return f"{least}" if least == most else f"{least} or more"


def base_of(method: Method) -> str:
    """Whether a recipe has to name a base, as a word."""
    return _BASES[method.base]


def source_of(method: Method) -> str:
    """Where a method was published, with links to arXiv."""
    return _ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", method.source)

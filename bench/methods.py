"""The registry as a Markdown table, for README.md and the documentation."""

from __future__ import annotations

import re

from cermet.core.codec import Codec
from cermet.core.registry import Method, all_factor_methods, all_methods, all_transforms
from cermet.engine.describe import blocks_of, models_of, needs_of

__all__ = ["adapters", "methods", "source_of", "transforms"]

_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


def methods(pages: str) -> str:
    """A row for each method; its name links to its page in the folder `pages`."""
    lines = ["| method | models | needs | passes | memory | what it does | source |"]
    lines.append("| --- | --- | --- | ---: | ---: | --- | --- |")
    for name, method in all_methods().items():
        cells = (
            f"[{name}]({pages}{name}.md)",
            models_of(method),
            needs_of(method),
            str(method.passes),
            f"{blocks_of(method):.0f}",
            ("Experimental: " if method.experimental else "") + method.summary.removesuffix("."),
            source_of(method),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "".join(f"{line}\n" for line in lines)


def transforms(pages: str) -> str:
    """A row for each transform; its name links to its page in the folder `pages`."""
    lines = ["| transform | more passes | what it does | source |"]
    lines.append("| --- | ---: | --- | --- |")
    for name, found in all_transforms().items():
        link, summary = f"[{name}]({pages}{name}.md)", found.summary.removesuffix(".")
        lines.append(f"| {link} | {found.passes - 1} | {summary} | {source_of(found)} |")
    return "".join(f"{line}\n" for line in lines)


def adapters(pages: str) -> str:
    """A row for each method on adapters; its name links to its page in the folder `pages`."""
    lines = ["| method | what it does | source |", "| --- | --- | --- |"]
    for name, found in all_factor_methods().items():
        mark = "Experimental: " if found.experimental else ""
        summary = mark + found.summary.removesuffix(".")
        lines.append(f"| [{name}]({pages}{name}.md) | {summary} | {source_of(found)} |")
    return "".join(f"{line}\n" for line in lines)


def source_of(method: Method | Codec) -> str:
    """Where a method or a codec was published, with links to arXiv."""
    return _ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", method.source)

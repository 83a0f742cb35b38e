"""Everything of a checkpoint beside its weights: tokenizer, templates, processors."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cermet.checkpoints.header import read_json
from cermet.core.errors import FormatError, InputError

__all__ = ["carry_files", "chat_template", "tokenizer_files"]

_TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
)
_OTHER = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "image_processor_config.json",
    "feature_extractor_config.json",
)
_TEMPLATE = "chat_template.jinja"

_KNOWN = {
    "chatml": (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{{ message['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}"
        "<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
        "[INST] {{ message['content'] }} [/INST]{% else %}{{ message['content'] }}{{ eos_token }}"
        "{% endif %}{% endfor %}"
    ),
    "alpaca": (
        "{% for message in messages %}{% if message['role'] == 'user' %}### Instruction:\n"
        "{{ message['content'] }}\n\n{% elif message['role'] == 'assistant' %}### Response:\n"
        "{{ message['content'] }}{{ eos_token }}\n\n{% else %}{{ message['content'] }}\n\n"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}### Response:\n{% endif %}"
    ),
}


def tokenizer_files(folder: Path) -> list[Path]:
    """The tokenizer's files in a folder."""
    return [folder / name for name in _TOKENIZER if (folder / name).is_file()]


def carry_files(donor: Path, tokenizer: Path, out: Path) -> list[str]:
    """Copy tokenizer files from one folder and all others from another; their names."""
    names = []
    files = [(donor / n) for n in _OTHER if (donor / n).is_file()]
    for file in [*files, *tokenizer_files(tokenizer)]:
        shutil.copyfile(file, out / file.name)
        names.append(file.name)
    return names


def _own_template(folder: Path) -> str | None:
    """The chat template of a model, wherever it keeps it."""
    own, config = folder / _TEMPLATE, folder / "tokenizer_config.json"
    if own.is_file():
        try:
            return own.read_text("utf-8").strip()
        except UnicodeDecodeError as error:
            raise FormatError(f"'{own}' is not UTF-8 text.") from error
    if not config.is_file():
        return None
    found = read_json(config, "the tokenizer's config").get("chat_template")
    if isinstance(found, list):
        named = [e for e in found if isinstance(e, dict) and e.get("name") == "default"]
        found = named[-1].get("template") if named else None
    return found.strip() if isinstance(found, str) else None


def chat_template(wanted: str, folders: Sequence[Path]) -> str | None:
    """The text of a chat template: `auto` (what most models have), a known name, or Jinja.

    None where `auto` finds none. Raises InputError for anything else.
    """
    if wanted == "auto":
        templates = [t for t in map(_own_template, folders) if t]
        return Counter(templates).most_common(1)[0][0] if templates else None
    if wanted in _KNOWN:
        return _KNOWN[wanted]
    if "{{" in wanted or "{%" in wanted:
        return wanted
    raise InputError(
        f"'{wanted}' is not a chat template. Known: auto, {', '.join(_KNOWN)}; or write Jinja."
    )

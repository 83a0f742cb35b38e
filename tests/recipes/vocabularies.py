"""Tiny models with tokenizers of their own, whose rows say which token and which model they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.checkpoints.tokenizers import save_tokenizer
from tests.recipes.pools import llama, llama_config, save

__all__ = [
    "CHAT",
    "EMBED",
    "HEAD",
    "UNUSED",
    "ids_of",
    "save_model",
    "unequal",
    "unequal_pool",
    "weighted",
]

CHAT = ("<|im_start|>", "<|im_end|>")
UNUSED = tuple(f"<unused_{i}>" for i in range(4))
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def save_model(
    folder: Path,
    seed: int = 0,
    *,
    kind: str = "byte-level BPE",
    added: Sequence[str] = (),
    more: Sequence[str] = (),
    rows: int | None = None,
    head: bool = True,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> str:
    """Write a Llama with a tokenizer; `rows` of its embedding, as many as tokens by default."""
    size = save_tokenizer(folder, kind, added, more)
    count = size if rows is None else rows
    tensors: dict[str, Tensor] = llama(seed, 1, head)
    own = torch.Generator().manual_seed(100 + seed)
    for name in (EMBED, HEAD) if head else (EMBED,):
        tensors[name] = torch.randn((count, 16), generator=own) * 0.1
    config = llama_config(1, vocab_size=count, tie_word_embeddings=not head, **changes)
    return save(folder, {n: t.to(dtype) for n, t in tensors.items()}, config)


def ids_of(folder: Path | str) -> dict[str, int]:
    """Token -> id, as the tokenizers library loads a folder's tokenizer."""
    import tokenizers

    loaded = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    found: dict[str, int] = loaded.get_vocab(with_added_tokens=True)
    return found


def weighted(models: Sequence[str], **more: Any) -> Mapping[str, Any]:
    """A recipe for the mean of some models."""
    listed = [{"model": m, "parameters": {"weight": 1.0}} for m in models]
    return {"merge_method": "linear", "models": listed, **more}


def unequal_pool(folder: Path) -> dict[str, str]:
    """Three Llamas of 33 plain tokens.

    base: as it is. chat: two tokens more. padded: four tokens more in its tokenizer, without rows.
    """
    return {
        "base": save_model(folder / "base", 0),
        "chat": save_model(folder / "chat", 1, added=CHAT),
        "padded": save_model(folder / "padded", 2, added=UNUSED, rows=33),
    }


def unequal(pool: Mapping[str, str], **more: Any) -> dict[str, Any]:
    """A recipe for the mean of such a pool."""
    return {**weighted(list(pool.values()), base_model=pool["base"]), **more}

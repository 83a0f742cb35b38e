"""A tokenizer of letters, to which some words are one token each."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from cermet.zoo.tokens import SPECIALS, Tokens

__all__ = ["letter_tokens"]

_UNKNOWN = "<unk>"


def letter_tokens(letters: str, words: Sequence[str]) -> Tokens:
    """One token for each character of `letters` and for each of `words`, wherever it stands.

    Of two words that begin alike the earlier one is found. What is neither is one unknown token
    for each character.
    """
    names = [*(text for _, text in SPECIALS.values()), _UNKNOWN, *letters, *words]
    tokenizer = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, _UNKNOWN))
    tokenizer.add_special_tokens([*(text for _, text in SPECIALS.values()), _UNKNOWN])
    pieces = Regex("|".join([*map(re.escape, words), r"[\s\S]"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pieces, "isolated")
    tokenizer.decoder = decoders.Fuse()
    number, begin = SPECIALS["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, number)]
    )
    return Tokens(tokenizer)

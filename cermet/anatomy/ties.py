"""Names that share storage: the token embedding, its copies, and the head."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from cermet.anatomy.layers import text_path

__all__ = ["find_ties", "is_head", "token_embeddings"]

Shapes = Mapping[str, tuple[int, ...]]

_EMBEDDING = re.compile(
    r"^(?:.*\.)?(?:embed_tokens|wte|word_embeddings?|embed_in|tok_embeddings|token_embedding"
    r"|tokens_embed|embeddings|shared)\.weight$"
)
_NO_TEXT = re.compile(r"vision|visual|image|audio|sound|speech|mtp")
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_HEADS = re.compile(
    r"^(?:.*\.)?(?:lm_head|embed_out|proj_out|output|generator_lm_head|vocab_projector"
    r"|(?:cls\.)?predictions\.decoder|lm_head\.decoder)\.weight$|^decoder\.weight$"
)
# What a head without a matrix of its own leaves in the file, and the name of its matrix.
_TRACES = (
    ("cls.predictions.bias", "cls.predictions.decoder.weight"),
    ("cls.predictions.transform.dense.weight", "cls.predictions.decoder.weight"),
    ("predictions.dense.weight", "predictions.decoder.weight"),
    ("generator_predictions.dense.weight", "generator_lm_head.weight"),
    ("vocab_transform.weight", "vocab_projector.weight"),
    ("lm_head.dense.weight", "lm_head.decoder.weight"),
    ("decoder.bias", "decoder.weight"),
    ("head.dense.weight", "decoder.weight"),
)
_BIASES = (
    ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    ("predictions.bias", "predictions.decoder.bias"),
    ("lm_head.bias", "lm_head.decoder.bias"),
)
_OTHER_HEAD = re.compile(r"(?:^|\.)(?:score|classifier|classification_head|qa_outputs|v_head)\.")
_HEADED = re.compile(
    r"CausalLM|LMHead|ConditionalGeneration|DoubleHeads|MaskedLM|PreTraining|Seq2Seq|MultimodalLM"
)


def find_ties(shapes: Shapes, config: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Groups of names that share one tensor, each with a stored name first.

    The config decides where it says `tie_word_embeddings`; where it does not, a language model
    that stores no head has a tied one. Names that are not stored stand last in their group.
    """
    tied = _says_tied(config)
    groups = []
    for embedding in token_embeddings(shapes):
        names = [embedding, *_copies(embedding, shapes)]
        if tied is not False:
            names += _heads(embedding, shapes, config, tied)
        names = [n for n in names if shapes.get(n, shapes[embedding]) == shapes[embedding]]
        groups.append(_ordered(names, shapes))
    for pair in _BIASES:
        # a bias beside its own head (Phi, GPT-J) is not the copy of another
        if _weight_of(pair[0]) not in shapes and not shapes.keys().isdisjoint(pair):
            groups.append(_ordered(pair, shapes))
    return tuple(group for group in groups if len(group) > 1 and group[0] in shapes)


def _weight_of(bias: str) -> str:
    return f"{bias.removesuffix('bias')}weight"


def _says_tied(config: Mapping[str, Any]) -> bool | None:
    """What the config says of tied embeddings; the whole model's word before its text part's."""
    inner: Any = config
    for step in text_path(config):
        inner = inner[step]
    for place in (config, inner):
        if isinstance(place.get("tie_word_embeddings"), bool):
            return bool(place["tie_word_embeddings"])
    return None


def _ordered(names: list[str] | tuple[str, ...], shapes: Shapes) -> tuple[str, ...]:
    return tuple(sorted(dict.fromkeys(names), key=lambda name: name not in shapes))


def token_embeddings(shapes: Shapes) -> Iterator[str]:
    """The stored embeddings of text, without those that are copies of a shared one."""
    found = [n for n in shapes if _EMBEDDING.match(n) and not _NO_TEXT.search(n)]
    shared = [n[: -len("shared.weight")] for n in found if n.endswith("shared.weight")]
    copies = {prefix + copy for prefix in shared for copy in _COPIES}
    words = [n for n in found if n not in copies and len(shapes[n]) == 2]
    if words:  # one language model: the first, or the decoder's where encoder and decoder differ
        decoders = [n for n in words if "decoder." in n]
        yield (decoders or words)[0]


def is_head(name: str) -> bool:
    """Whether a name is one that language models give to the weight of their head."""
    return _HEADS.match(name) is not None and not _NO_TEXT.search(name)


def _copies(embedding: str, shapes: Shapes) -> list[str]:
    """The embeddings of encoder and decoder, where both are views of a shared one (T5, BART)."""
    if not embedding.endswith("shared.weight"):
        return []
    prefix = embedding.removesuffix("shared.weight")
    stacks = [copy for copy in _COPIES if _has(shapes, prefix + copy.partition(".")[0] + ".")]
    return [prefix + copy for copy in stacks]


def _has(shapes: Shapes, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in shapes)


def _heads(
    embedding: str, shapes: Shapes, config: Mapping[str, Any], tied: bool | None
) -> list[str]:
    """The heads that share the embedding: those stored if the config says so, or else implied."""
    stored = [n for n in shapes if is_head(n)]
    if stored:
        return stored if tied else []
    traced = dict.fromkeys(head for trace, head in _TRACES if trace in shapes)
    if traced:
        return list(traced)
    named = config.get("architectures")
    architectures = named if isinstance(named, list) else ()
    encoder = any(word in embedding for word in ("embeddings.word_embeddings", "token_embedding"))
    if encoder or any(_OTHER_HEAD.search(name) for name in shapes):
        return []
    if architectures and not any(_HEADED.search(str(a)) for a in architectures):
        return []
    return _implied(embedding, shapes)


def _implied(embedding: str, shapes: Shapes) -> list[str]:
    """The usual names of a head that is not stored, from the spelling of the embedding."""
    if embedding.endswith("embed_in.weight"):
        return ["lm_head.weight", "embed_out.weight"]
    if "decoder.embed_tokens" in embedding and any("encoder.conv1" in name for name in shapes):
        return ["proj_out.weight"]
    if embedding.startswith("language_model.model."):  # LLaVA's spelling on disk
        return ["language_model.lm_head.weight", "lm_head.weight"]
    return ["lm_head.weight"]

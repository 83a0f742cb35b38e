"""The words that the field uses for the parts of a network, as a table; the first match counts.

A pattern is searched in the path of a module inside its layer (outside of the layers: in its
whole name), in lower snake case: `attention.output.dense`, `mlp.experts.3.w1`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cermet.core.types import Role

__all__ = ["AFTER", "ANYWHERE", "BEFORE", "EARLY", "INSIDE", "OUTSIDE", "Rule"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table.

    Attributes
    ----------
    role: what a tensor is whose path matches.
    pattern: searched in the path.
    dims: least and most number of dimensions of the module's weight.
    beside: where not empty, one of these must stand beside the module in its parent.
    without: none of these may stand beside it.
    """

    role: Role
    pattern: re.Pattern[str]
    dims: tuple[int, int] = (0, 9)
    beside: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()


def _ends(names: str) -> re.Pattern[str]:
    """Paths whose last component is one of the names; numbers and plain wrappers aside."""
    return re.compile(rf"(?:^|\.)(?:{names})(?:\.linear|\.layer|\.\d+)*$")


def _under(parents: str, names: str) -> re.Pattern[str]:
    """Paths that end in one of the names, below a component in which a parent's name occurs."""
    return re.compile(
        rf"(?:^|\.)\w*(?:{parents})\w*\.(?:.*\.)?(?:{names})(?:\.linear|\.layer|\.\d+)*$"
    )


_VECTOR = (0, 1)
_MATRIX = (2, 9)

_ATTENTION = r"attn|attention|mha"
_MLP = r"mlp|ffn|feed_?forward|intermediate|moe|expert|dense_relu_dense|(?<![a-z])ff(?![a-z])"
_SSM = r"mamba|mixer|ssm|linear_attn|rg_lru|temporal_block|(?<![a-z])conv"
_RWKV = frozenset({"receptance"})
_DENSE_MLP = frozenset({"up", "up_proj", "down", "down_proj", "fc1", "fc2", "w1", "w2", "c_proj"})

ANYWHERE: tuple[Rule, ...] = (
    Rule(
        Role.BUFFER,
        _ends(
            r"position_ids|token_type_ids|(?:original_)?inv_freq|masked|num_batches_tracked"
            r"|freqs(?:_cis)?|relative_position_index|(?:cos|sin)_cached|(?:causal|attn)_mask"
        ),
    ),
    Rule(Role.BUFFER, _under(r"rotary|rope", r"\w+")),
    Rule(Role.NORM, _ends(r"\w*norm\d*|ln\d*")),
    Rule(Role.NORM, _ends(r"\w*norm\w*|(?:\w+_)?(?:ln|bn|gn|rms)(?:\d+|_\w+)?"), _VECTOR),
    Rule(
        Role.SCALE,
        _ends(
            r"logit|\w+_scale|ls_?\d?|(?:layer_?scale|layer_scalar)\w*|gamma_\d|lambda_?\w?\d?"
            r"|temperature|sinks?|\w*(?:attn|ffn|mlp)_gate|gate_(?:attn|ffn|mlp)"
        ),
        _VECTOR,
    ),
    Rule(Role.SCALE, _under(r"embedding", r"gate"), _VECTOR),
    Rule(Role.SCALE, re.compile(r"(?:^|\.)act_fn(?:\.|$)"), _VECTOR),
    Rule(Role.POSITION, _under(r"positional_embedding", r"\w*embedding")),
    Rule(
        Role.POSITION,
        _ends(
            r"wpe|pos(?:ition)?|(?:\w+_)?pos(?:itional|itions?)?_?(?:emb|encod|bias|table)\w*"
            r"|embed_pos\w*|rel(?:ative)?_(?:pos|attention|emb)\w*"
        ),
    ),
    Rule(Role.CONV, re.compile(r"(?:^|\.)patch(?:es)?_?(?:embed|conv|projection)\w*(?:\.|$)")),
    Rule(Role.CONV, _ends(r"(?:\w+_)?s?conv(?:olution)?\w*")),
)

_EMBEDDING = Rule(
    Role.EMBEDDING,
    _ends(
        r"wte|shared|probe|image_newline|emb|embed|embed_in|\w*embeddings?|embed_tokens\w*"
        r"|masked_spec_embed|tokens_embed|\w*tokens?|\w*latents?|\w*queries"
    ),
)

INSIDE: tuple[Rule, ...] = (
    Rule(Role.UP, _under(r"feed_forward|channel_mix|ffn", r"key"), beside=_RWKV),
    Rule(Role.DOWN, _under(r"feed_forward|channel_mix|ffn", r"value"), beside=_RWKV),
    Rule(
        Role.SSM,
        _under(_SSM, r"in_proj\w*|out_proj|out|linear_[xy]|linear_out"),
        without=frozenset({"q_proj"}),
    ),
    Rule(Role.SSM, _under(r"rg_lru", r"\w+")),
    Rule(Role.SSM, _ends(r"a_log|d|dt|dt_proj|x_proj|time_(?:decay|first|mix|maa)\w*")),
    Rule(Role.QKV, _ends(r"\w*qkv\w*|query_key_value|c_attn|w_pack|att_proj")),
    Rule(Role.QKV, _under(_ATTENTION, r"in_proj")),
    Rule(Role.KV, _ends(r"kv(?:_proj|_linear)?|kv_[ab]_proj(?:_with_mqa)?|key_value|to_kv|wkv\w*")),
    Rule(
        Role.Q,
        _ends(
            r"q|(?:pos_)?(?:q|query)(?:_[ab])?_(?:proj|lin|linear|layer|attn|global)"
            r"|query|wq\w*|to_q"
        ),
    ),
    Rule(
        Role.K, _ends(r"k|(?:pos_)?(?:k|key)_(?:proj|lin|linear|layer|global)|key|pos_proj|wk|to_k")
    ),
    Rule(Role.V, _ends(r"v|(?:v|value)_(?:proj|lin|linear|layer|global)|value|wv|to_v")),
    Rule(
        Role.ROUTER,
        _ends(r"\w*router(?:\.classifier)?|shared_expert_gate|e_score_correction"),
    ),
    Rule(Role.ROUTER, _ends(r"expert"), _VECTOR),
    Rule(Role.ROUTER, _under(rf"{_MLP}|mixer", r"gate"), without=_DENSE_MLP),
    Rule(
        Role.GATE_UP,
        _ends(r"gate_(?:and_)?up(?:_proj)?|up_gate_proj|w1[23]|weights_in|input_linear"),
    ),
    Rule(Role.O, _ends(r"o|o_proj|to_out|out_lin|linear_out|attn_out|attention_output")),
    Rule(
        Role.O,
        _under(_ATTENTION, r"out_proj|proj|projection(?:_layer)?|c_proj|dense|wo|out|output"),
    ),
    Rule(Role.GATE, _ends(r"gate|gate_(?:proj|linear)|\w+_gate|g_proj|fc1_g|fc12|wi_0|receptance")),
    Rule(Role.GATE, _ends(r"w1"), beside=frozenset({"w3", "v1"})),
    Rule(Role.DOWN, _ends(r"w3"), beside=frozenset({"w12"})),
    Rule(Role.GATE, _ends(r"w2"), beside=frozenset({"c_proj"}), without=frozenset({"w3"})),
    Rule(
        Role.UP,
        _ends(
            r"up|up_proj|(?:linear_)?fc_?1(?:_x)?|fc11|c_fc|fc_in|dense_h_to_4h|wi"
            r"|intermediate(?:_query)?[._]dense|pwconv1|wi_1|w1|w3|v1|lin_?1|linear_?1"
            r"|dense_?1|ff_proj|ffn"
        ),
        _MATRIX,
    ),
    Rule(
        Role.DOWN,
        _ends(
            r"down|down_proj|(?:linear_)?fc_?2|fc_out|dense_4h_to_h|wo|w2|lin_?2"
            r"|output(?:_query)?[._]dense|pwconv2|weights_out|linear_?2|dense_?2|ff_out"
            r"|ffn_output|output_linear"
        ),
        _MATRIX,
    ),
    Rule(Role.DOWN, _under(_MLP, r"c_proj|out_proj|output|proj|dense"), _MATRIX),
    Rule(Role.O, _ends(r"out_proj"), _MATRIX),
    Rule(Role.HEAD, _ends(r"shared_head\.head")),
    Rule(Role.UP, re.compile(rf"(?:^|\.)(?:{_MLP}|net)\.0$"), _MATRIX),
    Rule(Role.DOWN, re.compile(rf"(?:^|\.)(?:{_MLP}|net)\.[1-9]$"), _MATRIX),
    _EMBEDDING,
)

_PROJECTOR = (
    r"(?!vocab)\w*projector\w*|multi_?modal\w*|mm_proj\w*|\w*merger\w*|connector|aligner"
    r"|\w*resampler|\w*adapter|enc_to_dec_proj|embed_(?:vision|audio)"
    r"|(?:visual|text|vision|image|audio|language|modality)_proj(?:ection)?"
)
_HEAD = (
    r"\w*head|heads|embed_out|\w*classifier|classification|scores?|pooler|cls|\w*predictions?"
    r"|qa_outputs|vocab_[a-z]+|seq_relationship|summary|final_logits"
)

OUTSIDE: tuple[Rule, ...] = (
    _EMBEDDING,
    Rule(Role.PROJECTOR, re.compile(rf"(?:^|\.)(?:{_PROJECTOR})(?:\.|$)")),
    Rule(Role.HEAD, re.compile(r"^(?:proj_out|output|decoder|(?:\w+\.)?(?:fc|output_layer))$")),
    # A pooling head with attention of its own (SigLIP) keeps the roles of its projections.
    Rule(
        Role.HEAD,
        re.compile(rf"^(?!.*(?:{_ATTENTION}|mlp)\w*\.)(?:.*\.)?(?:{_HEAD})(?:\.|$)"),
    ),
    *INSIDE,
)

AFTER = re.compile(
    rf"(?:^|\.)(?:{_PROJECTOR}|{_HEAD}|proj_out|output|project_out|logit\w*"
    r"|post_tile\w*|embedding_norm|\w*norm_after)(?:\.|$)"
)
"""Paths outside of the layers that are used after them, whatever their role."""

BEFORE = re.compile(
    r"(?<!un)emb|patch|stem|(?:^|[._])(?:pre(?!d)|conv(?!next|bert)|input|project_in)"
    r"|feature_projection|_(?:pre|in)(?:\.|$)|q_?former\.layer_?norm$|(?:^|\.)per_layer_|altup_projections"
)
"""Paths outside of the layers, and not in AFTER, that are used before them."""

EARLY = frozenset({"rel_embeddings"})
"""A norm beside one of these is used before the layers: DeBERTa's of the relative positions."""

"""Checkpoints that transformers does not build: code of their own on the hub, older libraries.

One layer of each, name by name, by hand. Hidden size 4; what is not told is a matrix [4, 4].
"""

from __future__ import annotations

import pytest

from cermet.anatomy import survey

_SHAPES = {"norm": (4,), "scale": (4,), "gate_up": (16, 4), "up": (8, 4), "gate": (8, 4)}
_SHAPES |= {"down": (4, 8), "qkv": (12, 4), "conv": (4, 1, 3), "buffer": (2,)}

_MODELS = {
    "Qwen 1: w2 has the activation": """
        transformer.h.0.ln_1.weight norm
        transformer.h.0.attn.c_attn.weight qkv
        transformer.h.0.attn.c_proj.weight o
        transformer.h.0.mlp.w1.weight up
        transformer.h.0.mlp.w2.weight gate
        transformer.h.0.mlp.c_proj.weight down
        transformer.wte.weight embedding
        transformer.ln_f.weight norm""",
    "Baichuan": """
        model.layers.0.self_attn.W_pack.weight qkv
        model.layers.0.self_attn.o_proj.weight o
        model.layers.0.self_attn.rotary_emb.inv_freq buffer
        model.layers.0.mlp.gate_proj.weight gate""",
    "InternLM 2": """
        model.tok_embeddings.weight embedding
        model.layers.0.attention.wqkv.weight qkv
        model.layers.0.attention.wo.weight o
        model.layers.0.feed_forward.w1.weight gate
        model.layers.0.feed_forward.w2.weight down
        model.layers.0.feed_forward.w3.weight up
        model.layers.0.attention_norm.weight norm
        output.weight head""",
    "Llama as Meta wrote it": """
        tok_embeddings.weight embedding
        rope.freqs buffer
        layers.0.attention.wq.weight q
        layers.0.attention.wk.weight k
        layers.0.attention.wv.weight v
        layers.0.attention.wo.weight o
        layers.0.feed_forward.w1.weight gate
        layers.0.feed_forward.w2.weight down
        layers.0.feed_forward.w3.weight up
        norm.weight norm
        output.weight head""",
    "ChatGLM: gate and up are one, by their shape": """
        transformer.embedding.word_embeddings.weight embedding
        transformer.rotary_pos_emb.inv_freq buffer
        transformer.encoder.layers.0.self_attention.query_key_value.weight qkv
        transformer.encoder.layers.0.self_attention.dense.weight o
        transformer.encoder.layers.0.mlp.dense_h_to_4h.weight gate_up
        transformer.encoder.layers.0.mlp.dense_4h_to_h.weight down
        transformer.encoder.final_layernorm.weight norm
        transformer.output_layer.weight head""",
    "GPT-NeoX without a gate: up is as tall as down is wide": """
        gpt_neox.layers.0.mlp.dense_h_to_4h.weight up
        gpt_neox.layers.0.mlp.dense_4h_to_h.weight down""",
    "OpenCLIP": """
        visual.conv1.weight conv
        visual.class_embedding embedding
        visual.positional_embedding position
        visual.transformer.resblocks.0.ln_1.weight norm
        visual.transformer.resblocks.0.attn.in_proj_weight qkv
        visual.transformer.resblocks.0.attn.out_proj.weight o
        visual.transformer.resblocks.0.mlp.c_fc.weight up
        visual.transformer.resblocks.0.mlp.c_proj.weight down
        visual.transformer.resblocks.0.ls_1.gamma scale
        token_embedding.weight embedding
        text_projection projector
        logit_scale scale""",
    "timm": """
        cls_token embedding
        pos_embed position
        patch_embed.proj.weight conv
        blocks.0.attn.qkv.weight qkv
        blocks.0.attn.proj.weight o
        blocks.0.mlp.fc1.weight up
        blocks.0.mlp.fc2.weight down
        blocks.0.norm1.weight norm
        head.weight head""",
    "torch.nn.TransformerEncoder": """
        layers.0.self_attn.in_proj_weight qkv
        layers.0.self_attn.out_proj.weight o
        layers.0.linear1.weight up
        layers.0.linear2.weight down
        layers.0.norm1.weight norm""",
    "a sequence of modules": """
        blocks.0.mlp.0.weight up
        blocks.0.mlp.2.weight down
        blocks.0.norm.weight norm""",
    "SwiGLU of DINOv2, by its authors": """
        blocks.0.mlp.w12.weight gate_up
        blocks.0.mlp.w3.weight down
        blocks.0.norm2.weight norm""",
    "SwiGLU of DINOv2, by transformers": """
        encoder.layer.0.mlp.weights_in.weight gate_up
        encoder.layer.0.mlp.weights_out.weight down""",
    "Swin 2": """
        layers.0.attn.logit_scale scale
        layers.0.attn.relative_position_index buffer
        layers.0.attn.relative_position_bias_table position
        layers.0.attn.qkv.weight qkv""",
    "weights with a norm apart": """
        layers.0.conv.weight_g conv
        layers.0.conv.weight_v conv
        layers.0.ffn.up_proj.weight up""",
    "LoRA layers saved with their model": """
        model.layers.0.self_attn.q_proj.base_layer.weight q
        model.layers.0.mlp.down_proj.base_layer.weight down""",
}


@pytest.mark.parametrize("model", _MODELS)
def test_every_name_has_its_role(model: str) -> None:
    expected = dict(line.split() for line in _MODELS[model].strip().splitlines())
    shapes = {name: _SHAPES.get(role, (4, 4)) for name, role in expected.items()}
    places = survey(shapes, {}).places
    assert {name: str(place.role) for name, place in places.items()} == expected
    inside = {name: place.layer for name, place in places.items() if ".0." in f".{name}"}
    assert set(inside.values()) == {0}

"""The class and the small config of every family; three layers, unless they are the point."""

from __future__ import annotations

from typing import Any

__all__ = ["CLASSES", "EXPERTS"]

EXPERTS = 4

_BASIC = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
_DENSE = {**_BASIC, "num_key_value_heads": 2}
_PADDED = {**_DENSE, "pad_token_id": 0}
_WIDE = {**_DENSE, "head_dim": 8}
_GPT = {"vocab_size": 64, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 16}
_MIXED = {**_DENSE, "num_local_experts": EXPERTS}
_ROUTED = {**_WIDE, "num_experts": EXPERTS, "moe_intermediate_size": 24}
_SHARED = {**_ROUTED, "shared_expert_intermediate_size": 24}
_MAMBA = {"mamba_d_state": 4, "mamba_n_groups": 1, "mamba_n_heads": 4, "mamba_d_head": 8}
_SEQ2SEQ = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
}
_IMAGE = {"image_size": 16, "patch_size": 8}
_VISION = {**_IMAGE, **_BASIC, "num_hidden_layers": 2}
_HEADLESS = {**_VISION, "vision_use_head": False}
_TEXT = {**_BASIC, "max_position_embeddings": 16}
_OPT = {**_TEXT, "ffn_dim": 48, "word_embed_proj_dim": 16}
_T5 = {"vocab_size": 64, "d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 3, "num_heads": 4}
_RELATIVE = {
    "relative_attention": True,
    "position_buckets": 8,
    "pos_att_type": ["p2c", "c2p"],
}
_QWEN_EYES = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 8}


def _typed(model_type: str, sizes: dict[str, Any]) -> dict[str, Any]:
    return {"model_type": model_type, **sizes}


Sized = tuple[str, dict[str, Any]]

_DECODERS: dict[str, Sized] = {
    "llama": ("LlamaForCausalLM", _DENSE),
    "mistral": ("MistralForCausalLM", _DENSE),
    "qwen2": ("Qwen2ForCausalLM", _DENSE),
    "qwen3": ("Qwen3ForCausalLM", _WIDE),
    "gemma2": ("Gemma2ForCausalLM", _WIDE),
    "gemma3_text": ("Gemma3ForCausalLM", _WIDE),
    "gemma3n_text": (
        "Gemma3nForCausalLM",
        {
            **_WIDE,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 64,
            "laurel_rank": 4,
            "num_kv_shared_layers": 0,
        },
    ),
    "diffllama": ("DiffLlamaForCausalLM", _DENSE),
    "apertus": ("ApertusForCausalLM", _DENSE),
    "phi3": ("Phi3ForCausalLM", _PADDED),
    "phi": ("PhiForCausalLM", _DENSE),
    "olmo2": ("Olmo2ForCausalLM", _DENSE),
    "glm4": ("Glm4ForCausalLM", _PADDED),
    "cohere": ("CohereForCausalLM", _DENSE),
    "starcoder2": ("Starcoder2ForCausalLM", _DENSE),
    "gpt2": ("GPT2LMHeadModel", _GPT),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", _GPT),
    "gptj": ("GPTJForCausalLM", {**_GPT, "rotary_dim": 4}),
    "gpt_neox": ("GPTNeoXForCausalLM", _BASIC),
    "opt": ("OPTForCausalLM", _OPT),
    "falcon": ("FalconForCausalLM", _BASIC),
    "falcon_40b": (
        "FalconForCausalLM",
        {**_BASIC, "new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    "bloom": ("BloomForCausalLM", {**_GPT, "hidden_size": 32}),
    "mpt": ("MptForCausalLM", {"vocab_size": 64, "d_model": 32, "n_heads": 4, "n_layers": 3}),
}
_MIXTURES: dict[str, Sized] = {
    "mixtral": ("MixtralForCausalLM", _MIXED),
    "qwen2_moe": ("Qwen2MoeForCausalLM", _SHARED),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {**_ROUTED, "mlp_only_layers": [1]}),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        {
            **_DENSE,
            "n_routed_experts": EXPERTS,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "moe_intermediate_size": 24,
            "first_k_dense_replace": 1,
            "num_nextn_predict_layers": 1,
            "q_lora_rank": 16,
            "kv_lora_rank": 8,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 8,
        },
    ),
    "granitemoeshared": (
        "GraniteMoeSharedForCausalLM",
        {**_MIXED, "shared_intermediate_size": 24},
    ),
    "gpt_oss": ("GptOssForCausalLM", {**_MIXED, "head_dim": 8}),
    "llama4_text": (
        "Llama4ForCausalLM",
        {**_MIXED, "head_dim": 8, "interleave_moe_layer_step": 2, "intermediate_size_mlp": 48},
    ),
}
_HYBRIDS: dict[str, Sized] = {
    "mamba": ("MambaForCausalLM", {**_BASIC, "state_size": 4}),
    "mamba2": (
        "Mamba2ForCausalLM",
        {**_BASIC, "state_size": 4, "num_heads": 8, "head_dim": 8, "n_groups": 1},
    ),
    "jamba": (
        "JambaForCausalLM",
        {
            **_DENSE,
            "num_experts": EXPERTS,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
        },
    ),
    "lfm2": ("Lfm2ForCausalLM", {**_DENSE, "full_attn_idxs": [1]}),
    "falcon_h1": ("FalconH1ForCausalLM", {**_WIDE, **_MAMBA, "mamba_d_ssm": 32}),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        {
            **_SHARED,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "full_attention_interval": 2,
        },
    ),
    "recurrent_gemma": (
        "RecurrentGemmaForCausalLM",
        {**_WIDE, "lru_width": 32, "attention_window_size": 8},
    ),
    "rwkv": ("RwkvForCausalLM", {**_BASIC, "attention_hidden_size": 32}),
}
_ENCODERS: dict[str, Sized] = {
    "bert": ("BertForPreTraining", _BASIC),
    "roberta": ("RobertaForMaskedLM", _BASIC),
    "xlm_roberta_classifier": ("XLMRobertaForSequenceClassification", _BASIC),
    "modernbert": ("ModernBertForMaskedLM", {**_BASIC, "pad_token_id": 0}),
    "longformer": ("LongformerForMaskedLM", _BASIC),
    "nomic_bert": ("NomicBertModel", _BASIC),
    "esm": ("EsmForMaskedLM", {**_BASIC, "pad_token_id": 0, "mask_token_id": 1}),
    "deberta": ("DebertaForMaskedLM", {**_BASIC, **_RELATIVE}),
    "deberta_v2": (
        "DebertaV2ForMaskedLM",
        {**_BASIC, **_RELATIVE, "share_att_key": True, "norm_rel_ebd": "layer_norm"},
    ),
    "deberta_v2_conv": (
        "DebertaV2ForSequenceClassification",
        {**_BASIC, **_RELATIVE, "conv_kernel_size": 3},
    ),
    "electra": ("ElectraForPreTraining", {**_BASIC, "embedding_size": 16}),
    "distilbert": (
        "DistilBertForMaskedLM",
        {"vocab_size": 64, "dim": 32, "hidden_dim": 48, "n_layers": 3, "n_heads": 4},
    ),
    "albert": ("AlbertForMaskedLM", {**_BASIC, "embedding_size": 16}),
    "mpnet": ("MPNetForMaskedLM", _BASIC),
    "t5": ("T5ForConditionalGeneration", _T5),
    "t5_v1_1": (
        "T5ForConditionalGeneration",
        {
            **_T5,
            "num_decoder_layers": 2,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
        },
    ),
    "bart": ("BartForConditionalGeneration", {**_SEQ2SEQ, "max_position_embeddings": 16}),
    "whisper": (
        "WhisperForConditionalGeneration",
        {
            **_SEQ2SEQ,
            "max_source_positions": 16,
            "max_target_positions": 16,
            "num_mel_bins": 8,
            "pad_token_id": 0,
        },
    ),
}
_SENSES: dict[str, Sized] = {
    "vit": ("ViTForImageClassification", {**_BASIC, **_IMAGE}),
    "dinov2": ("Dinov2ForImageClassification", {**_BASIC, **_IMAGE, "mlp_ratio": 2}),
    "beit": (
        "BeitForImageClassification",
        {**_BASIC, **_IMAGE, "use_relative_position_bias": True},
    ),
    "clip": (
        "CLIPModel",
        {"text_config": _TEXT, "vision_config": _VISION, "projection_dim": 16},
    ),
    "siglip": ("SiglipModel", {"text_config": _TEXT, "vision_config": _VISION}),
    "convnext": (
        "ConvNextForImageClassification",
        {"hidden_sizes": [8, 16], "depths": [2, 2], "num_stages": 2},
    ),
    "wav2vec2": (
        "Wav2Vec2ForCTC",
        {
            **_BASIC,
            "conv_dim": [32, 32],
            "conv_stride": [2, 2],
            "conv_kernel": [3, 3],
            "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2,
            "do_stable_layer_norm": True,
        },
    ),
}
_MULTIMODAL: dict[str, Sized] = {
    "llava": (
        "LlavaForConditionalGeneration",
        {
            "text_config": _typed("llama", _DENSE),
            "vision_config": _typed("clip_vision_model", _VISION),
        },
    ),
    "paligemma": (
        "PaliGemmaForConditionalGeneration",
        {
            "text_config": _typed("gemma", _WIDE),
            "vision_config": _typed("siglip_vision_model", _HEADLESS),
            "projection_dim": 32,
        },
    ),
    "gemma3": (
        "Gemma3ForConditionalGeneration",
        {
            "text_config": _typed("gemma3_text", _WIDE),
            "vision_config": _typed("siglip_vision_model", _HEADLESS),
            "mm_tokens_per_image": 4,
        },
    ),
    "idefics3": (
        "Idefics3ForConditionalGeneration",
        {"text_config": _typed("llama", _DENSE), "vision_config": _VISION},
    ),
    "qwen2_vl": (
        "Qwen2VLForConditionalGeneration",
        {"text_config": _DENSE, "vision_config": {**_QWEN_EYES, "mlp_ratio": 2}},
    ),
    "internvl": (
        "InternVLForConditionalGeneration",
        {"text_config": _typed("qwen2", _DENSE), "vision_config": _VISION},
    ),
    "blip2": (
        "Blip2ForConditionalGeneration",
        {
            "text_config": _typed("opt", {**_OPT, "word_embed_proj_dim": 32}),
            "vision_config": _VISION,
            "qformer_config": {**_BASIC, "encoder_hidden_size": 32},
        },
    ),
    "mllama": (
        "MllamaForConditionalGeneration",
        {
            "text_config": {**_PADDED, "cross_attention_layers": [1]},
            "vision_config": {
                **_IMAGE,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_global_layers": 1,
                "attention_heads": 4,
                "vision_output_dim": 64,
                "intermediate_layers_indices": [0],
                "supported_aspect_ratios": [[1, 1]],
                "max_num_tiles": 1,
            },
        },
    ),
}
CLASSES = {**_DECODERS, **_MIXTURES, **_HYBRIDS, **_ENCODERS, **_SENSES, **_MULTIMODAL}

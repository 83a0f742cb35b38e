"""What a config says about the number of layers, and what it says layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["layer_count", "layer_count_keys", "module_count_keys", "per_layer_lists", "text_path"]

Path = tuple[str, ...]

_TEXT_CONFIGS: tuple[Path, ...] = (
    ("text_config",),
    ("language_config",),
    ("llm_config",),
    ("thinker_config", "text_config"),
    ("decoder",),
)
_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth", "encoder_layers")
# Usually one number for the model; where a config lists them, it lists them by layer.
_LISTED_BY_LAYER = frozenset(
    {"intermediate_size", "num_key_value_heads", "num_attention_heads", "num_kv_heads"}
    | {"num_query_heads", "ffn_multipliers", "activation_sparsity_pattern", "sliding_window"}
    | {"block_configs", "layers_block_type", "head_dim", "ffn_hidden_size"}
)


def _at(config: Mapping[str, Any], path: Path) -> Any:
    found: Any = config
    for step in path:
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def text_path(config: Mapping[str, Any]) -> Path:
    """Where the config of the main stack lies inside that of the whole; () where it is flat."""
    for path in _TEXT_CONFIGS:
        if isinstance(_at(config, path), Mapping):
            return path
    return ()


def _count_names(own: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys of one flat config that hold the number of layers of its main stack."""
    if _is_count(own.get("decoder_layers")):  # BART, Whisper: num_hidden_layers is the encoder's
        return ("decoder_layers",)
    if own.get("is_encoder_decoder") and (
        "num_decoder_layers" in own or _is_count(own.get("num_layers"))
    ):  # T5: a decoder without a number of its own has the encoder's, until it is sliced
        return ("num_decoder_layers",)
    present = [key for key in _COUNTS if _is_count(own.get(key))]
    return tuple(key for key in present if own[key] == own[present[0]])


def layer_count_keys(config: Mapping[str, Any]) -> tuple[Path, ...]:
    """Paths into the config that hold the number of layers of the main stack.

    All of them have to be set for the number to change. The last step of a path may be
    missing in the config (a T5 without `num_decoder_layers`). Where layers share weights
    (ALBERT), it is the number of groups, of which each is stored once. Empty where the config
    says nothing.
    """
    inner = text_path(config)
    own = _at(config, inner)
    if "num_hidden_groups" in own:
        return ((*inner, "num_hidden_groups"),)
    names = _count_names(own)
    paths = [(*inner, name) for name in names]
    if inner:  # Qwen2-VL repeats the language model's numbers at the top
        paths += [(n,) for n in names if n in config and config[n] == own.get(n)]
    return tuple(paths)


def module_count_keys(config: Mapping[str, Any], module: str, layers: int) -> tuple[Path, ...]:
    """Paths into the config that hold the number of layers of an encoder or a tower.

    module: ``encoder``, or a tower such as ``vision_tower``. Empty where the config does not
    say that it has `layers` of them.
    """
    inner: Path = () if module == "encoder" else (f"{module.removesuffix('_tower')}_config",)
    if module == "encoder" and isinstance(config.get("encoder"), Mapping):
        inner = ("encoder",)
    own = _at(config, inner)
    if not isinstance(own, Mapping):
        return ()
    names = [key for key in _COUNTS if key in own and own[key] == layers]
    if names and inner == () and _is_count(own.get("encoder_layers")):
        return tuple((name,) for name in names if own["encoder_layers"] == layers)
    return tuple((*inner, name) for name in names)


def layer_count(config: Mapping[str, Any]) -> int | None:
    """The number of layers that the config gives for the main stack, if it does."""
    keys = layer_count_keys(config)
    if not keys:
        return None
    value = _at(config, keys[0])
    if value is None and keys[0][-1] == "num_decoder_layers":
        value = _at(config, (*keys[0][:-1], "num_layers"))
    return value if _is_count(value) else None


def _names_layers(key: str) -> bool:
    return key in _LISTED_BY_LAYER or key.startswith(("layer_", "layers_")) or "_layer" in key


def _numbers_layers(value: list[Any]) -> bool:
    """Whether a list names layers by their number instead of having an entry for each."""
    whole = all(isinstance(v, int) and not isinstance(v, bool) for v in value)
    return whole and value == sorted(set(value)) and not set(value) <= {0, 1}


def per_layer_lists(config: Mapping[str, Any], layers: int) -> tuple[Path, ...]:
    """Paths of the lists in the config that have one entry for each of `layers` layers.

    Only lists whose key speaks of layers, or holds one number in most models: a list of the
    right length by chance (`eos_token_id`, `mrope_section`, `architectures`) is not one, nor
    is a list of layer numbers (`mlp_only_layers`). Vision and audio parts are not looked at.
    """
    inner = text_path(config)
    places = [inner, ()] if inner else [()]

    def search() -> Iterator[Path]:
        for place in places:
            for key, value in _at(config, place).items():
                if isinstance(value, list) and len(value) == layers and _names_layers(key):
                    listed = key in _LISTED_BY_LAYER
                    if listed or not _numbers_layers(value):
                        yield (*place, key)

    return tuple(search()) if layers > 0 else ()

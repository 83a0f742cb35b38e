"""What a path holds that is not read: the name of the format, and the way to one that is."""

from __future__ import annotations

from pathlib import Path

__all__ = ["foreign_format"]

_PICKLED = (
    "a pickle of PyTorch's; load it as its program does, and save the model with save_pretrained"
)
_GGUF = (
    "GGUF of llama.cpp, whose packed numbers cannot be merged; give the model that it was made from"
)
_BY_NAME = (
    ("*.gguf", _GGUF),
    ("*.ggml", _GGUF),
    ("flax_model*.msgpack", "weights of Flax; load them with from_flax=True and save them again"),
    ("tf_model*.h5", "weights of TensorFlow; load them with from_tf=True and save them again"),
    ("*.onnx", "an ONNX graph, for inference; give the model that it was exported from"),
    ("consolidated*.pth", "the original form of Llama; convert it with transformers' own script"),
    ("*.distcp", "a distributed checkpoint of PyTorch; join it with torch.distributed.checkpoint"),
    ("zero_to_fp32.py", "a checkpoint of DeepSpeed's; run its zero_to_fp32.py first"),
    ("*.nemo", "an archive of NeMo's; convert it with NeMo's own script"),
    ("*.npz", "arrays of numpy or MLX; save them as safetensors"),
    (
        "*.engine",
        "an engine of TensorRT, for inference; give the model that it was built from",
    ),
    ("*.pt", _PICKLED),
    ("*.pth", _PICKLED),
    ("*.ckpt", _PICKLED),
    ("*.h5", "a file of Keras; save its weights as safetensors"),
    ("*.bin", "a .bin that is not called pytorch_model.bin; rename it if it is one"),
)
_PARTS = ("unet", "transformer", "text_encoder", "vae", "0_Transformer")


def foreign_format(path: Path) -> str | None:
    """A clause on what a file or folder holds instead of weights that are read; None if unknown."""
    if path.is_file():
        return next((told for pattern, told in _BY_NAME if path.match(pattern)), None)
    inside = [part for part in _PARTS if (path / part).is_dir()]
    if inside:
        return f"a pipeline of several models; give one of them, such as '{path / inside[0]}'"
    if (path / "adapter_config.json").is_file():
        return "an adapter; write model+adapter"
    return next((told for pattern, told in _BY_NAME if any(path.glob(pattern))), None)

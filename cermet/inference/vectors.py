"""Vectors of texts and images, and a classifier's logits, in batches of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8

from cermet.core.errors import InputError
from cermet.inference.encoder import mean_pool
from cermet.inference.network import Network
from cermet.inference.tokens import Row, batches, marked, padded

__all__ = ["Tick", "image_vectors", "label_logits", "text_vectors"]

Tick = Callable[[int], None]
"""Gets the number of examples that are newly done."""

_TOKENS = 4096  # of a batch of texts
_ROWS = 256
_IMAGES = 64


def text_vectors(
    network: Network, rows: Sequence[Row], tick: Tick
) -> Float[torch.Tensor, "texts width"]:
    """The mean of each text's last hidden states, in the order of the rows."""

    def pooled(
        ids: Int[torch.Tensor, "texts tokens"], mask: Int[torch.Tensor, "texts tokens"] | None
    ) -> Any:
        hidden = network.module(input_ids=ids, attention_mask=mask).last_hidden_state
        return hidden.mean(1) if mask is None else mean_pool(hidden, mask)

    return _by_batch(network, rows, tick, pooled)


def label_logits(
    network: Network, rows: Sequence[Row], tick: Tick
) -> Float[torch.Tensor, "texts labels"]:
    """A sequence classifier's logits, in the order of the rows."""

    def logits(
        ids: Int[torch.Tensor, "texts tokens"], mask: Int[torch.Tensor, "texts tokens"] | None
    ) -> Any:
        return network.module(input_ids=ids, attention_mask=mask).logits

    return _by_batch(network, rows, tick, logits)


def image_vectors(
    network: Network, images: UInt8[torch.Tensor, "images channels height width"], tick: Tick
) -> Float[torch.Tensor, "images hidden"]:
    """The last hidden state of the first token, which ViT calls CLS, of each image.

    Pixels are brought from [0, 255] to [-1, 1]. Raises InputError where the encoder takes no such
    images.
    """
    _check_images(network, images)
    found = []
    # cuDNN would round what a convolution reads to the ten bits of TF32.
    whole = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with torch.inference_mode(), whole if network.device.type == "cuda" else nullcontext():
        for start in range(0, len(images), _IMAGES):
            part = images[start : start + _IMAGES]
            pixels = network.moved(part).float() / 255 * 2 - 1
            found.append(network.module(pixel_values=pixels).last_hidden_state[:, 0])
            tick(len(part))
    return torch.cat(found).float().cpu()


def _check_images(
    network: Network, images: UInt8[torch.Tensor, "images channels height width"]
) -> None:
    config = network.module.config
    size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", None)
    if size is None or channels is None:
        raise InputError(f"'{network.folder}' is no encoder of images.")
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if tuple(images.shape[1:]) != (channels, *sides):
        raise InputError(
            f"'{network.folder}' takes images of {channels} x {sides[0]} x {sides[1]}, not "
            f"{' x '.join(map(str, images.shape[1:]))}."
        )


def _by_batch(
    network: Network, rows: Sequence[Row], tick: Tick, run: Callable[..., torch.Tensor]
) -> Float[torch.Tensor, "texts width"]:
    lengths = [len(r) for r in rows]
    filler = getattr(network.config, "pad_token_id", None) or 0
    order, found = list[int](), []
    with torch.inference_mode():
        for batch in batches(lengths, _TOKENS, _ROWS):
            ids = network.moved(padded([rows[i] for i in batch], filler))
            mask = None
            if lengths[batch[0]] != lengths[batch[-1]]:
                mask = network.moved(marked([rows[i] for i in batch]))
            found.append(run(ids, mask))
            order += batch
            tick(len(batch))
    joined = torch.cat(found).float().cpu()
    return torch.empty_like(joined).index_copy_(0, torch.tensor(order), joined)

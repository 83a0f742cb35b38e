"""Vision encoders with frozen heads: a base that learns what scenes show, and experts of tasks.

A head is a linear discriminant on the base's features of a few labelled images. Heads never learn
after that, so experts and merges of them share the heads, and all that is learnt lies in the
encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from cermet.inference.loading import library, quiet
from cermet.inference.threads import with_threads
from cermet.zoo.drawing import SIZE
from cermet.zoo.images import Images
from cermet.zoo.scenes import scenes
from cermet.zoo.steps import Tick
from cermet.zoo.train import Course, train

__all__ = [
    "THREADS",
    "Form",
    "Head",
    "features",
    "fit_head",
    "load_encoder",
    "new_encoder",
    "pretrain",
    "tune",
]

THREADS = 1
"""Threads of the training, part of what decides the bits: matrices this small gain nothing from a
second one, and lose much where other work runs beside them."""

_BATCH = 256  # images in one forward pass without gradients: bounded memory

Encoder: TypeAlias = Any
"""transformers' ViTModel without a pooler."""


@dataclass(frozen=True)
class Form:
    """The shape of the encoder."""

    width: int = 128
    layers: int = 4
    heads: int = 4
    inner: int = 256
    patch: int = 6


@dataclass(frozen=True)
class Head:
    """A frozen linear layer on the features of an encoder."""

    weight: Float[torch.Tensor, "labels width"]
    bias: Float[torch.Tensor, "labels"]

    def __call__(self, found: Float[torch.Tensor, "n width"]) -> Float[torch.Tensor, "n labels"]:
        return torch.nn.functional.linear(found, self.weight, self.bias)


def new_encoder(form: Form, seed: int) -> Encoder:
    """An untrained encoder. Raises ExtraError where transformers is missing."""
    transformers = library("Training a model")
    config = transformers.ViTConfig(
        hidden_size=form.width, num_hidden_layers=form.layers, num_attention_heads=form.heads,
        intermediate_size=form.inner, image_size=SIZE, patch_size=form.patch, num_channels=1,
        initializer_range=form.width**-0.5,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.ViTModel(config, add_pooling_layer=False)


def load_encoder(folder: Path) -> Encoder:
    """The encoder of a folder. Raises ExtraError where transformers is missing."""
    transformers = library("Training a model")
    with quiet():
        return transformers.ViTModel.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, add_pooling_layer=False
        )


def _pooled(
    encoder: Encoder, pixels: UInt8[np.ndarray, "n 1 h w"]
) -> Float[torch.Tensor, "n width"]:
    values = torch.from_numpy(pixels).float() / 255 * 2 - 1
    found: torch.Tensor = encoder(pixel_values=values).last_hidden_state[:, 0]
    return found


def features(
    encoder: Encoder, pixels: UInt8[np.ndarray, "n 1 h w"]
) -> Float[torch.Tensor, "n width"]:
    """What a head sees of each image."""
    encoder.eval()
    with with_threads(THREADS), torch.inference_mode():
        parts = [_pooled(encoder, pixels[i : i + _BATCH]) for i in range(0, len(pixels), _BATCH)]
        return torch.cat(parts)


def fit_head(
    found: Float[torch.Tensor, "n width"],
    labels: Int[np.ndarray, "n"],
    shrink: float = 0.5,
    spread: float = 2.0,
) -> Head:
    """The linear discriminant of labelled features, every label as likely as any other.

    The covariance within the labels is taken in float64 and shrunk towards a multiple of the
    identity of the same trace by the share `shrink`, since few examples give it. They also make the
    discriminant far too sure of itself, and an encoder that learns under it hardly moves towards
    what it should say. So the logits of an example are scaled to a standard deviation of `spread`
    on average.
    """
    x, y = found.double(), torch.from_numpy(labels)
    means = torch.stack([x[y == label].mean(dim=0) for label in range(int(y.max()) + 1)])
    centred = x - means[y]
    within = centred.T @ centred / len(x)
    width = within.shape[0]
    round_ = torch.eye(width, dtype=torch.float64) * within.trace() / width
    weight = torch.linalg.solve((1 - shrink) * within + shrink * round_, means.T).T
    bias = -(weight * means).sum(dim=1) / 2
    bias -= bias.mean()
    scale = spread / (x @ weight.T + bias).std(dim=1).mean()
    return Head((weight * scale).float().contiguous(), (bias * scale).float())


def pretrain(
    encoder: Encoder, random: np.random.Generator, count: int, course: Course, tick: Tick
) -> None:
    """Teach an encoder to say what `count` scenes show, through a linear layer that is dropped."""
    pixels, told = scenes(random, count)
    told -= told.mean(axis=0)
    told /= np.maximum(told.std(axis=0), 1e-3)
    numbers, width = told.shape[1], encoder.config.hidden_size
    layer = Head(
        torch.zeros(numbers, width, requires_grad=True), torch.zeros(numbers, requires_grad=True)
    )
    wanted = torch.from_numpy(told)

    def loss(rows: Int[np.ndarray, "rows"]) -> Float[torch.Tensor, ""]:
        said = layer(_pooled(encoder, pixels[rows]))
        return torch.nn.functional.mse_loss(said, wanted[rows])

    learning = [*encoder.parameters(), layer.weight, layer.bias]
    _train(learning, random, count, loss, course, tick)


def tune(
    encoder: Encoder,
    tasks: Sequence[tuple[Images, Head]],
    random: np.random.Generator,
    course: Course,
    tick: Tick,
) -> None:
    """Tune an encoder in place on tasks, as many images of each in every batch; heads stay.

    Only matrices learn. Embeddings, norms and biases stay the base's: what they do to one image
    they do to all, so experts of different tasks would get in each other's way.
    """
    for weight in encoder.parameters():
        weight.requires_grad_(weight.dim() == 2)
    learning = [weight for weight in encoder.parameters() if weight.requires_grad]
    count = max(len(images) for images, _ in tasks)

    def loss(rows: Int[np.ndarray, "rows"]) -> Float[torch.Tensor, ""]:
        chosen = [images.rows(rows % len(images)) for images, _ in tasks]
        found = _pooled(encoder, np.concatenate([images.pixels for images in chosen]))
        losses = [
            torch.nn.functional.cross_entropy(head(part), torch.from_numpy(images.labels))
            for images, (_, head), part in zip(
                chosen, tasks, torch.split(found, len(rows)), strict=True
            )
        ]
        return torch.stack(losses).mean()

    _train(learning, random, count, loss, course, tick)


def _train(
    learning: Sequence[torch.Tensor],
    random: np.random.Generator,
    count: int,
    loss: Callable[[Int[np.ndarray, "rows"]], Float[torch.Tensor, ""]],
    course: Course,
    tick: Tick,
) -> None:
    """Train on `count` images, those of each epoch in a new order."""
    assert course.epochs is not None  # and no steps: every image is seen as often as any other
    batches = []
    for _ in range(course.epochs):
        order = random.permutation(count)
        batches += [order[i : i + course.batch] for i in range(0, count, course.batch)]
    with with_threads(THREADS):
        train(learning, batches, loss, course, tick)

"""A small classifier of grey images, which judges samples and gives the features of Fréchet distances."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxdiff as jd
from jaxdiff.networks import initialize
from jaxdiff.training import clipped_adam, train

FEATURES, BATCH = 128, 128


class Convolutional(nnx.Module):
    """Two convolutions of stride 2, a dense layer of `FEATURES`, and the logits."""

    def __init__(self, height: int, width: int, classes: int, *, rngs: nnx.Rngs):
        self.first = nnx.Conv(1, 32, (4, 4), strides=2, rngs=rngs)
        self.second = nnx.Conv(32, 64, (3, 3), strides=2, rngs=rngs)
        self.dense = nnx.Linear(-(-height // 4) * -(-width // 4) * 64, FEATURES, rngs=rngs)
        self.last = nnx.Linear(FEATURES, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images [batch, height, width, 1] on [-1, 1] -> features [batch, FEATURES], logits [batch, classes]."""
        h = nnx.silu(self.second(nnx.silu(self.first(x))))
        features = nnx.silu(self.dense(h.reshape(len(h), -1)))
        return features, self.last(features)


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Classifier:
    """A network with its parameters, in the form that `jaxdiff.training` can train."""

    network: Callable = dataclasses.field(metadata={"static": True})
    params: Any

    def __call__(self, images_uint8, batch_size: int = 500) -> tuple[np.ndarray, np.ndarray]:
        """Features [n, FEATURES] and logits [n, classes] of uint8 images [n, height, width, 1]."""
        run = jax.jit(lambda params, images: self.network(params, centres(images)))
        starts = range(0, len(images_uint8), batch_size)
        parts = [jax.device_get(run(self.params, images_uint8[start : start + batch_size])) for start in starts]
        features, logits = map(np.concatenate, zip(*parts))
        return features, logits


def centres(images: jax.Array) -> jax.Array:
    """The centre of each pixel's quantisation interval, on [-1, 1]."""
    return 2 * (images + 0.5) / 256 - 1


def cross_entropy(classifier: Classifier, key, x, label) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(classifier.network(classifier.params, x)[1], label)


def shifted(key, batch: dict) -> tuple[jax.Array, jax.Array]:
    """Images shifted at random by at most one pixel in each direction."""
    n, *size = batch["image"].shape
    x = jnp.pad(centres(batch["image"]), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-1.0)
    crop = lambda image, corner: jax.lax.dynamic_slice(image, (*corner, 0), size)
    return jax.vmap(crop)(x, jax.random.randint(key, (n, 2), 0, 3)), batch["label"]


def load(
    folder: Path, data: Callable[[], jd.data.Images], shape: tuple[int, int], classes: int, epochs: int = 8
) -> Classifier:
    """The classifier of images of `shape` in `folder`; if it is missing, it is trained on `data()` first."""
    network, params = initialize(jax.random.key(0), lambda rngs: Convolutional(*shape, classes, rngs=rngs))
    classifier, path = Classifier(network, params), folder / "classifier.safetensors"
    if not path.is_file():
        images = data()
        steps = epochs * (len(images) // BATCH)
        classifier = train(
            jax.random.key(1),
            folder,
            classifier,
            cross_entropy,
            jd.data.batches({"image": images.image, "label": images.label}, BATCH, 0),
            steps=steps,
            optimizer=clipped_adam(steps, 2e-3),
            prepare=shifted,
        )
        jd.pretrained.write_params(path, classifier.params)
    return dataclasses.replace(classifier, params=jd.pretrained.read_params(path, params))


def accuracy(classifier: Classifier, data: jd.data.Images) -> float:
    return float(np.mean(classifier(data.image)[1].argmax(1) == data.label))

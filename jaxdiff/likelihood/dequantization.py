r"""Between integer images and densities on [-1, 1].

An integer k in 0..levels-1 becomes x = 2 (k + u)/levels - 1 with u in [0, 1)^D (Theis et al. 2016, section 3.1). With
p the density of x, the model's probability of the integers is ∫ p(x(u)) (2/levels)^D du, hence for u ~ q(u | k) and
q(x | k) = q(u | k) (levels/2)^D

    log P(k) >= E log p(x) - log q(x | k)                            q = 1: uniform dequantisation
    log P(k) >= E log 1/K Σ_j p(x_j)/q(x_j | k)                      K samples (Burda et al. 2016)

For 256 levels under q = 1 the offset is the familiar +7 bits a dimension. The first bound is log P(k) less
KL(q(x | k) || p(x | k)): a learned q that knows where in its cell the model expects x closes it (Ho et al. 2019,
"Flow++", section 3.1). u is the logistic function of y, and y an invertible map of normal noise, given the image.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.losses import Denoising
from jaxdiff.losses.times import Importance
from jaxdiff.losses.weightings import Likelihood
from jaxdiff.processes import is_concrete, pytree
from jaxdiff.samplers import example_keys
from jaxdiff.samplers.sampler import normal


def check_integers(images, levels: int) -> None:
    """Raise where `images` are not integers in 0..levels-1, as far as that can be seen before tracing."""
    if levels < 2:
        raise ValueError(f"levels = {levels}; expected at least two")
    if not jnp.issubdtype(images.dtype, jnp.integer):
        raise TypeError(f"images have dtype {images.dtype}; expected integers in 0..{levels - 1}, as they were stored")
    if is_concrete(images) and images.size:
        low, high = np.min(np.asarray(images)), np.max(np.asarray(images))
        if low < 0 or high >= levels:
            raise ValueError(f"images hold values {low}..{high}; expected 0..{levels - 1} for levels = {levels}")


def check_images(images, levels: int, batch_size: int) -> np.ndarray:
    """`images` as a NumPy array [n, *event]; raise where they are none, or not integers in 0..levels-1."""
    images = np.asarray(images)
    check_integers(images, levels)
    if images.ndim < 2:
        raise ValueError(f"images have shape {images.shape}; expected a batch axis and an event: [n, *event]")
    if len(images) == 0:
        raise ValueError(f"images have shape {images.shape}: the data set is empty; expected at least one image")
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}; expected at least one")
    return images


class Dequantizer(Protocol):
    """Where in its cell an image goes: `(keys [n], images [n, *event], levels) -> (u [n, *event], log q(u) [n])`."""

    def __call__(self, keys, images, levels: int) -> tuple[jax.Array, jax.Array]:
        """Draw u in [0, 1), one key an image, and its log-density, nats."""
        ...


@pytree
@dataclasses.dataclass(frozen=True)
class Uniform:
    """u uniform in [0, 1)^D."""

    def __call__(self, keys, images, levels: int) -> tuple[jax.Array, jax.Array]:
        """Draw u, and log q = 0."""
        u = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:], jnp.float32))(keys)
        return u, jnp.zeros(images.shape[0])


@pytree
@dataclasses.dataclass(frozen=True)
class Variational:
    """u from a conditional flow: `network(params, noise, x) -> (y, log_det)`, u the logistic function of y.

    noise: standard normal, [n, *event]. x: the middles of the image's cells in [-1, 1], [n, *event]. y, of the same
    shape, is an invertible function of noise, and log_det [n] the log of its Jacobian's determinant;
    `jaxdiff.networks.Coupling` is one. Train it with `jaxdiff.training.train` and `DequantizationLoss`.
    """

    network: Callable[..., tuple[jax.Array, jax.Array]] = dataclasses.field(metadata={"static": True})
    params: Any

    def __call__(self, keys, images, levels: int) -> tuple[jax.Array, jax.Array]:
        """Draw u and its log-density."""
        x = 2 * (jnp.asarray(images, jnp.float32) + 0.5) / levels - 1
        noise = normal(keys, x)
        y, log_det = self.network(self.params, noise, x)
        log_slope = jax.nn.log_sigmoid(y) + jax.nn.log_sigmoid(-y)  # of the logistic function
        over_event = lambda a: a.sum(range(1, a.ndim))
        return jax.nn.sigmoid(y), over_event(jax.scipy.stats.norm.logpdf(noise) - log_slope) - log_det


def place(dequantizer: Dequantizer, keys, images, levels: int) -> tuple[jax.Array, jax.Array]:
    """x [n, *event] in [-1, 1) drawn from the cells of images [n, *event], and log q(x | image) [n], nats."""
    u, log_q = dequantizer(keys, images, levels)
    u = jnp.minimum(u, 1 - levels * jnp.finfo(jnp.float32).eps)  # k + u must not round to k + 1
    x = 2 * (jnp.asarray(images, jnp.float32) + u) / levels - 1
    return x, log_q + math.prod(x.shape[1:]) * math.log(levels / 2)


@dataclasses.dataclass(frozen=True)
class DequantizationLoss:
    """`loss(dequantizer, key, images, cond=None) -> [batch]`: what a `Variational` is trained by, nats a value.

    The variational bound of `denoiser`'s own -log p(x) in continuous time, by one time an image, and log q(x | image):
    together they are a bound on -log P(image), up to the prior's term and what lies below the weighting's t_min, which
    hardly depend on q.
    """

    denoiser: Any
    levels: int = 256

    def __call__(self, dequantizer: Dequantizer, key, images, cond=None) -> jax.Array:
        """One number for each of images [batch, *event], integers or their floating values."""
        draw_key, loss_key = jax.random.split(key)
        x, log_q = place(dequantizer, example_keys(draw_key, images.shape[0]), images, self.levels)
        bound = Denoising(Likelihood(), Importance())(self.denoiser, loss_key, x, cond)
        return bound + log_q / math.prod(x.shape[1:])


def dequantize(key, images, levels: int = 256) -> jax.Array:
    """Integers in 0..levels-1, [n, *event], to float32 in [-1, 1) by uniform noise of one level's width.

    Example i's noise depends on `key` and i alone; `key` may be n keys. Raises TypeError for images that are not
    integers, ValueError for values out of range.
    """
    images = jnp.asarray(images)
    check_integers(images, levels)
    return place(Uniform(), example_keys(key, images.shape[0]), images, levels)[0]


def quantize(x, levels: int = 256) -> jax.Array:
    """The integer level each value of x in [-1, 1] falls into; values outside go to the nearest level."""
    return jnp.clip(jnp.floor((jnp.asarray(x) + 1) / 2 * levels), 0, levels - 1).astype(jnp.int32)

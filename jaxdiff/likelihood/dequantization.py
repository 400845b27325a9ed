r"""Between integer images and densities on [-1, 1].

An integer k in 0..levels-1 becomes x = 2 (k + u)/levels - 1, u uniform on [0, 1)^D (Theis et al. 2016, section 3.1).
With p the density of x, the model's probability of the integers is ∫ p(x(u)) (2/levels)^D du, hence

    log P(k) >= E_u log p(x) + D log(2/levels)                                   uniform dequantisation
    log P(k) >= E log 1/K Σ_j p(x_j) + D log(2/levels)                           K samples (Burda et al. 2016)

For 256 levels the offset is the familiar +7 bits a dimension.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.processes import is_concrete
from jaxdiff.samplers import example_keys


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


def dequantize(key, images, levels: int = 256) -> jax.Array:
    """Integers in 0..levels-1, [n, *event], to float32 in [-1, 1) by uniform noise of one level's width.

    Example i's noise depends on `key` and i alone; `key` may be n keys. Raises TypeError for images that are not
    integers, ValueError for values out of range.
    """
    images = jnp.asarray(images)
    check_integers(images, levels)
    keys = example_keys(key, images.shape[0])
    u = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:], jnp.float32))(keys)
    u = jnp.minimum(u, 1 - levels * jnp.finfo(jnp.float32).eps)  # k + u must not round to k + 1
    return 2 * (images.astype(jnp.float32) + u) / levels - 1


def quantize(x, levels: int = 256) -> jax.Array:
    """The integer level each value of x in [-1, 1] falls into; values outside go to the nearest level."""
    return jnp.clip(jnp.floor((jnp.asarray(x) + 1) / 2 * levels), 0, levels - 1).astype(jnp.int32)


def log_volume(size: int, levels: int) -> float:
    """The log of the volume (2/levels)^size that one integer image occupies in [-1, 1]^size, nats."""
    return size * math.log(2 / levels)

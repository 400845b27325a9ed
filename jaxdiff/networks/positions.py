"""Positions on a grid, as waves of fixed frequencies (Vaswani et al. 2017, section 3.5), and as rotations."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np


def positions(sides: Sequence[int], width: int) -> jnp.ndarray:
    """[prod(sides), width]: for each axis sin and cos of position x 10000^(-i/waves), as many waves as fit.

    The remaining columns are 0. The grid may have any number of axes, each of any length.
    """
    waves = width // (2 * len(sides))
    frequencies = 10_000.0 ** (-np.arange(waves) / max(waves, 1))
    phases = np.indices(sides).reshape(len(sides), -1, 1) * frequencies
    features = np.concatenate([part for phase in phases for part in (np.sin(phase), np.cos(phase))], axis=-1)
    return jnp.asarray(np.pad(features, ((0, 0), (0, width - features.shape[1]))), jnp.float32)


def rotated(x: jnp.ndarray) -> jnp.ndarray:
    """x [batch, length, heads, d] with each position rotated by its index (Su et al. 2021, eq. 34), d even.

    Number i of the first half and of the second span a plane, which position p rotates by p 10000^(-2i/d): a product of
    two such vectors depends only on the difference of their positions.
    """
    length, half = x.shape[1], x.shape[-1] // 2
    angles = np.arange(length)[:, None] * 10_000.0 ** (-np.arange(half) / half)
    cos, sin = (jnp.asarray(wave(angles)[:, None], x.dtype) for wave in (np.cos, np.sin))
    one, other = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([one * cos - other * sin, one * sin + other * cos], -1)

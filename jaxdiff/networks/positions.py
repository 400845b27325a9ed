"""Where a place lies on a grid, as waves of fixed frequencies (Vaswani et al. 2017, section 3.5)."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np


def positions(sides: Sequence[int], width: int) -> jnp.ndarray:
    """[prod(sides), width]: for each axis sin and cos of place x 10000^(-i/waves), as many waves an axis as fit.

    What `width` has left over is 0. The grid may have any number of axes, each of any length.
    """
    waves = width // (2 * len(sides))
    frequencies = 10_000.0 ** (-np.arange(waves) / max(waves, 1))
    phases = np.indices(sides).reshape(len(sides), -1, 1) * frequencies
    features = np.concatenate([part for phase in phases for part in (np.sin(phase), np.cos(phase))], axis=-1)
    return jnp.asarray(np.pad(features, ((0, 0), (0, width - features.shape[1]))), jnp.float32)

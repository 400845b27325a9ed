"""What a network is told beside x: the noise level, as waves of fixed frequencies, and the class label or a vector.

c_noise = log(σ/α)/4 lies within ±3, and one unit of it is eight of log-SNR. cos and sin of frequency ω tell
apart noise levels that differ by about 1/ω, so frequencies of 1/4 (one slow swing over the whole range) to 16
(half a unit of log-SNR) see all that matters. Two ways to place them: geometric, as in Vaswani et al. 2017,
or as the normal distribution does, the Fourier features of Tancik et al. 2020 and Song et al. 2021.
"""

import dataclasses
from statistics import NormalDist
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdiff.arrays import (
    as_array,
    check_function,
    check_instance,
    check_labels,
    check_room,
    check_scalar,
    check_whole,
    native,
    with_dtype,
)


class Waves(Protocol):
    """The features of c_noise: `Sinusoidal`, `Fourier`, or a function of your own."""

    def __call__(self, c_noise: jax.Array, /) -> jax.Array:
        """[batch] -> [batch, features]."""
        ...


def _waves(c_noise: jax.Array, frequencies: np.ndarray) -> jax.Array:
    phase = c_noise[:, None] * jnp.asarray(frequencies, c_noise.dtype)[None]
    return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], -1)


@dataclasses.dataclass(frozen=True)
class Sinusoidal:
    """c_noise [batch] -> [batch, 2 waves], frequencies in geometric steps from `lowest` to `highest`."""

    waves: int = 16
    lowest: float = 0.25
    highest: float = 16.0

    def __post_init__(self):
        check_room("waves", check_whole("waves", self.waves))
        check_scalar("lowest", self.lowest, above=0)
        check_scalar("highest", self.highest, least=self.lowest)

    def __call__(self, c_noise: jax.Array) -> jax.Array:
        """Return cos and sin of every frequency."""
        return _waves(c_noise, np.geomspace(self.lowest, self.highest, self.waves))


@dataclasses.dataclass(frozen=True)
class Fourier:
    """c_noise [batch] -> [batch, 2 waves], frequencies distributed as N(0, (2π scale)²).

    The papers draw them once and keep the draw beside the parameters. Here they are the quantiles of the same
    distribution at (i + 1/2)/waves, the same for every seed, so that there is nothing to keep. Frequencies of
    either sign make the same pair of waves, so the quantiles are those of |N|. Karras et al. 2024 (EDM2),
    whose c_noise is ours, take scale 1.
    """

    waves: int = 16
    scale: float = 1.0

    def __post_init__(self):
        check_room("waves", check_whole("waves", self.waves))
        check_scalar("scale", self.scale, above=0)

    def __call__(self, c_noise: jax.Array) -> jax.Array:
        """Return cos and sin of every frequency."""
        quantiles = 0.5 + (np.arange(self.waves) + 0.5) / (2 * self.waves)
        half_normal = np.array([NormalDist().inv_cdf(p) for p in quantiles])
        return _waves(c_noise, 2 * np.pi * self.scale * half_normal)


def check_rngs(rngs) -> None:
    """Raise TypeError for what gives a module no keys."""
    check_instance("rngs", rngs, nnx.Rngs, "nnx.Rngs(key), as `jaxdiff.networks.initialize` gives")


class LabelEmbedding(nnx.Module):
    """A row for each class, and one more, index `classes`, for no label (Ho and Salimans 2022)."""

    def __init__(self, classes: int, features: int, *, rngs: nnx.Rngs):
        check_rngs(rngs)
        self.classes = check_whole("classes", classes)
        check_room("the table of labels", classes + 1, check_whole("features", features))
        self.table = nnx.Embed(classes + 1, features, rngs=rngs)

    def __call__(self, cond, batch: int) -> jax.Array:
        """Return [batch, features] for integer labels 0 to `classes`, a scalar or [batch]; None is `classes`.

        Raises TypeError for labels that are not integers, ValueError for another shape or a concrete label
        out of range. Under a transformation, where labels cannot be read, one out of range gives NaN.
        """
        cond = check_labels(self.classes if cond is None else cond, self.classes, none=True)
        if cond.shape not in ((), (batch,)):
            raise ValueError(f"cond has shape {cond.shape}; expected a scalar or [{batch}], one label an example")
        rows = self.table.embedding[...].at[jnp.broadcast_to(cond, (batch,))]
        return rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


class VectorEmbedding(nnx.Module):
    """A linear map of conditions that are vectors of `size` numbers. No vector means "no condition"."""

    def __init__(self, size: int, features: int, *, rngs: nnx.Rngs):
        check_rngs(rngs)
        self.size = check_whole("size", size)
        check_room("the map of vectors", size, check_whole("features", features))
        self.map = nnx.Linear(size, features, use_bias=False, rngs=rngs)

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that is not [batch, size]: TypeError where it is no floating array, or else ValueError."""
        expected = f"expected floats [batch, {self.size}], a vector an example"
        array = None if isinstance(cond, tuple | dict) else as_array(cond)
        if cond is None or array is None or not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{with_dtype('cond', cond)}; {expected}")
        if array.ndim != 2 or array.shape[1] != self.size:
            raise ValueError(f"cond has shape {array.shape}; {expected}")

    def __call__(self, cond, batch: int) -> jax.Array:
        """Return [batch, features] for cond [batch, size]; raises what `check_cond` raises, and for another batch."""
        self.check_cond(cond)
        if len(cond) != batch:
            raise ValueError(f"cond has shape {jnp.shape(cond)}; expected [{batch}, {self.size}], a vector an example")
        return self.map(jnp.asarray(native(cond)).astype(self.map.kernel.dtype))


class NoiseEmbedding(nnx.Module):
    """Noise level and condition as one vector: two dense layers over the waves, plus the label's row, or the vector's.

    A network has `classes`, or is given vectors of `vector` numbers, or neither; ValueError for both.
    """

    vector: VectorEmbedding | None = None  # here, so that the structure of networks without one is what it was

    def __init__(
        self,
        features: int,
        waves: Waves,
        classes: int,
        vector: int = 0,
        *,
        rngs: nnx.Rngs,
    ):
        check_rngs(rngs)
        check_whole("features", features)
        check_whole("classes", classes, least=0)
        if check_whole("vector", vector, least=0) and classes:
            raise ValueError(f"classes = {classes} and vector = {vector}; expected one of them, the other 0")
        check_function("waves", waves, "a function [batch] -> [batch, features] of c_noise, such as Sinusoidal()")
        self.waves = waves
        shape = getattr(jax.eval_shape(waves, jax.ShapeDtypeStruct((1,), jnp.float32)), "shape", None)
        if shape is None or len(shape) != 2 or shape[0] != 1:
            raise ValueError(f"waves returned shape {shape} for c_noise of shape (1,); expected (1, features)")
        size = shape[1]
        self.dense_in = nnx.Linear(size, features, rngs=rngs)
        self.dense_out = nnx.Linear(features, features, rngs=rngs)
        self.label = LabelEmbedding(classes, features, rngs=rngs) if classes else None
        if vector:
            self.vector = VectorEmbedding(vector, features, rngs=rngs)

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that is no vectors of the network's size, or neither None nor labels of its classes."""
        if self.vector is not None:
            return self.vector.check_cond(cond)
        if cond is None:
            return
        if self.label is None:
            raise ValueError(
                "cond was given to a network without classes; build it with classes=..., or leave cond out"
            )
        check_labels(cond, self.label.classes, none=True)

    def no_label(self) -> int | None:
        """The label for none, the number of classes; None without classes."""
        return None if self.label is None else self.label.classes

    def __call__(self, x: jax.Array, c_noise: jax.Array, cond=None) -> jax.Array:
        """Return [batch, features] for the batch and dtype of x [batch, ...] and c_noise, a scalar or [batch].

        Raises ValueError for a c_noise of another shape, and for a cond that `check_cond` refuses.
        """
        self.check_cond(cond)
        c_noise = jnp.asarray(c_noise, jnp.float32 if x.dtype.itemsize < 4 else x.dtype)
        if c_noise.shape not in ((), x.shape[:1]):
            raise ValueError(f"c_noise has shape {c_noise.shape}; expected a scalar or {x.shape[:1]}, one an example")
        c_noise = jnp.broadcast_to(c_noise, x.shape[:1])
        embedding = self.dense_out(nnx.silu(self.dense_in(self.waves(c_noise))))
        for given in (self.label, self.vector):
            if given is not None:
                embedding = embedding + given(cond, len(c_noise)).astype(embedding.dtype)
        return nnx.silu(embedding).astype(x.dtype)

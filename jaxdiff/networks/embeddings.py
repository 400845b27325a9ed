"""The embedding of noise level and conditions as one vector, which modulates the layers of a network.

c_noise = log(σ/α)/4 lies within ±3, and one unit of it is eight of log-SNR. cos and sin of frequency ω tell apart noise
levels that differ by about 1/ω, so frequencies of 1/4 (one slow period over the whole range) to 16 (half a unit of
log-SNR) suffice. There are two ways to space them: geometrically, as in Vaswani et al. 2017, or as quantiles of a
normal distribution, the Fourier features of Tancik et al. 2020 and Song et al. 2021.
"""

import dataclasses
from statistics import NormalDist
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdiff.arrays import check_function, check_instance, check_room, check_scalar, check_whole
from jaxdiff.networks.conditions import Conditions


class Waves(Protocol):
    """The features of c_noise: `Sinusoidal`, `Fourier`, or a function of your own, `[batch] -> [batch, features]`.

    Examples:
        >>> import jax.numpy as jnp
        >>> powers = lambda c_noise: jnp.stack([c_noise, c_noise**2], -1)  # a function of your own
        >>> powers(jnp.array([1.0, 2.0])).tolist()
        [[1.0, 1.0], [2.0, 4.0]]
    """

    def __call__(self, c_noise: jax.Array, /) -> jax.Array:
        """[batch] -> [batch, features]."""
        ...


def _waves(c_noise: jax.Array, frequencies: np.ndarray) -> jax.Array:
    phase = c_noise[:, None] * jnp.asarray(frequencies, c_noise.dtype)[None]
    return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], -1)


@dataclasses.dataclass(frozen=True)
class Sinusoidal:
    """Features of the noise level with geometrically spaced frequencies: c_noise `[batch]` -> `[batch, 2 waves]`.

    Args:
        waves: the number of frequencies, each with a cosine and a sine.
        lowest: the lowest frequency, above 0.
        highest: the highest frequency, at least `lowest`.

    Raises:
        TypeError: if an argument is not a number.
        ValueError: if an argument is out of range.

    Source:
        Vaswani et al. 2017, "Attention is all you need", section 3.5.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> features = jd.networks.Sinusoidal(waves=2)
        >>> features(jnp.zeros(1)).tolist()  # cosines, then sines
        [[1.0, 1.0, 0.0, 0.0]]
    """

    waves: int = 16
    lowest: float = 0.25
    highest: float = 16.0

    def __post_init__(self):
        check_room("waves", check_whole("waves", self.waves))
        check_scalar("lowest", self.lowest, above=0)
        check_scalar("highest", self.highest, least=self.lowest)

    def __call__(self, c_noise: jax.Array) -> jax.Array:
        """The cosines, then the sines, of all frequencies times c_noise."""
        return _waves(c_noise, np.geomspace(self.lowest, self.highest, self.waves))


@dataclasses.dataclass(frozen=True)
class Fourier:
    """Features of the noise level, c_noise `[batch]` -> `[batch, 2 waves]`, with frequencies like N(0, (2π scale)²).

    The papers draw the frequencies once and store them with the parameters. Here they are the quantiles of the same
    distribution at (i + 1/2)/waves, equal for every seed, so that nothing is stored. Frequencies of either sign give
    the same pair of waves, so the quantiles are those of |N|. Karras et al. 2024 (EDM2), with the same c_noise, take
    scale 1.

    Args:
        waves: the number of frequencies, each with a cosine and a sine.
        scale: the standard deviation of the frequencies divided by 2π, above 0.

    Raises:
        TypeError: if an argument is not a number.
        ValueError: if an argument is out of range.

    Source:
        Tancik et al. 2020, "Fourier features let networks learn high frequency functions in low dimensional domains".

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> features = jd.networks.Fourier(waves=2)
        >>> features(jnp.zeros(1)).tolist()  # cosines, then sines
        [[1.0, 1.0, 0.0, 0.0]]
    """

    waves: int = 16
    scale: float = 1.0

    def __post_init__(self):
        check_room("waves", check_whole("waves", self.waves))
        check_scalar("scale", self.scale, above=0)

    def __call__(self, c_noise: jax.Array) -> jax.Array:
        """The cosines, then the sines, of all frequencies times c_noise."""
        quantiles = 0.5 + (np.arange(self.waves) + 0.5) / (2 * self.waves)
        half_normal = np.array([NormalDist().inv_cdf(p) for p in quantiles])
        return _waves(c_noise, 2 * np.pi * self.scale * half_normal)


def check_rngs(rngs) -> None:
    """Raise TypeError for anything but `nnx.Rngs`."""
    check_instance("rngs", rngs, nnx.Rngs, "nnx.Rngs(key), as `jaxdiff.networks.initialize` gives")


class LabelEmbedding(nnx.Module):
    """A table with a row for each class and one more, index `classes`, for "no label".

    Args:
        classes: the number of classes.
        features: the width of a row.
        rngs: the keys of the initialisation, as `initialize` gives them.

    Raises:
        TypeError: if a size is not a whole number.
        ValueError: if a size is less than 1.

    Source:
        Ho and Salimans 2022, "Classifier-free diffusion guidance".

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> from flax import nnx
        >>> embed = jd.networks.LabelEmbedding(10, 4, rngs=nnx.Rngs(0))
        >>> embed(jnp.array([0, 9, 10]), 3).shape
        (3, 4)
    """

    def __init__(self, classes: int, features: int, *, rngs: nnx.Rngs):
        check_rngs(rngs)
        self.classes = check_whole("classes", classes)
        check_room("the table of labels", classes + 1, check_whole("features", features))
        self.table = nnx.Embed(classes + 1, features, rngs=rngs)

    def __call__(self, cond, batch: int) -> jax.Array:
        """`[batch, features]` for integer labels 0 to `classes`, a scalar or `[batch]`; None is `classes`.

        Raises:
            TypeError: if the labels are not integers.
            ValueError: if they have another shape, or a label is out of range (a traced one gives NaN instead).
        """
        labels = Conditions(classes=self.classes).read(cond, (batch,))["label"]
        return self.table.embedding[...].at[labels].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


class VectorEmbedding(nnx.Module):
    """A linear map of conditions that are vectors. There is no vector for "no condition".

    Args:
        size: the size of a vector.
        features: the width of the embedding.
        rngs: the keys of the initialisation, as `initialize` gives them.

    Raises:
        TypeError: if a size is not a whole number.
        ValueError: if a size is less than 1.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> from flax import nnx
        >>> embed = jd.networks.VectorEmbedding(5, 4, rngs=nnx.Rngs(0))
        >>> embed(jnp.zeros((3, 5)), 3).tolist() == [[0.0] * 4] * 3  # there is no bias
        True
    """

    def __init__(self, size: int, features: int, *, rngs: nnx.Rngs):
        check_rngs(rngs)
        self.size = check_whole("size", size)
        check_room("the map of vectors", size, check_whole("features", features))
        self.map = nnx.Linear(size, features, use_bias=False, rngs=rngs)

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that is not `[batch, size]`: TypeError if it is not a floating array, else ValueError."""
        Conditions(vector=self.size).check(cond)

    def __call__(self, cond, batch: int) -> jax.Array:
        """`[batch, features]` for cond `[batch, size]`; raises as `check_cond`, and ValueError for another batch."""
        vectors = Conditions(vector=self.size).read(cond, (batch,))["vector"]
        return self.map(vectors.astype(self.map.kernel.dtype))


class LevelEmbedding(nnx.Module):
    """Two dense layers over the waves of a noise level."""

    def __init__(self, features: int, waves: Waves, *, rngs: nnx.Rngs):
        check_rngs(rngs)
        check_whole("features", features)
        check_function("waves", waves, "a function [batch] -> [batch, features] of c_noise, such as Sinusoidal()")
        self.waves = waves
        shape = getattr(jax.eval_shape(waves, jax.ShapeDtypeStruct((1,), jnp.float32)), "shape", None)
        if shape is None or len(shape) != 2 or shape[0] != 1:
            raise ValueError(f"waves returned shape {shape} for c_noise of shape (1,); expected (1, features)")
        self.dense_in = nnx.Linear(shape[1], features, rngs=rngs)
        self.dense_out = nnx.Linear(features, features, rngs=rngs)

    def of_level(self, c_noise: jax.Array) -> jax.Array:
        """[batch] -> [batch, features]."""
        return self.dense_out(nnx.silu(self.dense_in(self.waves(c_noise))))


class NoiseEmbedding(LevelEmbedding):
    """Noise level and condition as one vector: the sum of an embedding of each.

    A label has a row of a table, a vector a linear map, the log-SNR of an image two dense layers as the noise level
    has, and tokens a linear map of the mean of the tokens that are read. The network itself reads an image, or tokens
    one by one, by `conditions`.

    Args:
        features: the width of the embedding.
        waves: the features of the noise level.
        classes: the number of labels in cond, 0 for none.
        vector: the size of the vectors in cond, 0 for none.
        image: the channels of the image in cond, 0 for none.
        level: whether that image comes with its log-SNR.
        tokens: the width of the tokens in cond, 0 for none.
        rngs: the keys of the initialisation, as `initialize` gives them.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if a size is out of range, or `waves` returns another shape than `[batch, features]`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> from flax import nnx
        >>> embed = jd.networks.NoiseEmbedding(4, jd.networks.Sinusoidal(2), classes=10, rngs=nnx.Rngs(0))
        >>> x, c_noise, labels = jnp.zeros((3, 2)), jnp.zeros(3), jnp.array([0, 1, 10])
        >>> embed(x, c_noise, labels).shape
        (3, 4)
    """

    # class attributes, so that the structure of networks without these parts is that of older checkpoints
    vector: VectorEmbedding | None = None
    level: LevelEmbedding | None = None
    tokens: VectorEmbedding | None = None
    image: int = 0

    def __init__(
        self,
        features: int,
        waves: Waves,
        classes: int = 0,
        vector: int = 0,
        image: int = 0,
        level: bool = False,
        tokens: int = 0,
        *,
        rngs: nnx.Rngs,
    ):
        Conditions(classes, vector, image, level, tokens)
        super().__init__(features, waves, rngs=rngs)
        self.label = LabelEmbedding(classes, features, rngs=rngs) if classes else None
        if vector:
            self.vector = VectorEmbedding(vector, features, rngs=rngs)
        if level:
            self.level = LevelEmbedding(features, waves, rngs=rngs)
        if tokens:
            self.tokens = VectorEmbedding(tokens, features, rngs=rngs)
        if image:
            self.image = image

    @property
    def conditions(self) -> Conditions:
        """The parts of cond that it accepts."""
        return Conditions(
            classes=0 if self.label is None else self.label.classes,
            vector=0 if self.vector is None else self.vector.size,
            image=self.image,
            level=self.level is not None,
            tokens=0 if self.tokens is None else self.tokens.size,
        )

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that it does not accept (see `Conditions.check`)."""
        self.conditions.check(cond)

    def no_label(self) -> int | None:
        """The label for "no label", which is the number of classes; None without classes."""
        return None if self.label is None else self.label.classes

    def __call__(self, x: jax.Array, c_noise: jax.Array, cond=None) -> jax.Array:
        """`[batch, features]` for the batch and dtype of x `[batch, ...]` and c_noise, a scalar or `[batch]`.

        Raises ValueError for a c_noise of another shape, and what `check_cond` raises.
        """
        parts = self.conditions.read(cond, x.shape)
        c_noise = jnp.asarray(c_noise, jnp.float32 if x.dtype.itemsize < 4 else x.dtype)
        if c_noise.shape not in ((), x.shape[:1]):
            raise ValueError(f"c_noise has shape {c_noise.shape}; expected a scalar or {x.shape[:1]}, one per example")
        c_noise = jnp.broadcast_to(c_noise, x.shape[:1])
        embedding = self.of_level(c_noise)
        add = lambda part: embedding + part.astype(embedding.dtype)
        if self.label is not None:
            embedding = add(self.label(parts["label"], len(x)))
        if self.vector is not None:
            embedding = add(self.vector(parts["vector"], len(x)))
        if self.level is not None:  # -log-SNR/8 is c_noise
            embedding = add(self.level.of_level(jnp.clip(-parts["level"].astype(c_noise.dtype) / 8, -3, 3)))
        if self.tokens is not None:
            read = parts["token_mask"].sum(1, keepdims=True)
            mean = parts["tokens"].sum(1) / jnp.maximum(read, 1).astype(parts["tokens"].dtype)
            embedding = add(self.tokens(mean, len(x)))
        return nnx.silu(embedding).astype(x.dtype)

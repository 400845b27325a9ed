r"""Dequantisation: integer images and densities on [-1, 1].

An integer k in 0..levels-1 becomes x = 2 (k + u)/levels - 1 with u in [0, 1)^D (Theis et al. 2016, section 3.1). With
p the density of x, the model's probability of the integers is ∫ p(x(u)) (2/levels)^D du, hence for u ~ q(u | k) and
q(x | k) = q(u | k) (levels/2)^D

    log P(k) >= E log p(x) - log q(x | k)                            q = 1: uniform dequantisation
    log P(k) >= E log 1/K Σ_j p(x_j)/q(x_j | k)                      K samples (Burda et al. 2016)

For 256 levels under q = 1 the offset is the familiar +7 bits a dimension. The first bound is log P(k) minus
KL(q(x | k) || p(x | k)). A learned q that matches the model's p(x | k) closes this gap (Ho et al. 2019, "Flow++",
section 3.1): u is the logistic function of y, and y an invertible map of normal noise, given the image.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import (
    as_array,
    check_function,
    check_integers,
    check_key,
    check_number,
    check_output,
    check_whole,
    example_keys,
    nan_unless,
    noise_dtype,
    normal,
    rebuilt,
    said,
)
from jaxdiff.denoisers.denoiser import check_denoiser, check_params
from jaxdiff.losses import Bound
from jaxdiff.losses.times import Importance
from jaxdiff.processes import check_event, is_concrete, pytree


def _spacing(levels: int) -> float:
    """The distance between neighbouring values of k + u for the largest k."""
    return 2.0 ** (math.ceil(math.log2(levels)) - jnp.finfo(noise_dtype(levels)).nmant - 1)


def check_images(images, levels: int, batch_size: int) -> np.ndarray:
    """`images` as a NumPy array [n, *event]; raise unless they are integers in 0..levels-1.

    Warns if their largest value is at most an eighth of `levels`, as that of images of fewer levels is.
    """
    check_whole("batch_size", batch_size)
    if isinstance(images, jax.core.Tracer):
        raise TypeError("images are traced; this function works through a data set in batches: call it outside of jit")
    images = np.asarray(check_integers(images, levels))
    if 0 < (most := images.max()) <= levels / 8:
        warnings.warn(
            f"the largest value of the images is {most}, but levels = {levels}: if the data have {most + 1} levels, "
            f"give levels={most + 1}",
            UserWarning,
            stacklevel=3,
        )
    return images


class Dequantizer(Protocol):
    """Protocol of dequantizers: `(keys [n], images [n, *event], levels) -> (u [n, *event], log q(u) [n])`.

    A dequantizer whose x does not lie in the image's cell has a method `place(keys, images, levels) -> (x [n, ...],
    log q(x | image) [n])`, which is called instead; x may have another shape (`Argmax`). A class attribute `kind` names
    it in reports.
    """

    def __call__(self, keys, images, levels: int) -> tuple[jax.Array, jax.Array]:
        """Draw u in [0, 1), one key an image, and return it with its log-density, nats."""
        ...


@pytree
@dataclasses.dataclass(frozen=True)
class Uniform:
    """Uniform dequantisation: u is uniform on [0, 1).

    To the bit, u is the midpoint of one of as many equal parts of [0, 1) as its dtype resolves for `levels`.

    Source:
        Theis et al. 2016, "A note on the evaluation of generative models", section 3.1.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> u, log_q = jd.likelihood.Uniform()(jax.random.split(jax.random.key(0)), jnp.array([[0, 255], [7, 8]]), 256)
        >>> u.shape, log_q
        ((2, 2), Array([0., 0.], dtype=float32))
    """

    kind: ClassVar = "uniform dequantisation"

    def __call__(self, keys, images, levels: int) -> tuple[jax.Array, jax.Array]:
        """Draw u, with log q = 0."""
        part = 2 * _spacing(levels)
        u = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:], noise_dtype(levels)))(keys)
        return (jnp.floor(u / part) + 0.5) * part, jnp.zeros(images.shape[0])


@pytree
@dataclasses.dataclass(frozen=True)
class Variational:
    """Variational dequantisation: u is the logistic function of y, drawn by a conditional flow.

    Train it with `jaxdiff.training.train` and `DequantizationLoss`. `jaxdiff.networks.Coupling` is such a network.

    Args:
        network: `(params, noise, x) -> (y, log_det)`, with standard normal noise and the midpoints x of the image's
            cells in [-1, 1], both `[n, *event]`. y, of the same shape, is an invertible function of the noise, and
            log_det `[n]` the log of its Jacobian's determinant.
        params: parameters of the network.

    Raises:
        TypeError: if `network` is not a function or, when called, returns something else.

    Source:
        Ho et al. 2019, "Flow++: improving flow-based generative models with variational dequantization and architecture
        design", section 3.1.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = lambda params, noise, x: (params * noise, jnp.full(len(x), 2 * jnp.log(params)))
        >>> dequantizer = jd.likelihood.Variational(network, 0.5)
        >>> u, log_q = dequantizer(jax.random.split(jax.random.key(0)), jnp.array([[0, 255], [7, 8]]), 256)
        >>> bool(((u > 0) & (u < 1)).all()), log_q.shape
        (True, (2,))
    """

    network: Callable[..., tuple[jax.Array, jax.Array]] = dataclasses.field(metadata={"static": True})
    params: Any

    def __post_init__(self):
        check_function("network", self.network, "a function (params, noise, x) -> (y, log_det)")
        object.__setattr__(self, "params", check_params(self.params))

    def with_params(self, params) -> "Variational":
        """The same dequantizer with other parameters."""
        return rebuilt(self, params=check_params(params))

    def __call__(self, keys, images, levels: int) -> tuple[jax.Array, jax.Array]:
        """Draw u and return it with its log-density."""
        x = 2 * (jnp.asarray(images, noise_dtype(levels)) + 0.5) / levels - 1
        noise = normal(keys, x)
        y, log_det = check_pair("network", self.network(self.params, noise, x), x)
        log_slope = jax.nn.log_sigmoid(y) + jax.nn.log_sigmoid(-y)  # of the logistic function
        over_event = lambda a: a.sum(range(1, a.ndim))
        return jax.nn.sigmoid(y), over_event(jax.scipy.stats.norm.logpdf(noise) - log_slope) - log_det


def check_pair(name: str, returned, images) -> tuple[jax.Array, jax.Array]:
    """What a dequantizer or its network `returned`; raise unless it is two arrays, of the shape of images and [n]."""
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise TypeError(f"{name} returned {said(returned)}; expected two arrays, {images.shape} and {images.shape[:1]}")
    check_output(name, returned[0], images)
    check_output(name, returned[1], images, images.shape[:1])
    return returned[0], returned[1]


def place(dequantizer: Dequantizer, keys, images, levels: int) -> tuple[jax.Array, jax.Array]:
    """Draw x for images [n, *event], by default in their cells, and return it with log q(x | image) [n]."""
    placed = getattr(dequantizer, "place", None)
    if placed is not None:
        return placed(keys, images, levels)
    u, log_q = check_pair("dequantizer", dequantizer(keys, images, levels), images)
    u = jnp.minimum(u, 1 - _spacing(levels))  # k + u must not round to k + 1
    x = 2 * (jnp.asarray(images, noise_dtype(levels)) + u) / levels - 1
    return x, log_q + math.prod(x.shape[1:]) * math.log(levels / 2)


@pytree
@dataclasses.dataclass(frozen=True)
class DequantizationLoss:
    """Loss that trains a `Variational` or an `Argmax` dequantizer, in nats a value.

    It is the variational bound on the denoiser's -log p(x) in continuous time, by one time an image, plus log q(x |
    image): a bound on -log P(image) up to the prior's term and the part below the weighting's t_min, which hardly
    depend on q. Called as `loss(dequantizer, key, images, cond=None)`, it returns `[batch]`.

    Args:
        denoiser: the model of x.
        levels: number of integer levels.

    Source:
        Ho et al. 2019, "Flow++", section 3.1.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [0.0, 0.0], [[0.25, 0.0], [0.0, 0.25]])
        >>> loss = jd.likelihood.DequantizationLoss(denoiser, levels=256)
        >>> images = jnp.array([[100, 128], [150, 180], [90, 120]])
        >>> loss(jd.likelihood.Uniform(), jax.random.key(0), images).shape
        (3,)
    """

    denoiser: Any
    levels: int = dataclasses.field(default=256, metadata={"static": True})

    def __post_init__(self):
        check_denoiser(self.denoiser)
        noise_dtype(self.levels)

    def check(self, dequantizer: Dequantizer, images, cond=None) -> Any:
        """`images`, integers or their floating values; TypeError or ValueError for anything else."""
        if not jnp.issubdtype(getattr(images, "dtype", np.dtype(int)), jnp.floating):
            return check_integers(images, self.levels)
        images = check_number("images", check_event(images, "images"), least=0, most=self.levels - 1)
        whole = images == jnp.round(images)
        if is_concrete(whole) and not whole.all():
            wrong = np.asarray(images)[~np.asarray(whole)][0]
            raise ValueError(f"images hold {wrong}; expected whole numbers 0..{self.levels - 1}")
        return nan_unless(whole, images)

    def __call__(self, dequantizer: Dequantizer, key, images, cond=None) -> jax.Array:
        """The loss of each of images [batch, *event], integers or their floating values."""
        images = self.check(dequantizer, images, cond)
        draw_key, loss_key = jax.random.split(check_key(key))
        x, log_q = place(dequantizer, example_keys(draw_key, images.shape[0]), images, self.levels)
        bound = Bound(Importance())(self.denoiser, loss_key, x, cond)
        return bound + log_q / math.prod(x.shape[1:])


def dequantize(key, images, levels: int = 256) -> jax.Array:
    """Map integers to floats in [-1, 1) by uniform noise of one level's width.

    Example i's noise depends on `key` and i alone. It takes the bits of float32 that the levels leave: 32,768 values in
    a cell of 256 levels, 128 of 65,536. More than 2^20 levels need float64.

    Args:
        key: a typed key, or n keys, one an image.
        images: integers `[n, *event]` in 0..levels-1.
        levels: number of integer levels.

    Returns:
        x in [-1, 1), `[n, *event]`, float32 (float64 above 2^20 levels).

    Raises:
        TypeError: for images that are not integers.
        ValueError: for values out of range, or for too many levels.

    Source:
        Theis et al. 2016, "A note on the evaluation of generative models", section 3.1.

    Examples:
        >>> import jax
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> images = np.array([[0, 128, 255]])
        >>> x = jd.dequantize(jax.random.key(0), images)
        >>> jd.quantize(x)
        Array([[  0, 128, 255]], dtype=int32)
    """
    images = check_integers(images, levels)
    return place(Uniform(), example_keys(key, images.shape[0]), images, levels)[0]


def quantize(x, levels: int = 256) -> jax.Array:
    """Map each value of x in [-1, 1] to its integer level; values outside go to the nearest level.

    Args:
        x: floats of any shape.
        levels: number of integer levels.

    Returns:
        Integers in 0..levels-1, of the shape of x.

    Raises:
        TypeError: if x is not floating.
        ValueError: for a NaN in x (traced, it gives -1).

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> jd.quantize(jnp.array([-1.0, 0.0, 1.0]), levels=256)
        Array([  0, 128, 255], dtype=int32)
    """
    noise_dtype(levels)
    array = as_array(x)
    if array is None or not jnp.issubdtype(array.dtype, jnp.floating):
        kind = said(x) if array is None else array.dtype
        raise TypeError(f"x has dtype {kind}; expected floating values in [-1, 1]")
    if is_concrete(array) and np.isnan(np.asarray(array)).any():
        raise ValueError("x holds a NaN, which is on no level; remove the samples that failed")
    x = jnp.asarray(array)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    level = jnp.clip(jnp.floor((x + 1) / 2 * levels), 0, levels - 1)
    return jnp.where(jnp.isnan(x), -1, level).astype(jnp.int32)

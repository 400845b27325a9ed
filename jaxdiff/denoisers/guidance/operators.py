"""Measurement operators for `jaxdiff.guidance.Observed` and `jaxdiff.samplers.DAPS`.

    mask(mask)              the values under a mask          linear
    average(factor)         means of blocks                  linear
    blur(kernel)            a convolution                    linear
    quantise(step)          rounded cosines, as in JPEG      piecewise constant
    phase_retrieval()       magnitudes of the spectrum       nonlinear

Each is called on one example, without a batch axis. Masks, kernels and steps are arguments of the program, so that new
ones do not recompile. If they differ between examples, `masked(x0, mask)` and `blurred(x0, kernel)` take them as
parameters:

    jd.guidance.Observed(denoiser, jd.guidance.operators.masked, 0.1)          cond={"y": y, "operator": masks}

Images are [h, w, channels], and sounds or volumes [*space, channels].
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import as_array, check_array, check_whole, exactly, pytree, with_dtype
from jaxdiff.processes import ends


def masked(x0, mask) -> jax.Array:
    """`x0` where `mask` is True, and 0 elsewhere.

    Args:
        x0: one example, `[*event]`.
        mask: boolean, broadcasts to x0.

    Returns:
        An array of the shape of x0.

    Raises:
        TypeError: if the mask is not boolean.
        ValueError: if it does not broadcast to x0.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> jd.guidance.operators.masked(jnp.ones(3), jnp.array([True, False, True])).tolist()
        [1.0, 0.0, 1.0]
    """
    mask = jnp.asarray(_truth(mask))
    try:
        fits = np.broadcast_shapes(mask.shape, x0.shape) == x0.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"mask has shape {mask.shape}; expected one that broadcasts to x0 of shape {x0.shape}")
    return jnp.where(jnp.broadcast_to(mask, x0.shape), x0, 0.0)


def _truth(mask):
    array = as_array(mask)
    if array is None or array.dtype != bool:
        raise TypeError(f"{with_dtype('mask', mask)}; expected True where x0 is known and False elsewhere")
    return array


@pytree
@dataclasses.dataclass(frozen=True)
class _Mask:
    mask: jax.Array

    def __call__(self, x0) -> jax.Array:
        return masked(x0, self.mask)


def mask(mask) -> _Mask:
    """Inpainting: x0 where `mask` is True, 0 elsewhere. Values of y where the mask is False have no effect.

    Args:
        mask: boolean, `[*event]`.

    Returns:
        The operator, a function of one example.

    Raises:
        TypeError: if the mask is not boolean.
        ValueError: when called, if it does not broadcast to x0.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> operator = jd.guidance.operators.mask(jnp.array([True, False, True]))
        >>> operator(jnp.ones(3)).tolist()
        [1.0, 0.0, 1.0]
    """
    return _Mask(jnp.asarray(_truth(mask)))


def _space(x0, what: str) -> int:
    """The number of spatial axes of `x0`; ValueError if it has none."""
    if x0.ndim < 2:
        raise ValueError(f"{what} of x0 of shape {x0.shape}; expected [*space, channels], such as [h, w, 3]")
    return x0.ndim - 1


def _in_blocks(x0, size: int, name: str) -> jax.Array:
    """`x0` [h, w, c] as [h/size, size, w/size, size, c], likewise for other numbers of axes.

    Raises ValueError if `size` does not divide an axis.
    """
    space = x0.shape[: _space(x0, "blocks")]
    if any(length % size for length in space):
        raise ValueError(f"{name} = {size} does not divide the axes {space} of x0; expected a divisor of each")
    return x0.reshape(*(part for length in space for part in (length // size, size)), x0.shape[-1])


@pytree
@dataclasses.dataclass(frozen=True)
class _Average:
    factor: int = dataclasses.field(metadata={"static": True})

    def __call__(self, x0) -> jax.Array:
        blocks = _in_blocks(x0, self.factor, "factor")
        return jnp.mean(blocks, range(1, blocks.ndim - 1, 2))


def average(factor: int) -> _Average:
    """Super-resolution: means over blocks of `factor` by `factor`, [h, w, c] -> [h/factor, w/factor, c].

    Args:
        factor: the side of a block, a whole number of 1 or more.

    Returns:
        The operator, a function of one example.

    Raises:
        ValueError: if `factor` is less than 1; when called, if it does not divide an axis of x0.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> jd.guidance.operators.average(2)(jnp.ones((4, 4, 3))).shape
        (2, 2, 3)
    """
    return _Average(check_whole("factor", factor))


@exactly
def blurred(x0, kernel) -> jax.Array:
    """The convolution of each channel of `x0` with `kernel`, of the shape of x0, padded by zeros.

    Args:
        x0: one example, `[*space, c]`.
        kernel: an array of odd sizes, one axis per spatial axis of x0.

    Returns:
        An array of the shape of x0.

    Raises:
        ValueError: if the kernel has another number of axes, an even size, or one larger than x0.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> jd.guidance.operators.blurred(jnp.ones((4, 1)), jnp.ones(3))[:, 0].tolist()
        [2.0, 3.0, 3.0, 2.0]
    """
    kernel, space = jnp.asarray(kernel), x0.shape[:-1]
    fits = kernel.ndim == _space(x0, "a blur")
    if not fits or any(size % 2 == 0 or size > length for size, length in zip(kernel.shape, space)):
        raise ValueError(f"kernel has shape {kernel.shape}; expected odd sizes within the axes {space} of x0")
    return jax.scipy.signal.convolve(x0, kernel[..., None].astype(x0.dtype), mode="same")


@pytree
@dataclasses.dataclass(frozen=True)
class _Blur:
    kernel: jax.Array

    def __call__(self, x0) -> jax.Array:
        return blurred(x0, self.kernel)


def blur(kernel) -> _Blur:
    """Deblurring: the convolution of each channel with `kernel`, padded by zeros.

    Args:
        kernel: an array of odd sizes, `[k, k]` for images.

    Returns:
        The operator, a function of one example.

    Raises:
        TypeError: if the kernel does not hold numbers.
        ValueError: if a number is not finite; when called, if the kernel does not fit x0.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> jd.guidance.operators.blur(jnp.ones(3))(jnp.ones((4, 1)))[:, 0].tolist()
        [2.0, 3.0, 3.0, 2.0]
    """
    return _Blur(jnp.asarray(check_array("kernel", kernel), float))


def _cosines(size: int) -> np.ndarray:
    """The orthonormal discrete cosine transform (type II) of `size` numbers, [frequency, position]."""
    frequency, position = np.mgrid[:size, :size]
    rows = np.sqrt(2 / size) * np.cos(np.pi * (2 * position + 1) * frequency / (2 * size))
    rows[0] /= math.sqrt(2)
    return rows


@pytree
@dataclasses.dataclass(frozen=True)
class _Quantise:
    step: jax.Array
    block: int = dataclasses.field(metadata={"static": True})

    @exactly
    def __call__(self, x0) -> jax.Array:
        blocks = _in_blocks(x0, self.block, "block")
        axes = range(1, blocks.ndim - 1, 2)
        rows = jnp.asarray(_cosines(self.block), x0.dtype)
        turned = lambda values, matrix, axis: jnp.moveaxis(jnp.tensordot(matrix, values, (1, axis)), 0, axis)
        coefficients = blocks
        for axis in axes:
            coefficients = turned(coefficients, rows, axis)
        step = self.step.astype(x0.dtype)
        if step.ndim and step.ndim != len(axes):
            raise ValueError(f"step has shape {step.shape}; expected a number, or one per frequency: {len(axes)} axes")
        if step.ndim:
            step = step.reshape(*(part for length in step.shape for part in (1, length)), 1)
        step = jnp.broadcast_to(step, coefficients.shape)
        rounded = step * jnp.round(coefficients / step)
        coefficients = coefficients + jax.lax.stop_gradient(rounded - coefficients)
        for axis in axes:
            coefficients = turned(coefficients, rows.T, axis)
        return coefficients.reshape(x0.shape)


def quantise(step, block: int = 8) -> _Quantise:
    """Compression as in JPEG: rounds the cosine transform of blocks of `block` by `block`, [h, w, c] -> [h, w, c].

    Each channel is cut into blocks, whose orthonormal cosine transform is rounded to multiples of `step` and
    transformed back. Colours are not transformed, and no other part of JPEG is done. The derivative of rounding is 0
    almost everywhere, so that nothing could be fitted; here it is taken to be 1 (straight-through), which makes the
    derivative of the whole operator the identity. The error of rounding is roughly uniform over a step: as noise, its
    `noise_std` is step/√12.

    Args:
        step: a number above 0, or a table `[block, block]` by frequency, with the constant one at [0, 0].
        block: the side of a block.

    Returns:
        The operator, a function of one example.

    Raises:
        TypeError: if `step` does not hold numbers.
        ValueError: if a step is not above 0 or the table has another shape; when called, if `block` does not divide an
            axis of x0.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> operator = jd.guidance.operators.quantise(1.0, block=2)
        >>> operator(jnp.full((2, 2, 1), 0.3)).round(3).ravel().tolist()  # 2 x 0.3 is rounded to 1 = 2 x 0.5
        [0.5, 0.5, 0.5, 0.5]
    """
    block = check_whole("block", block)
    step = check_array("step", step, above=0)
    if step.ndim and step.shape != (block,) * step.ndim:
        raise ValueError(f"step has shape {step.shape}; expected a number, or a table of the block, {[block] * 2}")
    return _Quantise(jnp.asarray(step, float), block)


@pytree
@dataclasses.dataclass(frozen=True)
class _PhaseRetrieval:
    oversampling: int = dataclasses.field(metadata={"static": True})

    def __call__(self, x0) -> jax.Array:
        space = x0.shape[: _space(x0, "phase retrieval")]
        sizes = [self.oversampling * length for length in space]
        spectrum = jnp.fft.fftn(x0, sizes, range(len(space)), norm="ortho")
        return ends.sqrt(spectrum.real**2 + spectrum.imag**2)


def phase_retrieval(oversampling: int = 2) -> _PhaseRetrieval:
    """Phase retrieval: magnitudes of the Fourier transform, [h, w, c] -> [k h, k w, c] for k = `oversampling`.

    Each channel is padded by zeros and transformed orthonormally, so that sums of squares are those of x0. With k = 2
    the magnitudes determine almost every image up to its sign, shifts and a rotation by 180 degrees (Hayes 1982). The
    derivative is taken to be 0 where a magnitude is 0.

    Args:
        oversampling: k, a whole number of 1 or more.

    Returns:
        The operator, a function of one example.

    Raises:
        ValueError: if `oversampling` is less than 1.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> jd.guidance.operators.phase_retrieval()(jnp.ones((4, 4, 1))).shape
        (8, 8, 1)
    """
    return _PhaseRetrieval(check_whole("oversampling", oversampling))

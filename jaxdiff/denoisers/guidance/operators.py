r"""What measurements see of data: operators of one example, for `jaxdiff.guidance.Observed`.

    mask(mask)              what is known of it              linear
    average(factor)         means of blocks                  linear
    blur(kernel)            a convolution                    linear
    quantise(step)          rounded cosines, as in JPEG      in steps
    phase_retrieval()       magnitudes of its spectrum       not linear

Each is called on one example, without a batch axis. Masks, kernels and steps are arguments of a program, so that others
compile nothing. Where they differ by example, `masked(x0, mask)` and `blurred(x0, kernel)` take them as parameters:

    jd.guidance.Observed(denoiser, jd.guidance.operators.masked, 0.1)          cond={"y": y, "operator": masks}

Pictures are [h, w, channels], and sounds or volumes [*space, channels].
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import as_array, check_array, check_whole, exactly, pytree, with_dtype
from jaxdiff.processes import ends


def masked(x0, mask) -> jax.Array:
    """`x0` where `mask` is True, and 0 elsewhere; `mask` broadcasts to x0.

    Raises TypeError for a mask that is not boolean, ValueError for one that does not fit.
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
    """What is known of x0, for inpainting: x0 where `mask` [*event] is True, 0 elsewhere.

    What y holds of the rest is noise and moves nothing. Raises TypeError for a mask that is not boolean, and when
    called ValueError for one that does not broadcast to x0.
    """
    return _Mask(jnp.asarray(_truth(mask)))


def _space(x0, what: str) -> int:
    """How many axes of space `x0` has; ValueError where it has none."""
    if x0.ndim < 2:
        raise ValueError(f"{what} of x0 of shape {x0.shape}; expected [*space, channels], such as [h, w, 3]")
    return x0.ndim - 1


def _in_blocks(x0, size: int, name: str) -> jax.Array:
    """`x0` [h, w, c] as [h/size, size, w/size, size, c], of any number of axes; ValueError for what cannot be cut."""
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
    """Means over blocks of `factor` by `factor`, for super-resolution: [h, w, c] -> [h/factor, w/factor, c].

    Raises TypeError or ValueError for what is no whole number of 1 or more, and when called ValueError for an x0 whose
    axes it does not divide.
    """
    return _Average(check_whole("factor", factor))


@exactly
def blurred(x0, kernel) -> jax.Array:
    """The convolution of each channel of `x0` [*space, c] with `kernel` [*sizes], of the shape of x0, 0 outside of it.

    Raises ValueError for a kernel of another number of axes, or of an even or too large size.
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
    """The convolution with `kernel`, for deblurring: one array of odd sizes, [k, k] for pictures.

    What lies outside of x0 counts as 0. Raises TypeError or ValueError for what holds no finite numbers, and when
    called ValueError for a kernel that does not fit x0.
    """
    return _Blur(jnp.asarray(check_array("kernel", kernel), float))


def _cosines(size: int) -> np.ndarray:
    """The orthonormal discrete cosine transform (of type II) of `size` numbers, [frequency, place]."""
    frequency, place = np.mgrid[:size, :size]
    rows = np.sqrt(2 / size) * np.cos(np.pi * (2 * place + 1) * frequency / (2 * size))
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
            raise ValueError(f"step has shape {step.shape}; expected a number, or one a frequency: {len(axes)} axes")
        if step.ndim:
            step = step.reshape(*(part for length in step.shape for part in (1, length)), 1)
        step = jnp.broadcast_to(step, coefficients.shape)
        rounded = step * jnp.round(coefficients / step)
        coefficients = coefficients + jax.lax.stop_gradient(rounded - coefficients)
        for axis in axes:
            coefficients = turned(coefficients, rows.T, axis)
        return coefficients.reshape(x0.shape)


def quantise(step, block: int = 8) -> _Quantise:
    """Pictures that were compressed as in JPEG: the cosines of blocks of `block` by `block`, each rounded, [h, w, c].

    Each channel is cut into blocks, whose orthonormal cosine transform is rounded to multiples of `step`, a number or a
    table [block, block] by frequency (row 0 and column 0 are the mean), and transformed back. Colours are not mixed,
    and nothing else of JPEG is done. The derivative of rounding is 0 almost everywhere, by which nothing could be
    fitted: it is taken to be 1 (straight through), so that the derivative of the whole is the identity. What is lost in
    rounding is uniform over a step: as noise, its `noise_std` is step/√12.

    Raises TypeError or ValueError for a step that is not above 0 or a table of another shape, and when called
    ValueError for an x0 that cannot be cut into blocks.
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
    """Magnitudes of the spectrum, whose phases were lost: [h, w, c] -> [k h, k w, c] for k = `oversampling`.

    x0 is padded by zeros and transformed orthonormally, each channel alone, so that the sum of squares is that of x0.
    Twice as many frequencies as places determine almost every picture but for its sign, shifts and turns (Hayes 1982).
    The derivative is 0 where the magnitude is. Raises TypeError or ValueError for what is no whole number of 1 or more.
    """
    return _PhaseRetrieval(check_whole("oversampling", oversampling))

r"""Approximations of Cov[x_0 | x_t] for guidance by a measurement, each from a method of the literature.

Let x̂_0 = E[x_0 | x_t], and let H be the derivative of the measurement there, e = y - A(x̂_0) its residual and s² the
variance of its noise. With x_0 ~ N(x̂_0, U),

    E[x_0 | x_t, y] ≈ x̂_0 + W Hᵀ (s² I + H U Hᵀ)⁻¹ e.

U decides how much weight the measurement has relative to the prediction, and W in which directions it moves.
Both should be

    V = Cov[x_0 | x_t] = (σ²/α) ∂x̂_0/∂x_t,

Tweedie's second moment (Efron 2011; Rozet et al. 2024, eq. 12): with x̂_0 = (x + σ² ∇ log p_t)/α, differentiate once
more. Methods that are stated as a score, the gradient of log N(y; A(x̂_0), s² I + H U Hᵀ) with U held fixed, have W = V
too. Products with V are products with the network's Jacobian: V v (forward) inside the solve, and Vᵀ v (backward) once
at its end, as in the gradient of the score. The two are equal for E[x_0 | x_t] itself, whose Jacobian is symmetric, and
nearly so for a network that has learned it.

    spread     W    U                                    from
    Point      V    0                                    DPS, Chung et al. 2023, eq. 11
    Isotropic  V    σ² d²/(σ² + d² α²) I                 ΠGDM, Song et al. 2023, "Pseudoinverse-guided diffusion models"
    RowSums    V    H U Hᵀ = the diagonal of H V Hᵀ 1    TMPD, Boys et al. 2023, and their code
    Moment     V    V                                    MMPS, Rozet et al. 2024, "Learning diffusion priors"
    Proximal   U    σ²/(α² λ) I                          DiffPIR, Zhu et al. 2023, algorithm 1
    Prior      U    (C⁻¹ + α²/σ² I)⁻¹                    JFPS, "Jacobian-free posterior sampling", of the library azula

Isotropic is exact for data from N(m, d² I), Prior for N(m, C) and Moment for every Gaussian: U is V for them. For other
data even Moment is an approximation, since p(x_0 | x_t) is not Gaussian.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import along_batch, check_array, check_field, check_whole, exactly, is_concrete, pytree
from jaxdiff.denoisers.exact import check_covariances
from jaxdiff.denoisers.guidance.measurement import Linearised, solve

_ENOUGH = 1_000


@dataclasses.dataclass(frozen=True)
class Around:
    """The inputs of a spread: the measurement linearised at x̂_0, s², α and σ [n, 1, ...], and V.

    `covariance` is v -> V v and `transposed` is v -> Vᵀ v; both are None for a spread that does not differentiate the
    denoiser.
    """

    measured: Linearised
    noise_variance: jax.Array
    alpha: jax.Array
    sigma: jax.Array
    covariance: Callable[[jax.Array], jax.Array] | None
    transposed: Callable[[jax.Array], jax.Array] | None

    def solved(
        self, spread: Callable[[jax.Array], jax.Array], unit: jax.Array | float = 1.0, iterations=_ENOUGH
    ) -> jax.Array:
        """(unit s² I + H U Hᵀ)⁻¹ e for `spread(v)` = U v; `unit` is a number, or one per example."""
        residual, forward, back = self.measured
        noise = along_batch(unit, residual, "unit") * self.noise_variance
        return solve(lambda u: noise * u + forward(spread(back(u))), residual, iterations)

    def moved(self, u) -> jax.Array:
        """Vᵀ Hᵀ u."""
        assert self.transposed is not None
        return self.transposed(self.measured.transposed(u))


class Spread(abc.ABC):
    """Base class of the choice of W and U in `Observed`.

    A subclass defines `move`, which returns the move W Hᵀ (s² I + H U Hᵀ)⁻¹ e `[n, *event]` of x̂_0, given the
    linearised measurement. Two class attributes say what it needs: `differentiates`, whether it uses V and so the
    denoiser's derivative (True by default), and `noiseless`, whether noise_std may be 0 (True by default).

    Examples:
        >>> import dataclasses
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> @jd.pytree
        ... @dataclasses.dataclass(frozen=True)
        ... class Replace(jd.guidance.Spread):  # W = U = I: a weighted step to the measurement
        ...     differentiates = False
        ...     def move(self, around):
        ...         return around.measured.transposed(around.solved(lambda v: v))
        >>> denoiser = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), jnp.eye(2))
        >>> guided = jd.guidance.Observed(denoiser, lambda x0: x0, 0.0, Replace())
        >>> guided(jnp.zeros((1, 2)), 0.5, jnp.array([[1.0, 2.0]])).data.round(3).tolist()
        [[1.0, 2.0]]
    """

    differentiates: ClassVar[bool] = True
    """Whether it needs V, and with it the derivative of the denoiser."""

    noiseless: ClassVar[bool] = True
    """Whether s may be 0."""

    @abc.abstractmethod
    def move(self, around: Around) -> jax.Array:
        """The move of x̂_0 towards the measurement, `[n, *event]`."""


@pytree
@dataclasses.dataclass(frozen=True)
class Point(Spread):
    """U = 0: x_0 is taken to be x̂_0 (diffusion posterior sampling, DPS).

    The same as `TweedieClassifier` with log N(y; A(x_0), s² I). The move is too long by a factor of 1 + V/s² (for a
    direct measurement of one number), which is large at high noise levels. The authors' code divides by |e| in place of
    s², with one |e| for the whole batch, so that their step size is not `scale`. Costs one backward product with the
    network's Jacobian. `noise_std` must be above 0.

    Source:
        Chung et al. 2023, "Diffusion posterior sampling for general noisy inverse problems", eq. 11.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), jnp.eye(2))
        >>> guided = jd.guidance.Observed(denoiser, lambda x0: x0, 1.0, jd.guidance.Point())
        >>> guided(jnp.zeros((1, 2)), 0.5, jnp.ones((1, 2))).data.shape
        (1, 2)
    """

    noiseless = False

    def move(self, around: Around) -> jax.Array:
        return around.moved(around.measured.residual / around.noise_variance)


@pytree
@dataclasses.dataclass(frozen=True)
class Isotropic(Spread):
    """U = r² I with r² = σ² d²/(σ² + d² α²), the variance of x_0 ~ N(m, d² I) given x_t (ΠGDM).

    Exact for data from N(m, d² I). Costs one backward product with the network's Jacobian.

    Args:
        data_std: d, a number above 0, or one per example `[batch]`.

    Raises:
        ValueError: if `data_std` is not above 0 (a traced one gives NaN instead).

    Source:
        Song et al. 2023, "Pseudoinverse-guided diffusion models for inverse problems".

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), jnp.eye(2))
        >>> guided = jd.guidance.Observed(denoiser, lambda x0: x0, 1.0, jd.guidance.Isotropic(1.0))
        >>> guided(jnp.zeros((1, 2)), 1.0, jnp.ones((1, 2))).data.round(2).tolist()  # halfway to y, as x_t is noise
        [[0.5, 0.5]]
    """

    data_std: float

    def __post_init__(self):
        check_field(self, "data_std", above=0)

    def move(self, around: Around) -> jax.Array:
        alpha, sigma = around.alpha, around.sigma
        variance = along_batch(self.data_std, alpha, "data_std") ** 2
        of_one = variance * sigma**2 / (sigma**2 + variance * alpha**2)
        return around.moved(around.solved(lambda v: of_one * v))


@pytree
@dataclasses.dataclass(frozen=True)
class RowSums(Spread):
    """H U Hᵀ = the diagonal matrix of the sums of the rows of H V Hᵀ (TMPD, as in the authors' code).

    Costs one forward and one backward product with the network's Jacobian. Equal to `Moment` if H V Hᵀ is diagonal. The
    sum of a row is not its variance: for anticorrelated values it is too small, 0 or negative, and the move is too
    long. Expect instability on images (experiments/README.md has figures).

    Source:
        Boys et al. 2023, "Tweedie moment projected diffusions for inverse problems".

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), jnp.eye(2))
        >>> guided = jd.guidance.Observed(denoiser, lambda x0: x0, 1.0, jd.guidance.RowSums())
        >>> guided(jnp.zeros((1, 2)), 1.0, jnp.ones((1, 2))).data.round(2).tolist()  # halfway to y, as x_t is noise
        [[0.5, 0.5]]
    """

    def move(self, around: Around) -> jax.Array:
        residual, forward, back = around.measured
        assert around.covariance is not None
        variance = around.noise_variance + forward(around.covariance(back(jnp.ones_like(residual))))
        unseen = variance == 0
        return around.moved(jnp.where(unseen, 0.0, residual / jnp.where(unseen, 1.0, variance)))


@pytree
@dataclasses.dataclass(frozen=True)
class Moment(Spread):
    """U = V, the covariance that the denoiser itself implies (MMPS). Exact for Gaussian data.

    The system is solved by conjugate residuals: each iteration takes one forward product with the network's Jacobian,
    and one backward product follows at the end. The solve ends earlier once it has converged: a measurement of m
    numbers needs at most about 2 m iterations, and few if the noise is large compared with √(H V Hᵀ). With fewer than
    it needs, the measurement is fitted less well.

    Args:
        iterations: the largest number of iterations, 1 or more, for the whole batch; changing it does not recompile.

    Raises:
        TypeError: if `iterations` is not a whole number.
        ValueError: if it is less than 1.

    Source:
        Rozet et al. 2024, "Learning diffusion priors from observations by expectation maximization".

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), jnp.eye(2))
        >>> guided = jd.guidance.Observed(denoiser, lambda x0: x0, 1.0, jd.guidance.Moment(iterations=4))
        >>> guided(jnp.zeros((1, 2)), 1.0, jnp.ones((1, 2))).data.round(2).tolist()  # halfway to y, as x_t is noise
        [[0.5, 0.5]]
    """

    iterations: int = 64

    def __post_init__(self):
        object.__setattr__(self, "iterations", check_whole("iterations", self.iterations))

    def move(self, around: Around) -> jax.Array:
        assert around.covariance is not None
        return around.moved(around.solved(around.covariance, iterations=self.iterations))


@pytree
@dataclasses.dataclass(frozen=True)
class Proximal(Spread):
    """W = U = σ²/(α² λ) I: the proximal step of DiffPIR.

    The result minimises |y - A(x_0)|² + λ s² (α²/σ²) |x_0 - x̂_0|² over x_0, with A linearised, and needs no derivative
    of the network. Where α = 0 the second term vanishes, and the result is the x_0 nearest to x̂_0 among those that fit
    y best.

    Args:
        weight: λ, a number above 0, or one per example `[batch]`.

    Raises:
        ValueError: if `weight` is not above 0 (a traced one gives NaN instead).

    Source:
        Zhu et al. 2023, "Denoising diffusion models for plug-and-play image restoration", algorithm 1.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), jnp.eye(2))
        >>> guided = jd.guidance.Observed(denoiser, lambda x0: x0, 0.0, jd.guidance.Proximal(1.0))
        >>> guided(jnp.zeros((1, 2)), 0.5, jnp.ones((1, 2))).data.round(3).tolist()  # without noise it fits y
        [[1.0, 1.0]]
    """

    weight: float
    differentiates = False

    def __post_init__(self):
        check_field(self, "weight", above=0)

    def move(self, around: Around) -> jax.Array:
        variance = around.sigma**2
        unit = along_batch(self.weight, around.alpha, "weight") * around.alpha**2
        u = around.solved(lambda v: variance * v, unit.reshape(unit.shape[:1]))
        return variance * around.measured.transposed(u)


@pytree
@dataclasses.dataclass(frozen=True)
class _Prior(Spread):
    """`Prior` in the eigenbasis of C: variances [d], basis [d, d]."""

    variances: jax.Array
    basis: jax.Array

    differentiates = False

    @exactly
    def move(self, around: Around) -> jax.Array:
        shape = around.measured.transposed(around.measured.residual).shape
        d = len(self.variances)
        if np.prod(shape[1:]) != d:
            raise ValueError(f"covariance has {d} values, but x has events of shape {shape[1:]}")
        alpha, sigma = (c.reshape(-1, 1) for c in (around.alpha, around.sigma))
        total = sigma**2 + alpha**2 * self.variances[None]
        variances = self.variances[None] * sigma**2 / jnp.where(total > 0, total, 1.0)

        def spread(v):
            return ((v.reshape(-1, d) @ self.basis) * variances @ self.basis.T).reshape(shape)

        return spread(around.measured.transposed(around.solved(spread)))


def Prior(covariance) -> _Prior:
    """W = U = (C⁻¹ + α²/σ² I)⁻¹, the covariance of x_0 ~ N(m, C) given x_t.

    Exact for Gaussian data of covariance C, and needs no derivative of the network. The library azula calls it
    Jacobian-free posterior sampling (JFPS) and names no paper.

    Args:
        covariance: C, `[d, d]`, for events of d values flattened in row-major order; the covariance of the data is a
            good choice.

    Returns:
        The spread.

    Raises:
        TypeError: if `covariance` is traced.
        ValueError: if it is not square, symmetric and positive semi-definite; when called, if events have another size.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), jnp.eye(2))
        >>> guided = jd.guidance.Observed(denoiser, lambda x0: x0, 1.0, jd.guidance.Prior(jnp.eye(2)))
        >>> guided(jnp.zeros((1, 2)), 1.0, jnp.ones((1, 2))).data.round(2).tolist()  # halfway to y, as x_t is noise
        [[0.5, 0.5]]
    """
    covariance = check_array("covariance", covariance)
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"covariance has shape {covariance.shape}; expected [d, d]")
    if not is_concrete(covariance):
        raise TypeError(
            "covariance is traced; expected concrete numbers: make the spread outside of the transformation"
        )
    covariance = np.asarray(covariance, jnp.result_type(float))
    return _Prior(*map(jnp.asarray, check_covariances(covariance)))

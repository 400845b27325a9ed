r"""Decoupled annealing (DAPS) draws from p(x_0 | y): at every level it draws x_0 anew and noises it to the next level.

For y = A(x_0) + s n, a step from t to t' (Zhang et al. 2024, "Improving diffusion inverse problem solving with
decoupled noise annealing", algorithm 1) is

    x̂_0  = the probability flow from x_t to clean data, in a few steps of DDIM
    x_0  ~ N(x_0; x̂_0, r² I) N(y; A(x_0), s² I), normalised                     a draw of p(x_0 | x_t, y)
    x_t' = α_t' x_0 + σ_t' ε

The noise at t' does not depend on x_t, so a step can be long enough to correct errors of earlier levels. The last
draw of x_0 is the result.

1.  The width r. The paper takes r = σ_t under EDM, where α = 1. On any process x_t/α is a run of EDM at the same
    log-SNR, with r = σ/α. For data of standard deviation d, the variance of x_0 ~ N(0, d²) given x_t is

        r² = 1/(α²/σ² + 1/d²),

    as in ΠGDM (Song et al. 2023). It is finite where α = 0, and d = ∞ gives r = σ/α.
2.  The draw of x_0. For a linear A it is exact by perturbing and solving (Papandreou and Yuille 2010): with w = r z_1,

        x_0 = x̂_0 + w + r² Aᵀ (s² I + r² A Aᵀ)⁻¹ (y + s z_2 - A (x̂_0 + w)),

    has the mean of a Kalman filter, x̂_0 + K (y - A x̂_0) with K = r² Aᵀ (s² I + r² A Aᵀ)⁻¹, and the posterior's
    covariance, r² (I - K A)(I - K A)ᵀ + s² K Kᵀ. A nonlinear A is linearised at x̂_0. For any A there are Langevin
    steps from x̂_0,

        x' = x + δ/2 (Aᵀ (y - A x)/s² - (x - x̂_0)/r²) + √δ z,        δ = size/(1/r² + 1/s²),

    where 1/r² + 1/s² is the largest curvature of the negative log density if |A| <= 1. Directions that A does not see
    have the curvature 1/r² and need some 2 r²/(size s²) steps to forget their start: many at high noise.

Even for Gaussian data the samples are approximate: the end of the flow is not E[x_0 | x_t], and r² I is not the
covariance of x_0 given x_t.
"""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_field, check_instance, check_room, check_whole, folded, nan_unless, normal
from jaxdiff.arrays.dtypes import same_dtype
from jaxdiff.denoisers.guidance import Observed, Proximal
from jaxdiff.denoisers.guidance.measurement import Measurement, Observation, OfMeasurement, solve
from jaxdiff.processes import is_concrete, pytree
from jaxdiff.samplers.ancestral import DDIM
from jaxdiff.samplers.sample import run
from jaxdiff.samplers.sampler import Sampler, grid_of


class PosteriorDraw(abc.ABC):
    """Base class of draws of x_0 from N(x_0; x̂_0, r² I) N(y; A(x_0), s² I), normalised, inside `DAPS`.

    A subclass writes `draw`, and sets `noiseless = False` if it needs s > 0. It is a frozen dataclass under
    `@jaxdiff.pytree`.

    Examples:
        >>> import dataclasses
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> @jd.pytree
        ... @dataclasses.dataclass(frozen=True)
        ... class Ignore(jd.samplers.PosteriorDraw):  # of the measurement
        ...     def draw(self, keys, measurement, observation, guess, r):
        ...         return guess
        >>> operator = jd.guidance.operators.mask(jnp.array([True, False]))
        >>> jd.samplers.DAPS(operator, noise_std=0.1, inner=Ignore()).inner.noiseless
        True
    """

    noiseless = True
    """Whether s may be 0."""

    @abc.abstractmethod
    def draw(self, keys, measurement: Measurement, observation: Observation, guess, r) -> jax.Array:
        """Draw x_0 `[n, *event]` given x̂_0 = `guess` `[n, *event]` and the scalar r, with one key a sample."""


@pytree
@dataclasses.dataclass(frozen=True)
class LinearDraw(PosteriorDraw):
    """Draw x_0 by perturbing and solving, which is exact for a linear operator; others are linearised at x̂_0.

    Args:
        iterations: largest number of products with the operator and its transpose. The network is not evaluated.

    Source:
        Papandreou and Yuille 2010, "Gaussian sampling by local perturbations".

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> operator = jd.guidance.operators.mask(jnp.array([True, False]))
        >>> jd.samplers.DAPS(operator, noise_std=0.1, inner=jd.samplers.LinearDraw(iterations=8)).inner
        LinearDraw(iterations=8)
    """

    iterations: int = 64

    def __post_init__(self):
        object.__setattr__(self, "iterations", check_whole("iterations", self.iterations))

    def draw(self, keys, measurement, observation, guess, r):
        """Move the perturbed guess towards the perturbed measurement by the gain of a Kalman filter."""
        residual, forward, transposed = measurement.linearised(guess, observation)
        variance = measurement.noise_variance(observation.y).astype(residual.dtype)
        away = r * normal(folded(keys, 0), guess)
        rest = residual + jnp.sqrt(variance) * normal(folded(keys, 1), residual) - forward(away)
        gained = solve(lambda u: variance * u + r**2 * forward(transposed(u)), rest, self.iterations)
        return nan_unless(variance >= 0, guess + away + r**2 * transposed(gained))


@pytree
@dataclasses.dataclass(frozen=True)
class LangevinDraw(PosteriorDraw):
    """Draw x_0 by Langevin steps from x̂_0, for any operator; each step takes a forward and a backward pass of it.

    With |A| the norm of the operator's derivative, or 1 if that is larger, steps are stable for a size below 4/|A|².
    Variances are then too large by a factor of at most 1/(1 - size |A|²/4). Requires a `noise_std` above 0.

    Args:
        steps: number of steps, at least 1. Static: a new number compiles a new program.
        size: step size in units of 1/(1/r² + 1/s²), in (0, 4).

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> magnitude = lambda x0: jnp.abs(x0)
        >>> jd.samplers.DAPS(magnitude, noise_std=0.1, inner=jd.samplers.LangevinDraw(steps=20)).inner.steps
        20
    """

    steps: int = dataclasses.field(default=100, metadata={"static": True})
    size: float = 0.1

    noiseless = False

    def __post_init__(self):
        check_room("steps", check_whole("steps", self.steps))
        check_field(self, "size", above=0, below=4)

    def draw(self, keys, measurement, observation, guess, r):
        """Return x_0 after all steps from the guess."""
        variance = measurement.noise_variance(observation.y).astype(guess.dtype)
        share = r**2 / (r**2 + variance)  # δ = size share s²

        def advance(x, index):
            residual, _, transposed = measurement.linearised(x, observation)
            drift = share * transposed(residual) - (1 - share) * (x - guess)
            noise = jnp.sqrt(self.size * share * variance) * normal(folded(keys, index), x)
            return same_dtype(x + self.size / 2 * drift + noise, x), None

        return jax.lax.scan(advance, guess, jnp.arange(self.steps))[0]


@pytree
@dataclasses.dataclass(frozen=True)
class DAPS(OfMeasurement, Sampler):
    """Sample data given a measurement y = operator(x_0) + noise_std n, by decoupled annealing.

    Each step solves the probability flow from its level to the data by a few DDIM steps, draws x_0 given the end point
    and y, and noises it to the next level. The result is the last draw, which has noise of a standard deviation up to
    r of the last level. `cond` is y, or {"y": y, "cond": the denoiser's condition, "operator": parameters}, as for
    `jaxdiff.guidance.Observed`. For continuous data.

    Args:
        operator: function of one example x_0, without a batch axis, or of x_0 and its parameters.
        noise_std: standard deviation of the measurement's noise, 0 or more.
        steps: DDIM steps to the data at each level, one network evaluation each, without a derivative.
        inner: how x_0 is drawn: `LinearDraw()`, or `LangevinDraw()` for an operator that is far from linear.
        data_std: standard deviation of the data, which bounds the width r (see the module); infinity gives the paper's
            r = σ/α.

    Raises:
        TypeError: for an operator that takes other arguments and, when run, for a bridge.
        ValueError: if `noise_std` is below 0, or 0 with `LangevinDraw`; if `steps` is less than 1; when run, for a y of
            another shape than operator(x_0), and for a start with α = 0 (t = 1 of Flow and Cosine) without a finite
            `data_std`.

    Source:
        Zhang et al. 2024, "Improving diffusion inverse problem solving with decoupled noise annealing", algorithm 1.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [0.0, 0.0], [[1.0, 0.9], [0.9, 1.0]])
        >>> sampler = jd.samplers.DAPS(jd.guidance.operators.mask(jnp.array([True, False])), noise_std=0.01, steps=2)
        >>> y = jnp.full((4, 2), 1.5)  # the first value is measured
        >>> x = jd.sample(jax.random.key(0), denoiser, (4, 2), sampler, steps=3, cond=y)
        >>> bool((abs(x[:, 0] - 1.5) < 0.1).all())
        True
    """

    operator: Callable[..., jax.Array]
    noise_std: float
    steps: int = dataclasses.field(default=5, metadata={"static": True})
    inner: PosteriorDraw = LinearDraw()
    data_std: float = math.inf

    takes = ("y",)

    def __post_init__(self):
        check_room("steps", check_whole("steps", self.steps))
        check_instance("inner", self.inner, PosteriorDraw, "a draw of x_0, such as LinearDraw() or LangevinDraw()")
        self._check_measurement(self.inner)
        check_field(self, "data_std", above=0, most=math.inf)

    def check_start(self, process, t) -> None:
        """Raise ValueError if r is infinite at `t`."""
        if process.marginal(t)[0] == 0 and is_concrete(self.data_std) and math.isinf(self.data_std):
            raise ValueError(
                f"alpha({float(t)}) = 0 for {type(process).__name__}, where r = sigma/alpha of DAPS is infinite; start "
                "below, for example t_start=0.999, or give data_std"
            )

    def check_cond(self, denoiser, cond, shape):
        """`cond` as `Observed` takes it, with y checked to have the operator's shape."""
        observed = Observed(denoiser, self.operator, self.noise_std, Proximal(1.0))
        cond = super().check_cond(observed, cond, shape)
        self._measurement.check(jax.ShapeDtypeStruct(shape, jnp.result_type(float)), self._measurement.read(cond))
        return cond

    def step(self, keys, denoiser, x, t, s, state, cond):
        """Draw x_0 at t and noise it to s."""
        process: Any = denoiser.process
        return process.perturb(folded(keys, 0), self.answer(keys, denoiser, x, t, cond), s)[0], state

    def answer(self, keys, denoiser, x, t, cond):
        """Draw x_0 given x at t and y."""
        process: Any = denoiser.process
        observation = self._measurement.read(cond)
        solver = DDIM()
        grid, given = grid_of(solver, process), observation.cond
        guess = run(keys, denoiser, (x.shape,), solver, self.steps, given, grid, t, None, x, False)
        alpha, sigma = process.marginal(t)
        r = sigma / jnp.hypot(alpha, sigma / self.data_std)
        return self.inner.draw(folded(keys, 1), self._measurement, observation, guess, r)

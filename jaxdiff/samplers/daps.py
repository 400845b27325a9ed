r"""Decoupled annealing (DAPS) draws from p(x_0 | y): at every level it draws x_0 anew and noises it to the next level.

For y = A(x_0) + s n, a step from t to t' (Zhang et al. 2024, "Improving diffusion inverse problem solving with
decoupled noise annealing", algorithm 1) is

    x̂_0  = the probability flow from x_t to clean data, in a few steps of DDIM
    x_0  ~ N(x_0; x̂_0, r² I) N(y; A(x_0), s² I), normalised                     a draw of p(x_0 | x_t, y)
    x_t' = α_t' x_0 + σ_t' ε

The noise at t' does not depend on x_t, so that a step can be long enough to correct errors of earlier levels. The last
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
    """Draws x_0 from N(x_0; x̂_0, r² I) N(y; A(x_0), s² I), normalised."""

    noiseless = True
    """Whether s may be 0."""

    @abc.abstractmethod
    def draw(self, keys, measurement: Measurement, observation: Observation, guess, r) -> jax.Array:
        """x_0 [n, *event], given x̂_0 = `guess` [n, *event] and the number r, with one key a sample."""


@pytree
@dataclasses.dataclass(frozen=True)
class LinearDraw(PosteriorDraw):
    """A draw by perturbing and solving: exact for a linear operator; a nonlinear one is linearised at x̂_0.

    The system is solved in at most `iterations` products with the operator and its transpose; the network is not
    evaluated. Raises TypeError or ValueError for anything but a whole number of at least 1.
    """

    iterations: int = 64

    def __post_init__(self):
        object.__setattr__(self, "iterations", check_whole("iterations", self.iterations))

    def draw(self, keys, measurement, observation, guess, r):
        """The perturbed guess, moved towards a perturbed measurement by the gain of a Kalman filter."""
        residual, forward, transposed = measurement.linearised(guess, observation)
        variance = measurement.noise_variance(observation.y).astype(residual.dtype)
        away = r * normal(folded(keys, 0), guess)
        rest = residual + jnp.sqrt(variance) * normal(folded(keys, 1), residual) - forward(away)
        gained = solve(lambda u: variance * u + r**2 * forward(transposed(u)), rest, self.iterations)
        return nan_unless(variance >= 0, guess + away + r**2 * transposed(gained))


@pytree
@dataclasses.dataclass(frozen=True)
class LangevinDraw(PosteriorDraw):
    """A draw by `steps` Langevin steps from x̂_0, for any operator; each takes a forward and a backward pass of it.

    `size` is the step size in units of 1/(1/r² + 1/s²). With |A| the norm of the operator's derivative, or 1 where that
    is larger, steps are stable for a size below 4/|A|², and variances are too large by a factor of at most
    1/(1 - size |A|²/4). Requires noise_std above 0. Raises TypeError or ValueError for a `steps` that is not a whole
    number of at least 1, and for a `size` outside (0, 4).
    """

    steps: int = dataclasses.field(default=100, metadata={"static": True})
    size: float = 0.1

    noiseless = False

    def __post_init__(self):
        check_room("steps", check_whole("steps", self.steps))
        check_field(self, "size", above=0, below=4)

    def draw(self, keys, measurement, observation, guess, r):
        """x_0 after all steps from the guess."""
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
    """Samples given a measurement y = operator(x_0) + noise_std n, by decoupled annealing (Zhang et al. 2024).

        sampler = jd.samplers.DAPS(jd.guidance.operators.average(4), noise_std=0.1)
        x = jd.sample(key, denoiser, (16, 32, 32, 3), sampler, steps=50, cond=y)                y [16, 8, 8, 3]

    `operator` and `cond` are those of `jaxdiff.guidance.Observed`: y, or {"y": y, "cond": what the denoiser takes,
    "operator": parameters}. Each step of a run solves the probability flow from its level to the data by `steps` steps
    of DDIM, each one evaluation of the network without a derivative; `inner` then draws x_0: `LinearDraw()`, or
    `LangevinDraw()` for an operator that is far from linear. The result is the last draw, with noise up to r of the
    last level. `data_std` is d of the module; infinity gives the paper's r = σ/α. For processes of numbers.

    Raises TypeError for a bridge or an operator that takes other arguments; ValueError for a noise_std below 0, or 0
    under `LangevinDraw`, a `steps` below 1, a y of another shape than operator(x_0), and a start where α = 0 (t = 1 of
    Flow and Cosine) unless `data_std` is finite.
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
        """Raise ValueError where r is infinite at `t`."""
        if process.marginal(t)[0] == 0 and is_concrete(self.data_std) and math.isinf(self.data_std):
            raise ValueError(
                f"alpha({float(t)}) = 0 for {type(process).__name__}, where r = sigma/alpha of DAPS is infinite; start "
                "below, for example t_start=0.999, or give data_std"
            )

    def check_cond(self, denoiser, cond, shape):
        """What `Observed` takes, with a y of the operator's shape."""
        observed = Observed(denoiser, self.operator, self.noise_std, Proximal(1.0))
        cond = super().check_cond(observed, cond, shape)
        self._measurement.check(jax.ShapeDtypeStruct(shape, jnp.result_type(float)), self._measurement.read(cond))
        return cond

    def step(self, keys, denoiser, x, t, s, state, cond):
        """A draw of x_0 at t, noised to s."""
        process: Any = denoiser.process
        return process.perturb(folded(keys, 0), self.answer(keys, denoiser, x, t, cond), s)[0], state

    def answer(self, keys, denoiser, x, t, cond):
        """A draw of x_0 given x at t and y."""
        process: Any = denoiser.process
        observation = self._measurement.read(cond)
        solver = DDIM()
        grid, given = grid_of(solver, process), observation.cond
        guess = run(keys, denoiser, (x.shape,), solver, self.steps, given, grid, t, None, x, False)
        alpha, sigma = process.marginal(t)
        r = sigma / jnp.hypot(alpha, sigma / self.data_std)
        return self.inner.draw(folded(keys, 1), self._measurement, observation, guess, r)

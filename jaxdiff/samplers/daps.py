r"""Decoupled annealing (DAPS): x_0 is drawn anew at every level, and noised to the next.

For y = A(x_0) + s n, a step of Zhang et al. 2024 ("Improving diffusion inverse problem solving with decoupled noise
annealing", algorithm 1) from t to s' does not follow the reverse process. It is

    x̂_0  = the probability flow from x_t to clean data, in a few steps of DDIM
    x_0  ~ N(x_0; x̂_0, r² I) N(y; A(x_0), s² I), normalised                     a draw of p(x_0 | x_t, y)
    x_s' = α_s' x_0 + σ_s' ε

so that an error at one level can be made good at the next, however far that leads. The last draw is the result.

1.  r. The paper takes σ_t under EDM, where α = 1. What x_t = α x_0 + σ ε says of x_0 by itself is N(x_t/α, (σ/α)²), so
    that r = σ/α is the same choice on every process: x/α is then a run of EDM at the same log-SNR. For data of standard
    deviation d, x_0 ~ N(0, d²) has the variance

        r² = 1/(α²/σ² + 1/d²)

    given x_t, which is that of PiGDM (Song et al. 2023), finite where α = 0, and σ/α for d = ∞.
2.  The draw. For A linear it is exact by perturbing and solving (Papandreou and Yuille 2010): with w = r z_1,

        x_0 = x̂_0 + w + r² Aᵀ (s² I + r² A Aᵀ)⁻¹ (y + s z_2 - A (x̂_0 + w)),

    whose mean is that of a Kalman filter, x̂_0 + K (y - A x̂_0), and whose covariance is r² (I - K A)(I - K A)ᵀ +
    s² K Kᵀ, the posterior's. An A that is not linear is linearised at x̂_0. Or, for any A, by Langevin steps from
    x̂_0, whose size δ = size/(1/r² + 1/s²) is that of the highest curvature there is where |A| <= 1:

        x' = x + δ/2 (Aᵀ (y - A x)/s² - (x - x̂_0)/r²) + √δ z.

    Where r is far above s, at high noise, what A does not see needs some r²/s² of them to forget its start.

On a Gaussian all of this is linear, and yet not exact: the flow's end is not E[x_0 | x_t], and r² I not the covariance.
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
from jaxdiff.denoisers.guidance.measurement import Measurement, Observation, solve
from jaxdiff.processes import is_concrete, pytree
from jaxdiff.samplers.ancestral import DDIM
from jaxdiff.samplers.sample import run
from jaxdiff.samplers.sampler import Sampler, grid_of


class PosteriorDraw(abc.ABC):
    """How x_0 is drawn from N(x_0; x̂_0, r² I) N(y; A(x_0), s² I)."""

    noiseless = True
    """Whether s may be 0."""

    @abc.abstractmethod
    def draw(self, keys, measurement: Measurement, observation: Observation, guess, r) -> jax.Array:
        """x_0 [n, *event], given x̂_0 = `guess` and the number r, one key a sample."""


@pytree
@dataclasses.dataclass(frozen=True)
class LinearDraw(PosteriorDraw):
    """Exact for a linear operator, by perturbing and solving; another one is linearised at x̂_0.

    The system is solved by at most `iterations` products with the operator and its transpose, no network among them.
    """

    iterations: int = 64

    def __post_init__(self):
        object.__setattr__(self, "iterations", check_whole("iterations", self.iterations))

    def draw(self, keys, measurement, observation, guess, r):
        """The guess, perturbed, and moved by the gain of a Kalman filter to a perturbed measurement."""
        residual, forward, transposed = measurement.linearised(guess, observation)
        variance = measurement.noise_variance(observation.y).astype(residual.dtype)
        away = r * normal(folded(keys, 0), guess)
        rest = residual + jnp.sqrt(variance) * normal(folded(keys, 1), residual) - forward(away)
        gained = solve(lambda u: variance * u + r**2 * forward(transposed(u)), rest, self.iterations)
        return nan_unless(variance >= 0, guess + away + r**2 * transposed(gained))


@pytree
@dataclasses.dataclass(frozen=True)
class LangevinDraw(PosteriorDraw):
    """`steps` Langevin steps from x̂_0, for any operator, each with a forward and a backward pass of it.

    `size` is the length of a step in units of 1/(1/r² + 1/s²): it is stable below 4/|A|², where |A| is the norm of the
    operator's derivative, and overstates variances by up to 1/(1 - size |A|²/4). The measurement must have noise.
    """

    steps: int = dataclasses.field(default=100, metadata={"static": True})
    size: float = 0.1

    noiseless = False

    def __post_init__(self):
        check_room("steps", check_whole("steps", self.steps))
        check_field(self, "size", above=0, below=4)

    def draw(self, keys, measurement, observation, guess, r):
        """Where the steps lead from the guess."""
        variance = measurement.noise_variance(observation.y).astype(guess.dtype)
        share = r**2 / (r**2 + variance)  # of the step in that of the measurement alone

        def advance(x, index):
            residual, _, transposed = measurement.linearised(x, observation)
            drift = share * transposed(residual) - (1 - share) * (x - guess)
            noise = jnp.sqrt(self.size * share * variance) * normal(folded(keys, index), x)
            return same_dtype(x + self.size / 2 * drift + noise, x), None

        return jax.lax.scan(advance, guess, jnp.arange(self.steps))[0]


@pytree
@dataclasses.dataclass(frozen=True)
class DAPS(Sampler):
    """Samples given a measurement y = operator(x_0) + noise_std n, by decoupled annealing (Zhang et al. 2024).

        sampler = jd.samplers.DAPS(jd.guidance.operators.average(4), noise_std=0.1)
        x = jd.sample(key, denoiser, (16, 32, 32, 3), sampler, steps=50, cond=y)                y [16, 8, 8, 3]

    `operator` and `cond` are those of `jaxdiff.guidance.Observed`: y, or {"y": y, "cond": what the denoiser takes,
    "operator": parameters}. Each step of a run solves the flow from its level by `steps` steps of DDIM, `steps`
    evaluations, with no derivative of the network; `inner` then draws x_0: `LinearDraw()`, or `LangevinDraw()` for an
    operator that is far from linear. The result is the last such draw, with the noise that this leaves: r of the last
    level. `data_std` is d of the module, infinite for the paper's r = σ/α. For processes of numbers.

    Raises TypeError for an operator that takes other arguments or a bridge, ValueError for a negative noise_std, or 0
    under Langevin steps, fewer than one step, a y of another shape than operator(x_0), and where α = 0 at the start
    (Flow, Cosine) unless `data_std` is finite.
    """

    operator: Callable[..., jax.Array]
    noise_std: float
    steps: int = dataclasses.field(default=5, metadata={"static": True})
    inner: PosteriorDraw = LinearDraw()
    data_std: float = math.inf

    takes = ("y",)

    def __post_init__(self):
        measurement = self._measurement
        object.__setattr__(self, "operator", measurement.operator)
        object.__setattr__(self, "noise_std", measurement.noise_std)
        check_room("steps", check_whole("steps", self.steps))
        check_instance("inner", self.inner, PosteriorDraw, "a draw of x_0, such as LinearDraw() or LangevinDraw()")
        if not self.inner.noiseless:
            check_field(self, "noise_std", above=0, fix=f", since {type(self.inner).__name__} divides by its square")
        check_field(self, "data_std", above=0, most=math.inf)

    @property
    def _measurement(self) -> Measurement:
        return Measurement(self.operator, self.noise_std)

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

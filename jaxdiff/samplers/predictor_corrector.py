r"""Langevin dynamics: on any score, as a corrector of any sampler, and annealed.

1.  A Langevin step of size δ leaves p nearly as it is (Song and Ermon 2019, eq. 4):

        x' = x + δ/2 ∇ log p(x) + √δ z.

    On N(m, s²) it is affine: it shrinks x - m by 1 - δ/2s², and the variance settles at δ/(1 - (1 - δ/2s²)²) =
    s²/(1 - δ/4s²).

2.  A predictor-corrector sampler (Song et al. 2021, algorithm 1) takes a step of any sampler from t to s, then Langevin
    steps on p_s, which draw x back to it. The size follows from the ratio r of the step's drift to its noise
    (algorithms 4 and 5, where ε = δ/2):

        δ = 4 (r |z| / |∇ log p|)².

    Norms averaged over the batch would make a sample depend on the others. A sample's own norm would make δ depend
    on x: infinite at a mode, and as steps δ(x) settle at p/δ, at a wrong law, p |∇ log p|², which is 0 there. So both
    norms are taken in expectation, |z|² as D and |∇ log p_s|² as D/σ², its value for noise alone. As ∇ log p_s =
    -E[ε | x]/σ, no data exceeds it (Jensen); a point reaches it, and images nearly do, being thinner than σ in most
    directions. Hence at every noise level

        δ = τ σ²,      τ = 4 r²,      x' = x - τ/2 σ ε̂ + √τ σ z,

    which is also the rule of noise-conditional score networks, α_i = ε σ_i²/σ_L² (Song and Ermon 2019, algorithm 1),
    with τ = ε/σ_L². No variance s² of p_s is below σ², so Langevin steps overstate it by 1/(1 - r² σ²/s²) <=
    1/(1 - r²) and are stable for r < 1. (Algorithm 5 has a factor 1 - β_i more, which is 1 as a table grows finer.)

3.  Annealed Langevin dynamics is the corrector with a predictor that only passes x on. For α = 1 this is exactly
    algorithm 1; for other processes x/α is passed on, their x in the coordinates where α = 1. Every run ends with the
    denoiser's prediction, the final denoising step of Jolicoeur-Martineau et al. (2021) and NCSNv2 (Song and Ermon
    2020): where the data are thinner than σ_L, it removes the variance σ_L².
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import (
    along_batch,
    check_field,
    check_flag,
    check_function,
    check_number,
    check_output,
    check_room,
    check_whole,
    example_keys,
    folded,
    normal,
)
from jaxdiff.arrays.dtypes import same_dtype, working_dtype
from jaxdiff.arrays.varying import vary
from jaxdiff.denoisers import score
from jaxdiff.processes import check_event, pytree
from jaxdiff.processes.grids import LogSNR
from jaxdiff.samplers.ancestral import Ancestral
from jaxdiff.samplers.sampler import Sampler, check_guides_noise, check_inner, take_step


def _langevin_step(keys, x, gradient, root) -> jax.Array:
    """One step of size `root`²."""
    return x + root**2 / 2 * gradient + root * normal(keys, x)


@pytree
@dataclasses.dataclass(frozen=True)
class PredictorCorrector(Sampler):
    """Any sampler with Langevin steps after each of its steps, at the noise level reached.

    Every step costs `corrector_steps` evaluations more than the predictor's. The grid is the predictor's; an adaptive
    predictor goes from level to level.

    Args:
        predictor: any sampler that reads no parts of `cond` itself.
        corrector_steps: Langevin steps after each step.
        snr: the paper's r, in [0, 1): a Langevin step has the size 4 snr² σ².

    Source:
        Song et al. 2021, "Score-based generative modeling through SDEs", algorithm 1.

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [2.0], [[0.25]])
        >>> sampler = jd.samplers.PredictorCorrector(jd.samplers.DDIM(), corrector_steps=1)
        >>> jd.sample(jax.random.key(0), denoiser, (4, 1), sampler, steps=5).shape
        (4, 1)
    """

    predictor: Sampler = Ancestral()
    corrector_steps: int = dataclasses.field(default=1, metadata={"static": True})
    snr: float = 0.16

    def __post_init__(self):
        check_inner("predictor", self.predictor)
        check_room("corrector_steps", check_whole("corrector_steps", self.corrector_steps, least=0))
        check_field(self, "snr", least=0, below=1, fix=": Langevin steps diverge from 1 on")

    @property
    def grid(self):
        """The predictor's grid."""
        return self.predictor.grid

    @property
    def looks_back(self) -> bool:
        """Whether the predictor looks back."""
        return self.predictor.looks_back

    def check_cond(self, denoiser, cond, shape):
        """`cond`, checked. Raise ValueError if guidance leaves the noise unguided, which the corrector reads."""
        if self.corrector_steps:
            check_guides_noise(denoiser, "a Langevin step")
        return self.predictor.check_cond(denoiser, cond, shape)

    def init(self, process, x, steps):
        """The predictor's state."""
        return self.predictor.init(process, x, steps)

    def check_start(self, process, t) -> None:
        """Raise ValueError if the predictor cannot start at `t`."""
        self.predictor.check_start(process, t)

    def step(self, keys, denoiser, x, t, s, state, cond):
        """The predictor's step from t to s, then Langevin steps at s; none if s is clean data."""
        x, state = take_step(self.predictor, keys, denoiser, x, t, s, state, cond)
        process: Any = denoiser.process
        sigma = process.sigma(s)
        level = jnp.where(sigma > 0, s, t)

        def correct(x, index):
            step_keys = folded(keys, ~index)  # counts down from 2³² - 1, since a predictor may fold in 0, 1, ...
            corrected = _langevin_step(step_keys, x, score(denoiser, x, level, cond), 2 * self.snr * sigma)
            return same_dtype(jnp.where(sigma > 0, corrected, x), x), None

        return jax.lax.scan(correct, x, jnp.arange(self.corrector_steps))[0], state


@pytree
@dataclasses.dataclass(frozen=True)
class HandOn(Sampler):
    """The predictor of annealed Langevin dynamics: keeps x/α from one noise level to the next."""

    grid = LogSNR()

    def check_start(self, process, t) -> None:
        """Raise ValueError if α = 0 at `t`."""
        if process.marginal(t)[0] == 0:
            raise ValueError(
                f"alpha({float(t)}) = 0 for {type(process).__name__}, and annealed Langevin dynamics keeps x/alpha "
                "between noise levels; start below, for example t_start=0.999"
            )

    def step(self, keys, denoiser, x, t, s, state, cond):
        """x at s with the same x/α."""
        process: Any = denoiser.process
        return process.alpha(s) / process.alpha(t) * x, state


def AnnealedLangevin(steps_per_level: int = 100, epsilon: float = 0.2) -> PredictorCorrector:
    """Annealed Langevin dynamics with the final denoising step, as a sampler.

    The noise levels are the run's grid, by default geometric in σ/α. The run starts at the first level, from the prior
    or `x_start`, and takes `steps_per_level` Langevin steps of size epsilon σ² at each of the others. It takes hundreds
    to thousands of evaluations. Levels must be close enough for the steps to keep up: from σ/α = 150, where VP starts,
    ten levels are too few and forty suffice.

    Args:
        steps_per_level: Langevin steps at each level.
        epsilon: the paper's ε in units of σ_L², the last level's variance, in [0, 4): their 2e-5 at σ_L = 0.01 is 0.2.

    Returns:
        A `PredictorCorrector`.

    Raises:
        ValueError: for an `epsilon` out of range; when run, for a start with α = 0.

    Source:
        Song and Ermon 2019, "Generative modeling by estimating gradients of the data distribution", algorithm 1.

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VE(), [2.0], [[0.25]])
        >>> sampler = jd.samplers.AnnealedLangevin(steps_per_level=10)
        >>> jd.sample(jax.random.key(0), denoiser, (4, 1), sampler, steps=10).shape
        (4, 1)
    """
    check_room("steps_per_level", check_whole("steps_per_level", steps_per_level, least=None))
    units = ", in units of the last level's variance: divide the paper's by sigma_L squared"
    epsilon = check_number("epsilon", epsilon, least=0, below=4, fix=units)
    return PredictorCorrector(HandOn(), steps_per_level, epsilon**0.5 / 2)


def langevin(key, score: Callable, x_start, step_size, steps: int, trajectory: bool = False) -> jax.Array:
    """Run Langevin dynamics on any score: x' = x + step_size/2 score(x) + √step_size z.

    Chain i depends on `key` and i alone. The steps are not corrected: the law is p in the limit of small steps. One
    program is compiled for a score function, the shape of `x_start` and `steps`.

    Args:
        key: a typed key, or n keys, one a chain.
        score: function ∇ log p of x `[n, *event]`, such as `lambda x: jd.score(denoiser, x, t)`.
        x_start: where the chains start, `[n, *event]`.
        step_size: above 0, one for all or one a chain.
        steps: number of steps.
        trajectory: return every x on the way.

    Returns:
        x after all steps, `[n, *event]`, or `[steps + 1, n, *event]` with `trajectory=True`.

    Raises:
        ValueError: for fewer than one step, a step size that is not above 0 (traced, NaN), an `x_start` that is not a
            batch of finite events, or a score of another shape.
        TypeError: for an integer `x_start` or a key that is not typed.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> score = lambda x: -x  # of the standard normal distribution
        >>> x = jd.samplers.langevin(jax.random.key(0), score, jnp.zeros((1000, 1)), step_size=0.1, steps=100)
        >>> bool(abs(x.std() - 1) < 0.1)
        True
    """
    check_function("score", score, "a function [n, *event] -> [n, *event]")
    x_start = check_event(x_start, "x_start")
    step_size = along_batch(check_number("step_size", step_size, above=0), x_start, "step_size")
    steps, trajectory = check_whole("steps", steps), check_flag("trajectory", trajectory)
    check_room("steps", steps)
    if trajectory:
        check_room("chains, stored twice,", steps + 1, *x_start.shape, itemsize=8)
    return _langevin(example_keys(key, x_start.shape[0]), score, x_start, step_size, steps, trajectory)


@functools.partial(jax.jit, static_argnames=("score", "steps", "trajectory"))
def _langevin(keys, score, x_start, step_size, steps, trajectory) -> jax.Array:
    def advance(x, index):
        gradient = score(x)
        check_output("score", gradient, x)
        step_keys = folded(keys, index)
        x = same_dtype(_langevin_step(step_keys, x, gradient, jnp.sqrt(step_size)), x)
        return x, x if trajectory else None

    start = vary(x_start.astype(working_dtype(x_start)), (keys, step_size))
    x, path = jax.lax.scan(advance, start, jnp.arange(steps))
    return (x if path is None else jnp.concatenate([start[None], path])).astype(x_start.dtype)

r"""Tau-leaping: the reverse process as jumps whose rates are held constant for a step.

1.  In continuous time a value jumps back from x to y at rates that follow from the denoiser's ratios p_t(y)/p_t(x)
    (`jaxdiff.processes.discrete`). A step from t to s holds them at their value in t: each value jumps with probability
    1 - exp(-rate (t - s)), independently of the others (Campbell et al. 2022, "A continuous time framework for discrete
    denoising models", section 4.3; Lou et al. 2024, section 4.2, for one jump a value).
2.  A corrector goes forward to t by the noise and back to s by such a step, which keeps p_s if the step is exact:
    values that were drawn together, hence independently, are drawn again (section 4.4 there runs both directions at
    once).
3.  Rates that are held too long leave noise behind: for masks at α = 1 - t a share exp(-H_T) after T equal steps, 12 %
    for T = 4. So a step to a time without noise draws the rest from the denoiser's prediction.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_instance, check_whole, folded, pytree
from jaxdiff.processes import Discrete
from jaxdiff.samplers.sampler import Sampler


@pytree
@dataclasses.dataclass(frozen=True)
class TauLeaping(Sampler):
    """Tau-leaping for categorical data: values jump at the reverse rates, which are held constant for a step.

    After few steps its samples are farther from the exact law than those of `Ancestral`, which draws from the posterior
    of the whole step. Visible values of an `x_start` with masks stay.

    Args:
        correct: number of corrector steps after each step. Each noises x from s to t and leaps back, with one network
            evaluation.

    Raises:
        ValueError: if `correct` is below 0.
        TypeError: when run, if the data of the process are not categorical.

    Source:
        Campbell et al. 2022, "A continuous time framework for discrete denoising models", section 4.3.

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Table(jd.Absorbing(2), [[0.4, 0.1], [0.1, 0.4]])
        >>> jd.sample(jax.random.key(0), denoiser, (4, 2), jd.samplers.TauLeaping(correct=1), steps=5).shape
        (4, 2)
    """

    correct: int = dataclasses.field(default=0, metadata={"static": True})

    def __post_init__(self):
        object.__setattr__(self, "correct", check_whole("correct", self.correct, least=0))

    def check_process(self, process) -> None:
        """Raise TypeError if the data of the process are not categorical."""
        check_instance("process", process, Discrete, "a process of categories for TauLeaping; take Ancestral()")

    def init(self, process, x, steps):
        """Which values of x are data and must stay."""
        return process.known(x)

    def step(self, keys, denoiser, x, t, s, state, cond):
        """A leap from t to s, then corrector steps between the two; a draw of the data if s has no noise."""
        process: Any = denoiser.process

        def leap(keys, x):
            prediction = denoiser(x, t, cond)
            leaps = lambda: process.leap(keys, prediction, x, t, s)
            return jax.lax.cond(process.sigma(s) == 0, lambda: process.answer(keys, prediction), leaps)

        def corrected(number, x):
            noised = jnp.where(state, x, process.forward(folded(keys, 2 * number + 1), x, s, t))
            return leap(folded(keys, 2 * number + 2), noised)

        return jax.lax.fori_loop(0, self.correct, corrected, leap(folded(keys, 0), x)), state

r"""Tau-leaping: the reverse of the noise as a process of jumps, its rates held for a step.

1.  In continuous time a value jumps back from x to y at rates that follow from the denoiser's ratios p_t(y)/p_t(x)
    (`jaxdiff.processes.discrete`). A step from t to s holds them at their value in t: each value jumps with probability
    1 - exp(-rate (t - s)), independently of the others (Campbell et al. 2022, "A continuous time framework for discrete
    denoising models", section 4.3; Lou et al. 2024, section 4.2, for one jump a value).
2.  A corrector goes forward to t by the noise and back to s by such a step, which leaves p_s as it is where the step is
    exact: values that were set in few looks are set again (section 4.4 there runs both at once).
3.  Rates that are held too long leave noise behind: of masks at α = 1 - t a share exp(-H_T) after T equal steps, 12 %
    for T = 4. So a step to where there is no noise draws what is left, as the denoiser's answer does.
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
    """Tau-leaping of categories (Campbell et al. 2022), each step followed by `correct` corrector steps.

        jd.sample(key, denoiser, (16, 128), jd.samplers.TauLeaping(correct=1), steps=64)

    A corrector step noises x from s to t again and leaps back; it takes one evaluation of the denoiser. What is seen at
    the start of a run of masks stays. Few steps are farther from the exact law than those of `Ancestral`, which draws
    from the posterior of the whole step.

    Raises ValueError for a number of corrector steps below 0; when it is run, TypeError for another process than one of
    categories.
    """

    correct: int = dataclasses.field(default=0, metadata={"static": True})

    def __post_init__(self):
        object.__setattr__(self, "correct", check_whole("correct", self.correct, least=0))

    def check_process(self, process) -> None:
        """Raise TypeError for a process of numbers, or a product."""
        check_instance("process", process, Discrete, "a process of categories for TauLeaping; take Ancestral()")

    def init(self, denoiser, x, steps):
        """Which values of x are data, and stay."""
        process: Any = denoiser.process
        return process.known(x)

    def step(self, keys, denoiser, x, t, s, state, cond):
        """A leap from t to s, then the corrector steps between the two; a draw of the data where s has no noise."""
        process: Any = denoiser.process

        def leap(keys, x):
            prediction = denoiser(x, t, cond)
            leaps = lambda: process.leap(keys, prediction, x, t, s)
            return jax.lax.cond(process.sigma(s) == 0, lambda: process.answer(keys, prediction), leaps)

        def corrected(number, x):
            noised = jnp.where(state, x, process.forward(folded(keys, 2 * number + 1), x, s, t))
            return leap(folded(keys, 2 * number + 2), noised)

        return jax.lax.fori_loop(0, self.correct, corrected, leap(folded(keys, 0), x)), state

r"""The noise of a measurement, at the maximum of its evidence, by expectation and maximisation.

For y = A(x_0) + s n with m numbers an example, Fisher's identity makes the slope of the evidence an average over the
posterior (Dempster, Laird and Rubin 1977):

    d log p(y)/ds² = E[ d log p(y | x_0)/ds² | y ] = E[ |y - A(x_0)|² | y ]/(2 s⁴) - m/(2 s²),

which is 0 where s² is the mean square of y - A(x_0). So each round draws x_0 of every example under the s that is
known, and its mean square over all examples is the next s²: a map g, whose fixed point is sought. Under the same random
numbers in every round g is a function, and the rounds converge as λ^k, with λ = g'(s²) the share of information that is
missing for not having seen x_0.

With q_i the mean square of example i, an error of its mean is one of s² times 1/(1 - λ):

    standard error of s² = std(q)/√n / (1 - λ).

Of a right model q is that of true pairs, of variance 2 s⁴/m. The square is then the sum of 2 s⁴/(n m (1 - λ)), the
variance of the maximum itself over other measurements, and λ times the whole, that of drawing x_0 once an example.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_instance, check_whole, example_keys
from jaxdiff.denoisers.guidance import Observed
from jaxdiff.denoisers.guidance.measurement import Measurement
from jaxdiff.samplers.dpm_solver import DPMSolverPP
from jaxdiff.samplers.sample import sample
from jaxdiff.samplers.sampler import Sampler

_FURTHER = 1.1


class NoiseEstimate(NamedTuple):
    """The noise of a measurement, its standard error, the start and the value of each round, whether they have settled.

    The standard error is around the true noise: of the examples at hand and of the draws. `converged` says that what
    further rounds would change is below a tenth of it.
    """

    noise_std: float
    standard_error: float
    rounds: np.ndarray
    converged: bool


def estimate_noise(
    key,
    observed: Observed,
    shape: Any,
    cond: Any,
    rounds: int = 20,
    sampler: Sampler = DPMSolverPP(),
    steps: int = 50,
    **settings,
) -> NoiseEstimate:
    """`noise_std` of a measurement at the maximum of its evidence, one for all examples, from that of `observed` on.

        found = jd.samplers.estimate_noise(key, observed, (1000, 28, 28, 1), cond=y)
        observed = dataclasses.replace(observed, noise_std=found.noise_std)

    `shape` = (n, *event) and `cond` are what `jaxdiff.sample` takes, as are `sampler`, `steps` and the other settings;
    a round draws one x_0 for each example, always by the same random numbers, and compiles nothing new. Every number of
    y must have the noise: an operator such as `mask`, whose zeros are exact, hides it. The answer is as good as the
    samples are draws of the posterior. One round more, at a noise a tenth larger, tells how fast they converge.

    Raises TypeError for what is no `Observed`, ValueError for fewer than one round, a noise_std that is 0, from which
    the rounds do not move, and as `jaxdiff.sample` does.
    """
    check_instance("observed", observed, Observed, "a jaxdiff.guidance.Observed(denoiser, operator, noise_std)")
    rounds = check_whole("rounds", rounds)
    if np.ndim(observed.noise_std) or not observed.noise_std > 0:
        raise ValueError(f"noise_std = {observed.noise_std}; expected one number above 0 for all, from which to begin")
    n = observed.process.check_shape(shape)[0]
    keys, dtype = example_keys(key, n), jnp.result_type(float)

    def squares(variance) -> np.ndarray:
        """The mean square of y - A(x_0) of each example, x_0 drawn under this variance of the noise."""
        under = dataclasses.replace(observed, noise_std=jnp.asarray(np.sqrt(variance), dtype))
        x0 = sample(keys, under, shape, sampler, steps, cond, **settings)
        return np.asarray(_squares(Measurement(observed.operator, 1.0), x0, cond), np.float64)

    variances = [float(observed.noise_std) ** 2]
    for _ in range(rounds):
        found = squares(variances[-1])
        variances.append(float(found.mean()))
    before, last = variances[-2:]
    further = float(squares(_FURTHER * before).mean())
    missing = (further - last) / ((_FURTHER - 1) * before)
    left = 1 - missing if missing < 1 else np.nan
    error = found.std(ddof=1) / np.sqrt(n) / left if n > 1 else np.nan
    std = float(np.sqrt(last))
    converged = abs(last - before) / left <= 0.1 * error
    return NoiseEstimate(std, float(error / (2 * std)), np.sqrt(variances), bool(converged))


@jax.jit
def _squares(measurement, x0, cond) -> jax.Array:
    observation = measurement.read(cond)
    rest = observation.y - measurement.applied(x0, observation)
    return jnp.mean(rest**2, range(1, rest.ndim))

r"""Estimates the noise of a measurement by maximising its evidence, with expectation-maximisation (EM).

For y = A(x_0) + s n with m numbers an example, Fisher's identity writes the derivative of the evidence as an average
over the posterior (Dempster, Laird and Rubin 1977):

    d log p(y)/ds² = E[ d log p(y | x_0)/ds² | y ] = E[ |y - A(x_0)|² | y ]/(2 s⁴) - m/(2 s²),

which is 0 if s² is the mean square of y - A(x_0). So each round draws x_0 for every example under the current s, and
takes the mean square over all examples as the next s²: a map g, whose fixed point is the estimate. With the same random
numbers in every round g is a deterministic function, and after k rounds the error is of order λ^k, with λ = g'(s²) the
fraction of missing information.

With q_i the mean square of example i, an error in the mean of q moves the fixed point by 1/(1 - λ) times as much:

    standard error of s² = std(q)/√n / (1 - λ).

If the model is right, q is distributed as for true pairs (x_0, y), with variance 2 s⁴/m. The squared standard error is
then the sum of 2 s⁴/(n m (1 - λ)), the variance of the maximum over measurements, and of λ times the total, the
variance of drawing x_0 only once an example.
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
    """An estimate of a measurement's `noise_std`.

    Attributes:
        noise_std: the estimate.
        standard_error: over measurements and draws of x_0, around the true value; NaN for one example, and for rounds
            that diverge.
        rounds: the starting value and the value after each round, `[rounds + 1]`.
        converged: whether further rounds would change the estimate of s² by less than a tenth of its standard error.

    Examples:
        >>> import dataclasses
        >>> import jax
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [0.0], [[1.0]])
        >>> observed = jd.guidance.Observed(denoiser, jd.guidance.operators.mask(True), noise_std=1.0)
        >>> y = 1.1 * jax.random.normal(jax.random.key(0), (50, 1))
        >>> found = jd.samplers.estimate_noise(jax.random.key(1), observed, (50, 1), y, rounds=2, steps=5)
        >>> observed = dataclasses.replace(observed, noise_std=found.noise_std)
        >>> bool(found.rounds[-1] == observed.noise_std)
        True
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
    """Estimate the `noise_std` of a measurement, one for all examples, by expectation-maximisation.

    Rounds start at the `noise_std` of `observed`. Each draws one x_0 for each example, always with the same random
    numbers, and compiles nothing new. One further round, at a variance a tenth larger, measures the speed of
    convergence. Every value of y must be noisy: values hidden by `mask` would count as measured without noise. The
    estimate is as good as samples of `observed` are draws from the posterior.

    Args:
        key: a typed key, or n keys, one an example.
        observed: denoiser of p(x_0 | y), with one `noise_std` above 0.
        shape: (n, *event).
        cond: the measurement, as `observed` takes it.
        rounds: number of rounds, at least 1.
        sampler: sampler of each round.
        steps: its number of steps.
        **settings: other arguments of `jaxdiff.sample`.

    Raises:
        TypeError: if `observed` is not a `jaxdiff.guidance.Observed`.
        ValueError: for fewer than one round, or a `noise_std` that is not one number above 0.

    Source:
        Dempster, Laird and Rubin 1977, "Maximum likelihood from incomplete data via the EM algorithm".

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [0.0], [[1.0]])
        >>> observed = jd.guidance.Observed(denoiser, jd.guidance.operators.mask(True), noise_std=1.0)
        >>> y = 1.1 * jax.random.normal(jax.random.key(0), (50, 1))
        >>> found = jd.samplers.estimate_noise(jax.random.key(1), observed, (50, 1), y, rounds=2, steps=5)
        >>> found.rounds.shape, bool(found.noise_std > 0)
        ((3,), True)
    """
    check_instance("observed", observed, Observed, "a jaxdiff.guidance.Observed(denoiser, operator, noise_std)")
    rounds = check_whole("rounds", rounds)
    if np.ndim(observed.noise_std) or not observed.noise_std > 0:
        raise ValueError(f"noise_std = {observed.noise_std}; expected one number above 0 as the starting value")
    n = observed.process.check_shape(shape)[0]
    keys, dtype = example_keys(key, n), jnp.result_type(float)

    def squares(variance) -> np.ndarray:
        """The mean square of y - A(x_0) of each example, for x_0 drawn under this noise variance."""
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

r"""The evidence of a measurement, log p(y), from Bayes' rule ("candidate's formula": Besag 1989; Chib 1995):

    log p(y) = log p(y | x_0) + log p(x_0) - log p(x_0 | y)            at any x_0.

The first term is the Gaussian of the noise. The other two are likelihoods by the probability flow: of a denoiser, and
of the denoiser of p(x_0 | y) that `Observed` makes of it. Both traces are estimated with the same probes, so that their
errors partly cancel; the standard error is that of the difference.

The result does not depend on x_0 where `Observed` is exact: for Gaussian data under `Moment` and `Prior`. Elsewhere
p(x_0 | y) is approximate, and the result varies with x_0 as its error does. For a mixture of two Gaussians in the
plane whose first coordinate was measured with noise 0.1, 0.3 and 1, the error was 0.26, 0.17 and 0.07 nats on average
over posterior samples of `Moment`, and at most 1.7. Both likelihoods also take the process's prior for the distribution
of x at t = 1, an error that does not cancel: with VP, where α(1) = 0.007, it was up to 0.03 nats at an x_0 many
standard deviations from the posterior, and with Flow 4e-6.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import (
    Precision,
    at_precision,
    check_event,
    check_instance,
    check_number,
    check_precision,
    is_concrete,
    nan_unless,
)
from jaxdiff.denoisers.guidance import Interval, Observed
from jaxdiff.denoisers.guidance.measurement import Measurement
from jaxdiff.likelihood.log_likelihood import by_estimate
from jaxdiff.likelihood.trace import Hutchinson, Trace
from jaxdiff.samplers import ProbabilityFlow


class Evidence(NamedTuple):
    """log p(y) of each measurement, with its standard error; each `[n]`.

    Attributes:
        log_prob: log p(y) in nats.
        standard_error: in nats, of the trace estimates; NaN for one random probe, 0 for the exact trace.
        evaluations: sum over both solves; -1 for an implicit solver, which does not count them.
        converged: whether both solves converged.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [0.0], [[1.0]])
        >>> observed = jd.guidance.Observed(denoiser, jd.guidance.operators.mask(True), noise_std=1.0)
        >>> y = x0 = jnp.array([[0.5]])
        >>> found = jd.likelihood.log_evidence(jax.random.key(0), observed, x0, y, trace=jd.likelihood.Exact())
        >>> found.standard_error.shape, bool(found.converged[0])
        ((1,), True)
    """

    log_prob: jax.Array
    standard_error: jax.Array
    evaluations: jax.Array
    converged: jax.Array


def log_evidence(
    key,
    observed: Observed,
    x0,
    cond: Any,
    flow: ProbabilityFlow = ProbabilityFlow(),
    trace: Trace = Hutchinson(),
    t_min: float = 1e-5,
    precision: Precision | None = None,
) -> Evidence:
    """Compute log p(y) of measurements, in nats, from three likelihoods at any x0.

    If `observed` is exact, the result does not depend on x0. Otherwise a posterior sample is a good choice, since
    p(x_0 | y) is most accurate there: `x0 = jd.sample(key, observed, (n, *event), cond=y)`. The measurement's term
    takes x0 for clean data; the two likelihoods take it for x at `t_min`.

    Args:
        key: a typed key, or n keys, one an example.
        observed: the denoiser of p(x_0 | y), with a `noise_std` above 0 and a scale of 1.
        x0: where the formula is evaluated, `[n, *event]`.
        cond: the measurement, as `observed` takes it.
        flow: solver and tolerances, as in `jaxdiff.log_likelihood`.
        trace: trace of the flow's Jacobian, as in `jaxdiff.log_likelihood`.
        t_min: time of x0, as in `jaxdiff.log_likelihood`.
        precision: of the network's float32 products, as in `jaxdiff.sample`.

    Raises:
        TypeError: if `observed` is not a `jaxdiff.guidance.Observed`.
        ValueError: for a `noise_std` of 0 or a scale that is not 1.

    Source:
        Chib 1995, "Marginal likelihood from the Gibbs output".

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [0.0], [[1.0]])
        >>> observed = jd.guidance.Observed(denoiser, jd.guidance.operators.mask(True), noise_std=1.0)
        >>> y = x0 = jnp.array([[0.5]])
        >>> found = jd.likelihood.log_evidence(jax.random.key(0), observed, x0, y, trace=jd.likelihood.Exact())
        >>> closed_form = jax.scipy.stats.norm.logpdf(0.5, scale=2**0.5)
        >>> bool(abs(found.log_prob[0] - closed_form) < 0.01)
        True
    """
    check_instance("observed", observed, Observed, "a jaxdiff.guidance.Observed(denoiser, operator, noise_std)")
    check_precision(precision)
    x0, scale = check_event(x0, "x0"), observed.scale
    if isinstance(scale, Interval) or (is_concrete(scale) and np.any(np.asarray(scale) != 1)):
        raise ValueError(f"scale = {scale} of observed; expected 1, since no other gives the posterior of Bayes' rule")
    check_number("noise_std", observed.noise_std, above=0)
    settings = flow, trace, t_min, None
    with at_precision(precision):
        (posterior, moved), ((denoiser, given),) = by_estimate(key, observed, x0, cond, *settings), observed.asked(cond)
        prior, also_moved = by_estimate(key, denoiser, x0, given, *settings)
        likelihood = Measurement(observed.operator, observed.noise_std).log_likelihood(x0, cond)
    log_prob = nan_unless(scale == 1, likelihood + prior.log_prob - posterior.log_prob)
    both = prior.evaluations + posterior.evaluations
    return Evidence(
        log_prob,
        trace.standard_error(also_moved - moved),
        jnp.where((prior.evaluations < 0) | (posterior.evaluations < 0), -1, both),
        prior.converged & posterior.converged,
    )

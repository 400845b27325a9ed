r"""The evidence of a measurement, log p(y), from Bayes' rule ("candidate's formula": Besag 1989; Chib 1995):

    log p(y) = log p(y | x_0) + log p(x_0) - log p(x_0 | y)            at any x_0.

The first term is the Gaussian of the noise. The other two are likelihoods by the probability flow: of a denoiser, and
of the denoiser of p(x_0 | y) that `Observed` makes of it. Both traces are estimated with the same probes, so that their
errors partly cancel; the standard error is that of the difference.

The result does not depend on x_0 where `Observed` is exact: for Gaussian data under `Moment` and `Prior`. Elsewhere
p(x_0 | y) is approximate, and the result varies with x_0 as its error does. For a mixture of two Gaussians in the
plane, of which one coordinate was measured with noise 0.1, 0.3 and 1, the error was 0.26, 0.17 and 0.07 nats on average
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
    """log p(y) of each measurement, [n], in nats, with its standard error and what the two solves took.

    The standard error is that of the trace estimates, NaN for one random probe. `evaluations` is the sum over both
    solves, -1 where it is not known; `converged` holds where both converged.
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
    """log p(y) in nats of the measurements in `cond`, by the candidate's formula at x0 [n, *event].

        x0 = jd.sample(key, observed, (n, *event), cond=y)
        found = jd.likelihood.log_evidence(key, observed, x0, cond=y)

    `observed` is the denoiser of p(x_0 | y), with a `noise_std` above 0 and a scale of 1; `cond` is what it takes.
    Where it is exact, the result is the same at every x0; a posterior sample is a good choice, since p(x_0 | y) is most
    accurate there. `flow`, `trace`, `t_min` and `precision` are those of `jaxdiff.log_likelihood`. The measurement's
    term takes x0 for clean data; the two likelihoods take it for x at `t_min`.

    Raises TypeError for anything but an `Observed`, ValueError for a noise_std of 0 or a scale that is not 1, and what
    `jaxdiff.log_likelihood` raises.
    """
    check_instance("observed", observed, Observed, "a jaxdiff.guidance.Observed(denoiser, operator, noise_std)")
    check_precision(precision)
    x0, scale = check_event(x0, "x0"), observed.scale
    if isinstance(scale, Interval) or (is_concrete(scale) and np.any(np.asarray(scale) != 1)):
        raise ValueError(f"scale = {scale} of observed; expected 1, since any other makes no posterior of Bayes' rule")
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

r"""How probable a measurement is, by Bayes' rule read backwards (Besag 1989; Chib 1995, "candidate's formula"):

    log p(y) = log p(y | x_0) + log p(x_0) - log p(x_0 | y)            at any x_0.

The first term is the measurement's own Gaussian, and the others are likelihoods: of a denoiser, and of the denoiser of
p(x_0 | y) that `Observed` makes of it. Both see the same probes, so that the standard error is that of the difference:
near x_0 where the two flows are alike, the estimates of their traces are too.

The choice of x_0 does not matter where `Observed` is exact: for Gaussian data under `Moment` and `Prior`. Elsewhere
p(x_0 | y) is that of an approximation, and the result varies with x_0 by as much as this is off: on a mixture of two
Gaussians in the plane, one number of it measured with noise 0.1, 0.3 and 1, it was off by 0.26, 0.17 and 0.07 nats in
the mean over posterior samples of `Moment`, and by up to 1.7. Both likelihoods take the process's prior for the law of
x at t = 1, and the difference of the two does not cancel that: VP, with α(1) = 0.007, was off by up to 0.03 nats at an
x_0 many standard deviations from the posterior, where Flow was by 4e-6.
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
    """Of each measurement, [n]: log p(y) in nats, its standard error, evaluations of both solves, both converged.

    The standard error is that of the trace, NaN for one random probe; evaluations are -1 where they are not known.
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

        y = cond["y"];    x0 = jd.sample(key, observed, shape, cond=cond);    log_evidence(key, observed, x0, cond)

    `observed` is the denoiser of p(x_0 | y), with a `noise_std` above 0 and a scale of 1; `cond` is what it takes. At
    any x0 the answer is the same where `observed` is exact; a posterior sample is a good one, since there p(x_0 | y) is
    best known. `flow`, `trace`, `t_min` and `precision` are those of `jaxdiff.log_likelihood`; x0 is taken for clean
    data, which the measurement sees, and for x at `t_min`, of which the likelihoods are.

    Raises TypeError for what is no `Observed`, ValueError for a noise_std of 0 or a scale that is not 1, and as
    `jaxdiff.log_likelihood` does.
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

r"""log p(x) by the probability flow in the rotation's coordinates.

Along dz/dφ = v(z, φ) the density of z changes by d log p(z)/dφ = -tr ∂v/∂z (Chen et al. 2018; Song et al.
2021, eq. 39). With φ_0, φ_1 the angles of t_min and 1, D the size of an event, and log p(x) = log p(z) - D log q,

    log p(x_0) = log N(x_1; 0, prior_std²) + D log q_1/q_0 + ∫_{φ_0}^{φ_1} tr ∂v/∂z dφ.

The trace is that of `jaxdiff.likelihood.trace`: exact, or estimated by random vectors drawn once an example and
held along the flow. Every probe carries its own integral, so their spread is the standard error. Drift and products
come from one pass of the network, forward. For a linear field v = A z the variance of one Rademacher probe is
2 Σ_{i≠j} S_ij² with S the symmetric part of ∫A.

A flow from another source (see `jaxdiff.losses.flow_matching`) has the density of that source in place of the prior's.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff.arrays import Precision, at_precision, check_function, check_precision, exactly, example_keys
from jaxdiff.arrays.dtypes import working_dtype
from jaxdiff.arrays.mesh import by_device, split_of
from jaxdiff.arrays.varying import vary
from jaxdiff.denoisers import DenoiserLike, angular_velocity, check_cond, check_start
from jaxdiff.denoisers.checks import check_answer, check_model
from jaxdiff.likelihood.trace import Hutchinson, Trace, check_trace, estimates_of
from jaxdiff.processes import as_pytree, check_event, check_gaussian
from jaxdiff.processes.grids import check_one_time
from jaxdiff.samplers import ProbabilityFlow
from jaxdiff.samplers.adjoint import forward_mode_named
from jaxdiff.samplers.probability_flow import check_flow


class Likelihood(NamedTuple):
    """Log-likelihoods with their standard errors, each `[batch]`.

    Attributes:
        log_prob: in nats.
        standard_error: of `log_prob` in nats, from the spread of the trace estimates; NaN for a single random one, 0
            for the exact trace.
        evaluations: of drift and trace together; -1 for an implicit solver, which does not count them.
        converged: whether the solve succeeded. If not, `log_prob` is meaningless.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [2.0], [[0.25]])
        >>> found = jd.log_likelihood(jax.random.key(0), denoiser, jnp.array([[2.0]]))
        >>> found.log_prob.shape, bool(found.converged[0])
        ((1,), True)
    """

    log_prob: jax.Array
    standard_error: jax.Array
    evaluations: jax.Array
    converged: jax.Array


def log_likelihood(
    key,
    denoiser: DenoiserLike,
    x0,
    cond: Any = None,
    flow: ProbabilityFlow = ProbabilityFlow(),
    trace: Trace = Hutchinson(),
    t_min: float = 1e-5,
    source: Callable | None = None,
    precision: Precision | None = None,
) -> Likelihood:
    """Compute log p(x0) in nats by the denoiser's probability flow.

    Each example has its own probes, from `key` and its index, and its own steps. If x0 is split between the devices of
    a mesh, each device solves its own examples, and the results stay there.

    Args:
        key: a typed key, or one key an example.
        denoiser: any denoiser of continuous data.
        x0: data `[batch, *event]`, taken for x at `t_min`.
        cond: condition, leaves `[batch, ...]`.
        flow: solver, tolerances and adjoint, in the object that samples with them. By default derivatives are in
            reverse mode; `diffrax.ForwardMode()` is for `jax.jvp` and `jax.jacfwd`, `diffrax.DirectAdjoint()` for both,
            such as a Hessian (`jaxdiff.samplers.adjoint`).
        trace: how the trace of the flow's Jacobian is computed. `Hutchinson`, `HutchPP` and `XTrace` estimate it by
            random probes; `Exact` takes as many products as an event has values. Your own is a subclass of
            `jaxdiff.likelihood.Trace`.
        t_min: time of x0; 0 for denoisers that are defined there (exact ones with a density).
        source: log-density of x at t = 1, `[n, *event] -> [n]`; None is the process's prior. New numbers in a
            `jax.tree_util.Partial(function, numbers)`, or in a pytree of which it is a method
            (`exact.Mixture(...).log_prob`), compile nothing new.
        precision: of the network's float32 products, as in `jaxdiff.sample`; "highest" is float32 everywhere.

    Returns:
        A `Likelihood` of arrays `[batch]`.

    Raises:
        TypeError: for an integer x0, a key that is not typed, or if `flow`, `trace` or `source` is not one.
        ValueError: for a NaN in x0, a trace that is undefined for events of this size, a denoiser that is undefined at
            t = 1, a `t_min` out of range (traced, NaN), or a source that returns another shape.

    Source:
        Song et al. 2021, "Score-based generative modeling through SDEs", eq. 39.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [2.0], [[0.25]])
        >>> found = jd.log_likelihood(jax.random.key(0), denoiser, jnp.array([[2.0]]))
        >>> closed_form = jax.scipy.stats.norm.logpdf(2.0, 2.0, 0.5)
        >>> bool(abs(found.log_prob[0] - closed_form) < 0.01)
        True
    """
    check_precision(precision)
    with at_precision(precision):
        return by_estimate(key, denoiser, x0, cond, flow, trace, t_min, source)[0]


def by_estimate(key, denoiser: DenoiserLike, x0, cond, flow, trace, t_min, source) -> tuple[Likelihood, jax.Array]:
    """What `log_likelihood` returns, and each estimate's deviation from its log_prob, nats: [batch, m]."""
    check_model(denoiser)
    check_gaussian(denoiser.process, "log_likelihood", "take continuous_bound()")
    x0 = check_event(x0, "x0")
    check_flow(flow)
    check_trace(trace, x0.shape, x0.dtype)
    check_start(denoiser, 1.0)
    cond = check_cond(denoiser, cond, x0.shape[0])
    check_answer(denoiser, x0.shape, cond)
    keys = example_keys(key, x0.shape[0])
    t = check_one_time(t_min, "t_min")
    if source is not None:
        check_function("source", source, "a function, the log-density [n, *event] -> [n]")
        source = as_pytree(source)
        _check_source(source, jax.ShapeDtypeStruct((1, *x0.shape[1:]), x0.dtype))
    split = split_of(denoiser, x0, keys, cond)
    with forward_mode_named(flow.adjoint, denoiser, flow, trace, x0, t, cond, source):
        solved = _log_likelihood(keys, denoiser, x0, cond, flow, trace, t, source, split)
    log_prob, deviations, evaluations, converged = solved
    return Likelihood(log_prob, trace.standard_error(deviations), evaluations, converged), deviations


def _check_source(source, x: jax.ShapeDtypeStruct) -> None:
    shape = getattr(jax.eval_shape(source, x), "shape", None)
    if shape != x.shape[:1]:
        raise ValueError(f"source gave shape {shape} for x of shape {x.shape}; expected {x.shape[:1]}")


@functools.partial(jax.jit, static_argnames="split")
def _log_likelihood(keys, denoiser, x0, cond, flow, trace, t_min, source, split):
    return by_device(_run, split)((denoiser, flow, trace, t_min, source), keys, x0, cond)


def _run(shared, keys, x0, cond):
    """(log_prob, deviations of the trace's estimates, evaluations, converged), each with the axis of examples first."""
    denoiser, flow, trace, t_min, source = shared
    process: Any = denoiser.process
    event = x0.shape[1:]
    size = math.prod(event)
    dtype = working_dtype(x0)
    t_min, t_max = t_min.astype(dtype), jnp.ones((), dtype)
    q_min, q_max = process.scale(t_min), process.scale(t_max)
    integrals = jnp.zeros(estimates_of(trace, size, dtype), dtype)

    def one(key, x, cond):
        own = (key, x, cond, denoiser)
        cond = jax.tree.map(lambda c: c[None], cond)
        vectors = vary(trace.vectors(key, size, dtype), own)

        def field(angle, state):
            t = process.time_at_angle(angle)
            velocity = lambda z: angular_velocity(denoiser, process.scale(t) * z[None], t, cond)[0].astype(z.dtype)
            v, product = jax.linearize(velocity, state[0])
            return v, exactly(trace.estimates)(lambda vector: product(vector.reshape(event)).ravel(), vectors)

        start = vary(((x / q_min).astype(dtype), integrals), own)
        (z, traces), evaluations, converged = flow.solve(field, start, process.angle(t_min), process.angle(t_max))
        x_1 = q_max * z
        if source is None:
            prior = jnp.sum(jax.scipy.stats.norm.logpdf(x_1, scale=process.prior_std))
        else:
            prior = source(x_1[None])[0].astype(dtype)
        log_prob = prior + size * jnp.log(q_max / q_min) + traces.mean()
        return log_prob, traces - traces.mean(), evaluations, converged & jnp.isfinite(log_prob)

    return jax.vmap(one)(keys, x0, cond)

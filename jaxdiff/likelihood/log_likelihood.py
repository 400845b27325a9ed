r"""log p(x) by the probability flow in the rotation's coordinates.

Along dz/dφ = v(z, φ) the density of z changes by d log p(z)/dφ = -tr ∂v/∂z (Chen et al. 2018; Song et al.
2021, eq. 39). With φ_0, φ_1 the angles of t_min and 1, D the size of an event, and log p(x) = log p(z) - D log q,

    log p(x_0) = log N(x_1; 0, prior_std²) + D log q_1/q_0 + ∫_{φ_0}^{φ_1} tr ∂v/∂z dφ.

The trace is that of `jaxdiff.likelihood.divergence`: exact, or estimated by random vectors drawn once an example and
held along the flow. Every probe carries its own integral, so their spread is the standard error. Drift and products
come from one pass of the network, forward. For a linear field v = A z the variance of one Rademacher probe is
2 Σ_{i≠j} S_ij² with S the symmetric part of ∫A.

The prior's density stands at one place. A flow from another source (see `jaxdiff.losses.flow_matching`) has the density
of that source there.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdiff.arrays import check_function, check_room
from jaxdiff.arrays.varying import vary
from jaxdiff.denoisers import DenoiserLike, angular_velocity, check_start
from jaxdiff.likelihood.divergence import check_divergence, draw_vectors, trace
from jaxdiff.processes import as_pytree, check_event
from jaxdiff.processes.grids import check_one_time
from jaxdiff.samplers import check_cond, example_keys, solve
from jaxdiff.samplers.adjoint import forward_mode_named
from jaxdiff.samplers.mesh import by_device, split_of
from jaxdiff.samplers.probability_flow import check_solve
from jaxdiff.samplers.sampler import check_answer, check_model, working_dtype


class Likelihood(NamedTuple):
    """Log-likelihoods and how sure they are, each [batch].

    log_prob: nats. standard_error: of log_prob from the spread of the probes, nats; NaN for a single probe, 0 for the
    exact divergence. evaluations: of drift and divergence together, -1 where the solver is implicit. converged: false
    where the solver gave up, and log_prob is then not to be used.
    """

    log_prob: jax.Array
    standard_error: jax.Array
    evaluations: jax.Array
    converged: jax.Array


def log_likelihood(
    key,
    denoiser: DenoiserLike,
    x0,
    divergence: str = "hutchinson",
    probes: int = 1,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    t_min: float = 1e-5,
    cond: Any = None,
    solver: Any = None,
    source: Callable | None = None,
    adjoint: Any = None,
) -> Likelihood:
    """log p(x0) in nats for x0 [batch, *event], read as x at `t_min`, under the denoiser's probability flow.

    Each example has its own probes (from `key` and its index, or from `key` itself where it holds one key an example)
    and its own steps; `solver` is a diffrax solver of ODEs with an error estimate, Dopri5 unless given. `divergence` is
    "hutchinson", "hutch++" or "xtrace" with `probes` probes (`jaxdiff.likelihood.divergence` tells them apart), or
    "exact", which costs as many products as an event has values. `t_min` = 0 is allowed where the denoiser is (the
    exact denoisers with a density). Where x0 is split between the devices of a mesh, each solves for its own, and the
    results stay there. `source` is the log-density of x at t = 1, [n, *event] -> [n]; None is the
    process's own prior. The numbers in `jax.tree_util.Partial(function, numbers)`, and in a pytree whose method it is
    (`exact.Mixture(...).log_prob`), compile nothing new.

    `adjoint` is how derivatives go through the solve, one of diffrax's. None is `RecursiveCheckpointAdjoint()`: reverse
    mode, which keeps the states of some steps (`checkpoints` of them, where given) and computes the others again, so
    that its memory is that of one step and a few states. `ForwardMode()` is for `jax.jvp` and `jax.jacfwd`,
    `DirectAdjoint()` for both, such as a Hessian (`jaxdiff.samplers.adjoint`).

    Raises TypeError for integer x0, an untyped key or a source that is no function; ValueError for a NaN in x0, an
    unknown divergence, fewer than one probe (or, for the two that look for a basis, as many as an event has values), a
    denoiser without an answer at t = 1, a `t_min` or tolerances out of range (traced, they give NaN), a solver without
    an error estimate, or a source of another shape.
    """
    return by_probe(key, denoiser, x0, divergence, probes, rtol, atol, t_min, cond, solver, source, adjoint)[0]


def by_probe(
    key, denoiser: DenoiserLike, x0, divergence, probes, rtol, atol, t_min, cond, solver, source, adjoint
) -> tuple[Likelihood, jax.Array]:
    """What `log_likelihood` returns, and each probe's deviation from its log_prob, nats: [batch, probes]."""
    check_model(denoiser)
    x0 = check_event(x0, "x0")
    check_divergence(divergence, probes, math.prod(x0.shape[1:]))
    check_room("probes", probes, *x0.shape, itemsize=x0.dtype.itemsize)
    check_start(denoiser, 1.0)
    cond = check_cond(denoiser, cond, x0.shape[0])
    check_answer(denoiser, x0.shape, cond)
    keys = example_keys(key, x0.shape[0])
    t = check_one_time(t_min, "t_min")
    rtol, atol = check_solve(solver, rtol, atol, adjoint)
    if source is not None:
        check_function("source", source, "a function, the log-density [n, *event] -> [n]")
        source = as_pytree(source)
        _check_source(source, jax.ShapeDtypeStruct((1, *x0.shape[1:]), x0.dtype))
    split = split_of(denoiser, x0, keys, cond)
    with forward_mode_named(adjoint, denoiser, x0, t, cond, source):
        found, away = _log_likelihood(
            keys, denoiser, x0, divergence, probes, rtol, atol, t, cond, solver, source, adjoint, split
        )
    single = divergence != "exact" and probes == 1
    return found._replace(standard_error=_unknown(found.log_prob)) if single else found, away


def _unknown(like) -> Any:
    """NaN of the shape of `like`, made on the host where possible: `jax_debug_nans` checks what programs return."""
    if isinstance(like, Tracer):
        return jnp.full_like(like, jnp.nan)
    nan = np.full(like.shape, np.nan, like.dtype)
    if not isinstance(like, jax.Array):
        return nan
    return jax.make_array_from_callback(nan.shape, like.sharding, nan.__getitem__)


def probe_error(by_probe, divergence: str) -> jax.Array:
    """The standard error of the mean of what each probe gave, [..., probes] -> [...]; NaN for a single random one."""
    probes = by_probe.shape[-1]
    if divergence == "exact":
        return jnp.zeros_like(by_probe[..., 0])
    if probes == 1:
        return _unknown(by_probe[..., 0])
    return by_probe.std(-1, ddof=1) / math.sqrt(probes)


def _check_source(source, x: jax.ShapeDtypeStruct) -> None:
    shape = getattr(jax.eval_shape(source, x), "shape", None)
    if shape != x.shape[:1]:
        raise ValueError(f"source gave shape {shape} for x of shape {x.shape}; expected {x.shape[:1]}")


@functools.partial(jax.jit, static_argnames=("divergence", "probes", "solver", "adjoint", "split"))
def _log_likelihood(keys, denoiser, x0, divergence, probes, rtol, atol, t_min, cond, solver, source, adjoint, split):
    run = functools.partial(_run, divergence=divergence, probes=probes, solver=solver, adjoint=adjoint)
    return by_device(run, split)((denoiser, rtol, atol, t_min, source), keys, x0, cond)


def _run(shared, keys, x0, cond, divergence, probes, solver, adjoint):
    denoiser, rtol, atol, t_min, source = shared
    process = denoiser.process
    event = x0.shape[1:]
    size = math.prod(event)
    dtype = working_dtype(x0)
    t_min, t_max = t_min.astype(dtype), jnp.ones((), dtype)
    q_min, q_max = process.scale(t_min), process.scale(t_max)

    def one(key, x, cond):
        cond = jax.tree.map(lambda c: c[None], cond)
        vectors = vary(draw_vectors(key, divergence, probes, event, dtype), (key, x, cond, denoiser))

        def field(angle, state):
            t = process.time_at_angle(angle)
            velocity = lambda z: angular_velocity(denoiser, process.scale(t) * z[None], t, cond)[0].astype(z.dtype)
            v, product = jax.linearize(velocity, state[0])
            return v, trace(divergence, product, vectors, event)

        start = ((x / q_min).astype(dtype), jnp.zeros(1 if divergence == "exact" else probes, dtype))
        (z, traces), evaluations, converged = solve(
            field,
            vary(start, (key, x, cond, denoiser)),
            process.angle(t_min),
            process.angle(t_max),
            solver,
            rtol,
            atol,
            adjoint,
        )
        x_1 = q_max * z
        if source is None:
            prior = jnp.sum(jax.scipy.stats.norm.logpdf(x_1, scale=process.prior_std))
        else:
            prior = source(x_1[None])[0].astype(dtype)
        log_prob = prior + size * jnp.log(q_max / q_min) + traces.mean()
        error = probe_error(traces, divergence) if len(traces) > 1 else jnp.zeros_like(log_prob)
        found = Likelihood(log_prob, error, evaluations, converged & jnp.isfinite(log_prob))
        return found, traces - traces.mean()

    return jax.vmap(one)(keys, x0, cond)

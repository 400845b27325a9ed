"""Derivatives at the ends of a process, where the slope of a curve in t may be infinite.

For VP at t = 0, σ = √0 and the log-SNR is -log 0 for all parameters, so that their derivatives in the parameters are 0.
The chain rule multiplies that 0 by an infinite slope and gives NaN, and a `where` that discards the value still
multiplies its slope by 0. Therefore a curve has derivative 0 where its slope in t is infinite, and so do a square root
and a logarithm at 0.
"""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def curve(function, process, t):
    """`function(process, t)`, one or several arrays like `t`, with derivative 0 where its slope in t is not finite."""
    return function(process, t)


@curve.defjvp
def _curve_jvp(function, primals, tangents):
    process, t = primals
    values, slopes = jax.jvp(functools.partial(function, process), (t,), (jnp.ones_like(t),))
    structure = jax.tree.structure(values)

    def change(index, slope):
        held = ~jnp.isfinite(slope)
        one = lambda process, t: jax.tree.leaves(function(process, t))[index]
        moved = jax.jvp(one, (process, jnp.where(held, jnp.asarray(0.5, t.dtype), t)), tangents)[1]
        return jnp.where(held, jnp.zeros_like(moved), moved)

    changes = [change(index, slope) for index, slope in enumerate(jax.tree.leaves(slopes))]
    return curve(function, process, t), structure.unflatten(changes)


def sqrt(x) -> jax.Array:
    """√x, 0 below 0; its derivative at 0 is 0."""
    outside = x <= 0
    return jnp.where(outside, jnp.zeros_like(x), jnp.sqrt(jnp.where(outside, 1, x)))


def log(x) -> jax.Array:
    """Log x, -inf below 0; its derivative at 0 is 0."""
    outside = x <= 0
    return jnp.where(outside, -jnp.inf, jnp.log(jnp.where(outside, 1, x)))


def decayed(y) -> jax.Array:
    """(1 - exp(-y))/y for y >= 0, 1 at 0."""
    small = y < 1e-4
    return jnp.where(small, 1 - y / 2 * (1 - y / 3), -jnp.expm1(-y) / jnp.where(small, 1, y))


def ratio(a, b) -> jax.Array:
    """a/b, 1 where b is 0."""
    there = b != 0
    return jnp.where(there, a / jnp.where(there, b, 1), 1)

"""Derivatives at the ends of a process, where a curve is finite or infinite but its slope is not.

At t = 0 of VP σ = √0 and the log-SNR is -log 0. Whatever the parameters, so are they, and the derivative in the
parameters is 0; but the chain rule multiplies an infinite slope by it and finds NaN. And a `where` that leaves such a
value out still multiplies its slope by 0. So a curve whose slope in t is infinite at some t is held fixed there, and
a square root or a logarithm at 0.
"""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def curve(function, process, t):
    """`function(process, t)`, one array or several like `t`, held fixed where its slope in t is not finite."""
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

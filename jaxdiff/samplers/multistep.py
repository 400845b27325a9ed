r"""Integrals of a polynomial against the linear part of the flow, for DPM-Solver++ and UniPC.

    μ_k = ∫_0^1 h e^{h(v-1)} v^k dv,      μ_0 = 1 - e^{-h},      μ_k = 1 - k μ_{k-1}/h

For small h the recurrence loses k digits of h a term; there Gauss-Legendre quadrature is exact to rounding.
"""

import jax
import jax.numpy as jnp
import numpy as np

_NODES, _WEIGHTS = ((np.polynomial.legendre.leggauss(8)[0] + 1) / 2, np.polynomial.legendre.leggauss(8)[1] / 2)


def moments(h, count: int) -> list[jax.Array]:
    """[μ_0, ..., μ_{count-1}] for a step of length h in [0, ∞]."""
    short = h < 1
    small, large = jnp.where(short, h, 0.0), jnp.where(short, 1.0, h)
    nodes, weights = jnp.asarray(_NODES, h.dtype), jnp.asarray(_WEIGHTS, h.dtype)
    kernel = weights * jnp.exp(small * (nodes - 1))
    found, long = [-jnp.expm1(-h)], -jnp.expm1(-large)
    for k in range(1, count):
        long = 1 - k * long / large
        found.append(jnp.where(short, small * jnp.vdot(kernel, nodes**k, precision="highest"), long))
    return found


def over(a, b, there) -> jax.Array:
    """a/b if `there`, otherwise 0."""
    return jnp.where(there, a, 0.0) / jnp.where(there, b, 1.0)

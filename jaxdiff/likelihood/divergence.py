r"""The trace of J = ∂v/∂z from its products with vectors, which come forward from one linearisation of v.

    exact        Σ e_iᵀ J e_i                             D products, in chunks
    hutchinson   eᵀ J e, e = ±1                           m products (Hutchinson 1990; Grathwohl et al. 2019)
    hutch++      tr QᵀJQ + wᵀ J w                         3m + 1 products (Meyer et al. 2021, algorithm 1)
    xtrace       mean over i of the same with Q_(i), w_i  2m + 1 products (Epperly et al. 2024, section 2)

Each gives m numbers whose mean is unbiased and whose spread, m > 1, is its standard error; they are integrated along
the flow with the vectors held, so that m integrals come out. A multiple of I in J, such as the analytic part of a
parameterisation, is never estimated: eᵀ(kI)e = kD for signs e, and below w has a fixed length.

Q is an orthonormal basis of the range of (J - cI) Ω, m directions in which J is far from a multiple of I, whose part of
the trace is exact; c = gᵀJg/|g|² by a further vector g. What is left is estimated by projections w = (I - QQᵀ) ω, with
ω normal and w set to the length √(D - rank Q) (Epperly et al., section 2.3): its direction is uniform in what Q leaves,
whatever Q, so nothing is biased and (I - QQᵀ) kI costs no variance. Hutch++ draws fresh ω for this. XTrace uses each
ω_i against the basis Q_(i) of the others: with (J - cI) Ω = QR, Q_(i) is Q without the direction s_i ∝ the i-th row of
R⁻¹. So that J = cI leaves R invertible, (δ + J - cI) Ω is taken: any subspace that ω_i has no part in does. XTrace's
estimates share directions, and their spread is a little less than their error where m is no small part of D.

They pay where J is a multiple of I but in fewer directions than m, as near data on a surface of few dimensions: with 3
such of 100, 49 products leave an error 25 to 45 times smaller than that of 49 signs; with 10 of 784, 10 to 25 times
smaller, but 16 products leave one that is larger. On a network trained on 8 x 8 digits they do not pay: 49 products
leave twice the error of 49 signs (`experiments/likelihood_estimators.py`).
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_choice, check_whole

_CHUNK = 64
_SHIFT = 1e-3  # δ


def signs(key, n: int, size: int, dtype) -> jax.Array:
    """Rademacher vectors [n, size]."""
    return jax.random.rademacher(key, (n, size), dtype)


def normals(key, n: int, size: int, dtype) -> jax.Array:
    """Normal vectors [n, size]."""
    return jax.random.normal(key, (n, size), dtype)


def exact(product: Callable, vectors: jax.Array) -> jax.Array:
    """The sum over the rows of `vectors` [D, D], those of I: [1]."""
    along = jax.lax.map(lambda e: jnp.vdot(e, product(e)), vectors, batch_size=_CHUNK)
    return along.sum(keepdims=True)


def hutchinson(product: Callable, vectors: jax.Array) -> jax.Array:
    """[m] of m vectors."""
    return jax.vmap(lambda e: jnp.vdot(e, product(e)))(vectors)


def _basis(product, images, vectors, g):
    """Q [D, m] and R [m, m] of (J - cI + δI) Ω, from J Ω and Ω as rows, and g."""
    c = jnp.vdot(g, product(g)) / jnp.vdot(g, g)
    return jnp.linalg.qr((images + (_SHIFT - c) * vectors).T)


def _inverse_of_triangle(r):
    """R⁻¹ by back substitution. LAPACK's, running beside that of Q under `vmap`, hangs for good on CPU (jax 0.10)."""
    rows = []
    for i in reversed(range(len(r))):
        below = sum((r[i, i + 1 + k] * row for k, row in enumerate(rows)), jnp.zeros(len(r), r.dtype))
        rows.insert(0, (jnp.eye(len(r), dtype=r.dtype)[i] - below) / r[i, i])
    return jnp.stack(rows)


def _of_length(square, squared_norm, length):
    return square * length / jnp.maximum(squared_norm, jnp.finfo(square.dtype).tiny)


def hutch_plus_plus(product: Callable, vectors: jax.Array) -> jax.Array:
    """[m] of 2m + 1 vectors: m for the basis, m for the rest."""
    apply = jax.vmap(product)
    sketch, rest = jnp.split(vectors[1:], 2)
    q, _ = _basis(product, apply(sketch), sketch, vectors[0])
    w = rest - (rest @ q) @ q.T
    squares = _of_length((w * apply(w)).sum(1), (w * w).sum(1), w.shape[1] - len(sketch))
    return jnp.vdot(q.T, apply(q.T)) + squares


def xtrace(product: Callable, vectors: jax.Array) -> jax.Array:
    """[m] of m + 1 vectors, each against the basis of the others."""
    apply = jax.vmap(product)
    g, vectors = vectors[0], vectors[1:]
    images = apply(vectors)
    q, r = _basis(product, images, vectors, g)
    z = apply(q.T)  # rows J q_j
    inverse = _inverse_of_triangle(r)
    s = inverse / jnp.linalg.norm(inverse, axis=1, keepdims=True)  # [m, m], a row for each vector
    h = q.T @ z.T  # QᵀJQ
    inside = jnp.trace(h) - jnp.einsum("ij,jk,ik->i", s, h, s)
    coordinates = vectors @ q
    coordinates -= s * (s * coordinates).sum(1, keepdims=True)
    w, image = vectors - coordinates @ q.T, images - coordinates @ z
    return inside + _of_length((w * image).sum(1), (w * w).sum(1), w.shape[1] - len(vectors) + 1)


# name: (the vectors of m probes in D dimensions, the estimator)
ESTIMATORS = {
    "exact": (lambda key, m, size, dtype: jnp.eye(size, dtype=dtype), exact),
    "hutchinson": (signs, hutchinson),
    "hutch++": (lambda key, m, size, dtype: normals(key, 2 * m + 1, size, dtype), hutch_plus_plus),
    "xtrace": (lambda key, m, size, dtype: normals(key, m + 1, size, dtype), xtrace),
}


def check_divergence(divergence: str, probes: int, size: int | None = None) -> None:
    """Raise ValueError for a divergence that is not known, too few probes, more than an event has values, and several
    where none is drawn."""
    check_choice("divergence", divergence, ESTIMATORS)
    check_whole("probes", probes)
    if divergence == "exact" and probes > 1:
        raise ValueError(f'probes = {probes}, but divergence = "exact" draws none; leave probes out')
    if divergence in ("hutch++", "xtrace") and size is not None and probes >= size:
        raise ValueError(f'probes = {probes} for events of {size} values; expected fewer, or divergence="exact"')


def draw_vectors(key, divergence: str, probes: int, event: tuple[int, ...], dtype) -> jax.Array:
    """The vectors of an estimator for one example, [n, D]."""
    return ESTIMATORS[divergence][0](key, probes, math.prod(event), dtype)


def trace(divergence: str, product: Callable, vectors: jax.Array, event: tuple[int, ...]) -> jax.Array:
    """The estimates [m] of the trace of the linear map `product`: [*event] -> [*event]."""
    flat = lambda vector: product(vector.reshape(event)).ravel()
    return ESTIMATORS[divergence][1](flat, vectors)

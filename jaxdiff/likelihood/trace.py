r"""The trace of J = ∂v/∂z from its products with vectors, which come forward from one linearisation of v.

    Exact        Σ e_iᵀ J e_i                             D products, in chunks
    Hutchinson   eᵀ J e, e = ±1                           m products (Hutchinson 1990; Grathwohl et al. 2019)
    HutchPP      tr QᵀJQ + wᵀ J w                         3m + 1 products (Meyer et al. 2021, algorithm 1)
    XTrace       mean over i of the same with Q_(i), w_i  2m + 1 products (Epperly et al. 2024, section 2)

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

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdiff.arrays import check_instance, check_room, check_whole, pytree

_CHUNK = 64
_SHIFT = 1e-3  # δ


class Trace(abc.ABC):
    """How the trace of J is taken from products of J with vectors: which vectors, and what is made of the products.

    For one of your own, write a frozen dataclass under `@jaxdiff.pytree` with the two abstract methods. `vectors` is
    called once an example and the vectors are held along the flow; `estimates` is called at every evaluation of the
    field, and multiplies at full precision, but for the products it is given. Its numbers are integrated one by one,
    and their mean must be the trace in expectation: the standard error of a likelihood comes from their spread.
    """

    random = True
    """Whether the vectors depend on the key. Where they do not, the mean of the estimates is the trace itself, and its
    standard error is 0."""

    def check(self, size: int) -> None:  # noqa: B027
        """Raise ValueError where the trace cannot be taken for events of `size` values."""

    def with_spread(self) -> "Trace":
        """The same kind of trace with at least two estimates, whose spread tells an error budget their variance."""
        return self

    @abc.abstractmethod
    def vectors(self, key, size: int, dtype) -> jax.Array:
        """The vectors of one example, [n, size]."""

    @abc.abstractmethod
    def estimates(self, product: Callable[[jax.Array], jax.Array], vectors: jax.Array) -> jax.Array:
        """The estimates [m] of tr J, where `product(vector)` is J vector, [size] -> [size]."""

    def standard_error(self, estimates) -> Any:
        """The standard error of the mean of `estimates` [..., m], from their spread; NaN for a single random one."""
        if not self.random:
            return jnp.zeros_like(estimates[..., 0])
        m = estimates.shape[-1]
        return _unknown(estimates[..., 0]) if m == 1 else estimates.std(-1, ddof=1) / math.sqrt(m)


def _unknown(like) -> Any:
    """NaN like `like`, put there by the host where that is possible: `jax_debug_nans` looks at what programs return."""
    if isinstance(like, Tracer):
        return jnp.full_like(like, jnp.nan)
    nan = np.full(like.shape, np.nan, like.dtype)
    if not isinstance(like, jax.Array):
        return nan
    return jax.make_array_from_callback(nan.shape, like.sharding, nan.__getitem__)


def check_trace(trace, events: tuple[int, ...], dtype) -> None:
    """Raise for what is no trace, or one that cannot be taken for `events` [batch, *event]."""
    check_instance("trace", trace, Trace, "an instance such as jaxdiff.likelihood.Hutchinson()")
    if jax.tree_util.all_leaves([trace]):
        kind = type(trace).__name__
        raise TypeError(f"trace = {kind} is no pytree; make {kind} a frozen dataclass and put @jaxdiff.pytree above")
    size = math.prod(events[1:])
    trace.check(size)
    vectors = _vectors_of(trace, size, dtype)
    batch = events[0] if trace.random else 1
    check_room("trace.vectors", batch, *vectors.shape, itemsize=vectors.dtype.itemsize)


def estimates_of(trace: Trace, size: int, dtype) -> int:
    """How many estimates `trace` makes for an event of `size` values; ValueError where they are no vector of them."""
    vectors = _vectors_of(trace, size, dtype)
    found = jax.eval_shape(lambda vectors: trace.estimates(lambda vector: vector, vectors), vectors)
    if getattr(found, "ndim", None) != 1 or not found.size:
        raise ValueError(f"trace.estimates returned {_shape(found)}; expected one estimate or more, an array [m]")
    return len(found)


def _vectors_of(trace: Trace, size: int, dtype) -> jax.ShapeDtypeStruct:
    found = jax.eval_shape(lambda key: trace.vectors(key, size, dtype), jax.random.key(0))
    if getattr(found, "shape", ())[1:] != (size,):
        raise ValueError(f"trace.vectors returned {_shape(found)} for events of {size} values; expected [n, {size}]")
    return found


def _shape(value) -> str:
    return f"shape {value.shape}" if hasattr(value, "shape") else repr(value)


@pytree
@dataclasses.dataclass(frozen=True)
class Exact(Trace):
    """The trace itself, by as many products as an event has values."""

    random = False

    def vectors(self, key, size, dtype):
        """The unit vectors."""
        return jnp.eye(size, dtype=dtype)

    def estimates(self, product, vectors):
        """Their sum, [1]."""
        along = jax.lax.map(lambda e: jnp.vdot(e, product(e)), vectors, batch_size=_CHUNK)
        return along.sum(keepdims=True)


@dataclasses.dataclass(frozen=True)
class _Probed(Trace):
    """A trace that `probes` random probes estimate, each on its own or nearly so."""

    probes: int = dataclasses.field(default=1, metadata={"static": True})

    def __post_init__(self):
        check_whole("probes", self.probes)

    def with_spread(self):
        """With two probes at least."""
        return dataclasses.replace(self, probes=max(2, self.probes))


@pytree
@dataclasses.dataclass(frozen=True)
class Hutchinson(_Probed):
    """`probes` vectors of random signs (Hutchinson 1990), a product each."""

    def vectors(self, key, size, dtype):
        """Signs."""
        return jax.random.rademacher(key, (self.probes, size), dtype)

    def estimates(self, product, vectors):
        """eᵀ J e of each."""
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


class _Deflated(_Probed):
    """Normal vectors, some of them for a basis of what J differs by from a multiple of I."""

    def check(self, size):
        """Raise ValueError where the basis would be all there is."""
        if self.probes >= size:
            raise ValueError(f"probes = {self.probes} for events of {size} values; expected fewer, or trace = Exact()")


@pytree
@dataclasses.dataclass(frozen=True)
class HutchPP(_Deflated):
    """Hutch++ (Meyer et al. 2021, algorithm 1): `probes` vectors for the basis and as many for the rest."""

    def vectors(self, key, size, dtype):
        """Normal: g, those for the basis, those for the rest."""
        return jax.random.normal(key, (2 * self.probes + 1, size), dtype)

    def estimates(self, product, vectors):
        """The trace within the basis, and each estimate of the rest."""
        apply = jax.vmap(product)
        sketch, rest = jnp.split(vectors[1:], 2)
        q, _ = _basis(product, apply(sketch), sketch, vectors[0])
        w = rest - (rest @ q) @ q.T
        squares = _of_length((w * apply(w)).sum(1), (w * w).sum(1), w.shape[1] - len(sketch))
        return jnp.vdot(q.T, apply(q.T)) + squares


@pytree
@dataclasses.dataclass(frozen=True)
class XTrace(_Deflated):
    """XTrace (Epperly et al. 2024): each of `probes` vectors against the basis of the others."""

    def vectors(self, key, size, dtype):
        """Normal: g, and one a probe."""
        return jax.random.normal(key, (self.probes + 1, size), dtype)

    def estimates(self, product, vectors):
        """The trace within the others' basis, and the estimate of the rest, for each."""
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

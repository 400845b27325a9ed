r"""The trace of J = ∂v/∂z from products with vectors, computed in forward mode from one linearisation of v.

    Exact        Σ e_iᵀ J e_i                             D products, in chunks
    Hutchinson   eᵀ J e, e = ±1                           m products (Hutchinson 1990; Grathwohl et al. 2019)
    HutchPP      tr QᵀJQ + wᵀ J w                         3m + 1 products (Meyer et al. 2021, algorithm 1)
    XTrace       mean over i of the same with Q_(i), w_i  2m + 1 products (Epperly et al. 2024, section 2)

Each gives m estimates whose mean is unbiased and whose spread, for m > 1, gives the standard error. They are integrated
along the flow with fixed vectors, which gives m integrals. A multiple of I in J, such as the analytic part of a
parameterisation, adds no error: eᵀ(kI)e = kD for signs e, and w below has a fixed length.

Q is an orthonormal basis of the range of (J - cI) Ω: m directions in which J differs most from a multiple of I, and in
which the trace is exact. c = gᵀJg/|g|² by a further vector g. The rest is estimated by projections w = (I - QQᵀ) ω,
with ω normal and w scaled to the length √(D - rank Q) (Epperly et al., section 2.3). The direction of w is uniform in
the complement of Q, whatever Q, so that the estimate is unbiased and (I - QQᵀ) kI adds no variance. Hutch++ draws a new
ω for this. XTrace uses each ω_i against the basis Q_(i) of the others: with (J - cI) Ω = QR, Q_(i) is Q without the
direction s_i ∝ the i-th row of R⁻¹. It takes (δ + J - cI) Ω, so that R is invertible for J = cI, too: any subspace that
is independent of ω_i will do. XTrace's estimates share directions, and their spread is a little less than their error
unless m is small compared with D.

HutchPP and XTrace pay if J is a multiple of I except in fewer than m directions, as near data on a low-dimensional
surface: with 3 such directions of 100, 49 products leave an error 25 to 45 times smaller than that of 49 signs; with 10
of 784, 10 to 25 times smaller, but 16 products leave a larger one. On a network trained on 8 x 8 digits they do not
pay: 49 products leave twice the error of 49 signs (`experiments/likelihood_estimators.py`).
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
    """Base class of traces of J, from products of J with vectors.

    A subclass, a frozen dataclass under `@jaxdiff.pytree`, defines `vectors` and `estimates`. `vectors` is called once
    an example, and the vectors are fixed along the flow. `estimates` is called at every evaluation of the field. Its
    estimates are integrated one by one; their mean must be the trace in expectation, and their spread gives the
    standard error of a likelihood. `random = False` declares that the vectors do not depend on the key.

    Examples:
        >>> import dataclasses
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> @jd.pytree
        ... @dataclasses.dataclass(frozen=True)
        ... class Normal(jd.likelihood.Trace):  # four normal probes
        ...     def vectors(self, key, size, dtype):
        ...         return jax.random.normal(key, (4, size), dtype)
        ...     def estimates(self, product, vectors):
        ...         return jax.vmap(lambda e: jnp.vdot(e, product(e)))(vectors)
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [2.0], [[0.25]])
        >>> found = jd.log_likelihood(jax.random.key(0), denoiser, jnp.array([[2.0]]), trace=Normal())
        >>> bool(found.standard_error[0] > 0)
        True
    """

    random = True
    """Whether the vectors depend on the key. If not, the mean of the estimates is the trace, with standard error 0."""

    def check(self, size: int) -> None:  # noqa: B027
        """Raise ValueError if the trace is undefined for events of `size` values."""

    def with_spread(self) -> "Trace":
        """The same kind of trace with at least two estimates, whose spread an error budget needs."""
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
    """NaN like `like`, made on the host if possible, since `jax_debug_nans` checks what programs return."""
    if isinstance(like, Tracer):
        return jnp.full_like(like, jnp.nan)
    nan = np.full(like.shape, np.nan, like.dtype)
    if not isinstance(like, jax.Array):
        return nan
    return jax.make_array_from_callback(nan.shape, like.sharding, nan.__getitem__)


def check_trace(trace, events: tuple[int, ...], dtype) -> None:
    """Raise if `trace` is not a `Trace`, or undefined for `events` [batch, *event]."""
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
    """How many estimates `trace` makes for an event of `size` values; ValueError if they are not an array [m]."""
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
    """The exact trace, by as many products as an event has values.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> trace = jd.likelihood.Exact()
        >>> matrix = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> trace.estimates(lambda v: matrix @ v, trace.vectors(jax.random.key(0), 2, jnp.float32))
        Array([5.], dtype=float32)
    """

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
    """A trace that is estimated by `probes` random probes."""

    probes: int = dataclasses.field(default=1, metadata={"static": True})

    def __post_init__(self):
        check_whole("probes", self.probes)

    def with_spread(self):
        """The same with at least two probes."""
        return dataclasses.replace(self, probes=max(2, self.probes))


@pytree
@dataclasses.dataclass(frozen=True)
class Hutchinson(_Probed):
    """Hutchinson's estimate of the trace: eᵀ J e for vectors e of random signs.

    Args:
        probes: number of vectors, one product each.

    Source:
        Hutchinson 1990; Grathwohl et al. 2019, "FFJORD: free-form continuous dynamics for scalable reversible
        generative models".

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> trace = jd.likelihood.Hutchinson(probes=3)
        >>> vectors = trace.vectors(jax.random.key(0), 2, jnp.float32)
        >>> trace.estimates(lambda v: 2 * v, vectors)  # exact for diagonal matrices
        Array([4., 4., 4.], dtype=float32)
    """

    def vectors(self, key, size, dtype):
        """Random signs, [probes, size]."""
        return jax.random.rademacher(key, (self.probes, size), dtype)

    def estimates(self, product, vectors):
        """eᵀ J e of each vector."""
        return jax.vmap(lambda e: jnp.vdot(e, product(e)))(vectors)


def _basis(product, images, vectors, g):
    """Q [D, m] and R [m, m] of (J - cI + δI) Ω, from J Ω and Ω as rows, and g."""
    c = jnp.vdot(g, product(g)) / jnp.vdot(g, g)
    return jnp.linalg.qr((images + (_SHIFT - c) * vectors).T)


def _inverse_of_triangle(r):
    """R⁻¹ by back substitution: LAPACK's, run at the same time as that of Q under `vmap`, hangs on CPU (jax 0.10)."""
    rows = []
    for i in reversed(range(len(r))):
        below = sum((r[i, i + 1 + k] * row for k, row in enumerate(rows)), jnp.zeros(len(r), r.dtype))
        rows.insert(0, (jnp.eye(len(r), dtype=r.dtype)[i] - below) / r[i, i])
    return jnp.stack(rows)


def _of_length(square, squared_norm, length):
    return square * length / jnp.maximum(squared_norm, jnp.finfo(square.dtype).tiny)


class _Deflated(_Probed):
    """Normal vectors, some of which give a basis of the difference of J from a multiple of I."""

    def check(self, size):
        """Raise ValueError if the basis would span all of the space."""
        if self.probes >= size:
            raise ValueError(f"probes = {self.probes} for events of {size} values; expected fewer, or trace = Exact()")


@pytree
@dataclasses.dataclass(frozen=True)
class HutchPP(_Deflated):
    """Hutch++: the exact trace in a random basis, and Hutchinson's estimate of the rest.

    It takes 3 `probes` + 1 products. `jaxdiff.likelihood.trace` says when it pays.

    Args:
        probes: number of vectors for the basis, and of those for the rest; fewer than an event has values.

    Source:
        Meyer et al. 2021, "Hutch++: optimal stochastic trace estimation", algorithm 1.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> trace = jd.likelihood.HutchPP(probes=2)
        >>> vectors = trace.vectors(jax.random.key(0), 6, jnp.float32)
        >>> found = trace.estimates(lambda v: 2 * v, vectors)
        >>> bool((abs(found - 12) < 0.01).all())  # exact for multiples of the identity
        True
    """

    def vectors(self, key, size, dtype):
        """Normal vectors: g, those for the basis, and those for the rest."""
        return jax.random.normal(key, (2 * self.probes + 1, size), dtype)

    def estimates(self, product, vectors):
        """The trace within the basis plus each estimate of the rest."""
        apply = jax.vmap(product)
        sketch, rest = jnp.split(vectors[1:], 2)
        q, _ = _basis(product, apply(sketch), sketch, vectors[0])
        w = rest - (rest @ q) @ q.T
        squares = _of_length((w * apply(w)).sum(1), (w * w).sum(1), w.shape[1] - len(sketch))
        return jnp.vdot(q.T, apply(q.T)) + squares


@pytree
@dataclasses.dataclass(frozen=True)
class XTrace(_Deflated):
    """XTrace: each vector estimates the trace outside the basis of the others.

    It takes 2 `probes` + 1 products. `jaxdiff.likelihood.trace` says when it pays.

    Args:
        probes: number of vectors; fewer than an event has values.

    Source:
        Epperly et al. 2024, "XTrace: making the most of every sample in stochastic trace estimation", section 2.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> trace = jd.likelihood.XTrace(probes=3)
        >>> vectors = trace.vectors(jax.random.key(0), 6, jnp.float32)
        >>> found = trace.estimates(lambda v: 2 * v, vectors)
        >>> bool((abs(found - 12) < 0.01).all())  # exact for multiples of the identity
        True
    """

    def vectors(self, key, size, dtype):
        """Normal vectors: g, and one a probe."""
        return jax.random.normal(key, (self.probes + 1, size), dtype)

    def estimates(self, product, vectors):
        """For each vector, the trace within the basis of the others plus the estimate of the rest."""
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

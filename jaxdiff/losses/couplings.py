r"""Couplings, which pair examples with source points: `coupling(key, batch) -> (x0, x1)`, each [n, *event].

A coupling of the data q_0 and a source q_1 is any joint law with these two margins; flows and bridges are regressed on
pairs drawn from it. `Independent` and `Paired` make pairs; the others take pairs and permute the source points: the
examples keep their order (and so their labels), and every source point is used exactly once.

    OptimalTransport   the permutation π of least Σ |x0_i - x1_π(i)|² (Pooladian et al. 2023; Tong et al. 2024)
    Entropic           a draw of π with probability ∝ exp(-Σ |x0_i - x1_π(i)|² / 2σ²)

The second is Schrödinger's original problem: for n Brownian particles of variance σ² per unit of time only the set of
start points and the set of end points are known, and π is the law of which particle ended where. As n grows a pair
follows the entropic plan, the law π(x_0, x_1) of least KL from q_0(x_0) N(x_1; x_0, σ²) with these margins, which is
that of a Schrödinger bridge (Föllmer 1988; Léonard 2014). Drawing each row of a batch's Sinkhorn plan has the same
margins on average, but loses a third of the batch's source points and uses others twice.

The permutation is drawn by heat-bath swaps. Swapping the partners b_i, b_j of a_i, a_j changes the sum of squares by
2 (a_i - a_j)·(b_i - b_j), so a swap has probability

    1 / (1 + exp((a_i - a_j)·(b_i - b_j) / σ²)).

Round r of a sweep pairs i with r - i (mod n): these pairs are disjoint and drawn at once, and in n rounds every two
examples meet.

Under a condition y the margins must be those of each y: q_0(x_0 | y) and q_1. A permutation over all classes breaks the
second, because it gives every class the source points nearest to it, and the model of x_0 | y is then wrong. Therefore
the two couplings that permute do so only among equal conditions; if all conditions differ, as real numbers do, pairs
stay as they are. A user-defined coupling that permutes sets `permutes = True` and is called as
`coupling(key, batch, cond)`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import (
    check_batch,
    check_field,
    check_function,
    check_key,
    check_scalar,
    check_whole,
    example_keys,
    nan_unless,
    normal,
    said,
)
from jaxdiff.arrays.varying import vary
from jaxdiff.processes import check_event, pytree


class Coupling(Protocol):
    """The interface of a coupling: a callable pytree `(key, batch) -> (x0, x1)`.

    To define a coupling, write `__call__` in a frozen dataclass under `@jaxdiff.pytree`. One that permutes sets
    `permutes = True` and is called with a third argument, the conditions.

    Examples:
        >>> import dataclasses
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> @jd.pytree
        ... @dataclasses.dataclass(frozen=True)
        ... class FromOrigin:
        ...     def __call__(self, key, x0):
        ...         return x0, jnp.zeros_like(x0)
        >>> x0, x1 = FromOrigin()(jax.random.key(0), jnp.ones((4, 2)))
        >>> x1.shape
        (4, 2)
    """

    def __call__(self, key, batch, /) -> tuple[jax.Array, jax.Array]:
        """(x0, x1), each [n, *event]."""
        ...


@pytree
@dataclasses.dataclass(frozen=True)
class Independent:
    """Pairs each example with an independent point of the source.

    Args:
        source: a function `(key, n) -> [n, *event]` that draws source points; None is standard normal.

    Raises:
        TypeError: if `source` is not a function.
        ValueError: when called, if the source's points have another shape than the data.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> coupling = jd.losses.couplings.Independent()
        >>> x0, x1 = coupling(jax.random.key(0), jnp.ones((4, 2)))
        >>> x1.shape
        (4, 2)
    """

    source: Callable[..., jax.Array] | None = dataclasses.field(default=None, metadata={"static": True})

    def __post_init__(self):
        if self.source is not None:
            check_function("source", self.source, "a function (key, n) -> [n, *event]")

    def __call__(self, key, x0) -> tuple[jax.Array, jax.Array]:
        """(x0, x1) for examples x0 [n, *event]."""
        check_key(key)
        x0 = check_batch(x0, "x0")
        if self.source is None:
            return x0, normal(example_keys(key, len(x0)), x0)
        x1 = jnp.asarray(self.source(key, x0.shape[0]))
        if x1.shape != x0.shape:
            raise ValueError(f"the source gave points of shape {x1.shape} for data {x0.shape}; expected the same shape")
        return x0, x1.astype(x0.dtype)


@pytree
@dataclasses.dataclass(frozen=True)
class Paired:
    """The pairs that the batch itself holds, `[n, 2, *event]`, data first.

    Raises:
        ValueError: when called, if the batch has another shape.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> pairs = jnp.array([[[0.0], [1.0]], [[2.0], [3.0]]])
        >>> x0, x1 = jd.losses.couplings.Paired()(jax.random.key(0), pairs)
        >>> x0.tolist(), x1.tolist()
        ([[0.0], [2.0]], [[1.0], [3.0]])
    """

    def __call__(self, key, pairs) -> tuple[jax.Array, jax.Array]:
        """(x0, x1) of pairs [n, 2, *event]."""
        pairs = check_batch(pairs, "pairs")
        if pairs.ndim < 3 or pairs.shape[1] != 2:
            raise ValueError(f"the batch has shape {pairs.shape}; expected pairs [n, 2, *event], data first")
        return pairs[:, 0], pairs[:, 1]


@pytree
@dataclasses.dataclass(frozen=True)
class OptimalTransport:
    """Pairs the batch by optimal transport: the permutation of least squared distance, found exactly.

    SciPy solves it on the host, in O(n³): 5 ms for 256 pairs of moons and noise in the plane, 30 ms for 512, and 2 and
    10 ms in 64 dimensions. With a cond, leaves `[n, ...]`, examples are permuted only among equal conditions.

    Args:
        pairs: the coupling whose pairs are permuted.

    Source:
        Pooladian et al. 2023, "Multisample flow matching"; Tong et al. 2024, "Improving and generalizing flow-based
        generative models with minibatch optimal transport".

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> couplings = jd.losses.couplings
        >>> pairs = jnp.array([[[0.0], [3.0]], [[2.0], [1.0]]])
        >>> x0, x1 = couplings.OptimalTransport(couplings.Paired())(jax.random.key(0), pairs)
        >>> x0.tolist(), x1.tolist()  # 0 with 1, and 2 with 3
        ([[0.0], [2.0]], [[1.0], [3.0]])
    """

    pairs: Coupling = Independent()
    permutes = True

    def __post_init__(self):
        check_coupling(self.pairs, "pairs")

    def __call__(self, key, batch, cond=None) -> tuple[jax.Array, jax.Array]:
        """(x0, x1) for a batch that `pairs` takes."""
        x0, x1 = _pairs(self.pairs, key, batch, cond)
        partner = jax.ShapeDtypeStruct(x0.shape[:1], jnp.int32)
        return x0, x1[jax.pure_callback(assign, partner, x0, x1, _alike(cond), vmap_method="sequential")]


def assign(x0, x1, alike=None) -> np.ndarray:
    """The permutation π [n] of least Σ |x0_i - x1_π(i)|² with alike[i, π(i)] true, for [n, *event] on the host."""
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(assignment_cost(x0, x1, alike))[1].astype(np.int32)


def assignment_cost(x0, x1, alike=None) -> np.ndarray:
    """The costs |x0_i - x1_j|² [n, n], less a number per row and one per column; infinite where not alike[i, j].

    These numbers (the potentials of the dual problem) change the cost of every permutation equally, and a good choice
    leaves the solver little work. For any symmetric positive A the costs

        |A^{1/2} (x0_i - m) - A^{-1/2} (x1_j - m')|²

    differ from |x0_i - x1_j|² by such numbers, since the only term in both i and j is again -2 x0_i·x1_j; A is the
    optimal transport map between the Gaussians with the sets' means m, m' and covariances. Then the minimum of each row
    is subtracted, and that of each column.
    """
    x0, x1 = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (x0, x1))
    x0, x1 = _moved_together(x0 - x0.mean(0), x1 - x1.mean(0))
    cost = x0 @ (-2 * x1.T)
    cost += np.sum(x0**2, axis=1)[:, None]
    cost += np.sum(x1**2, axis=1)
    if alike is not None:
        cost[~np.asarray(alike)] = np.inf
    cost -= cost.min(axis=1, keepdims=True)
    cost -= cost.min(axis=0)
    return cost


FEW = 16  # the number of dimensions up to which covariances are used; above, scalar variances do as well


def _moved_together(x0, x1) -> tuple[np.ndarray, np.ndarray]:
    """(A^{1/2} x0, A^{-1/2} x1) for centred sets [n, d]; A is a scalar in more than `FEW` dimensions."""
    d = x0.shape[1]
    sizes = [np.mean(x**2) or 1.0 for x in (x0, x1)]
    if d > FEW:
        scale = (sizes[1] / sizes[0]) ** 0.25
        return x0 * scale, x1 / scale
    one, other = (x.T @ x / len(x) + 1e-6 * size * np.eye(d) for x, size in zip((x0, x1), sizes))  # never singular
    root, inverse = _power(one, 0.5), _power(one, -0.5)
    transport = inverse @ _power(root @ other @ root, 0.5) @ inverse
    return x0 @ _power(transport, 0.5), x1 @ _power(transport, -0.5)


def _power(matrix, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors * values**exponent @ vectors.T


@pytree
@dataclasses.dataclass(frozen=True)
class Entropic:
    """Pairs the batch by the Schrödinger coupling of Brownian motion of variance `sigma`²: a random permutation.

    With a cond, leaves `[n, ...]`, examples are permuted only among equal conditions.

    Args:
        sigma: the standard deviation of the Brownian motion per unit of time, above 0.
        pairs: the coupling whose pairs are permuted.
        sweeps: how many times every two pairs meet and may swap. A few suffice if σ is of the size of the data; for a
            small σ start near the optimum, with `Entropic(sigma, OptimalTransport())`.

    Raises:
        ValueError: if `sigma` is not above 0 (traced, NaN) or `sweeps` is less than 1.

    Source:
        Léonard 2014, "A survey of the Schrödinger problem and some of its connections with optimal transport".

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> couplings = jd.losses.couplings
        >>> pairs = jnp.array([[[0.0], [3.0]], [[2.0], [1.0]]])
        >>> x0, x1 = couplings.Entropic(0.01, couplings.Paired())(jax.random.key(0), pairs)
        >>> x0.tolist(), x1.tolist()  # at so small a sigma, the optimal transport
        ([[0.0], [2.0]], [[1.0], [3.0]])
    """

    sigma: float = 1.0
    pairs: Coupling = Independent()
    sweeps: int = dataclasses.field(default=4, metadata={"static": True})
    permutes = True

    def __post_init__(self):
        check_field(self, "sigma", above=0, fix=", or couplings.OptimalTransport()")
        check_scalar("sigma", self.sigma)
        check_coupling(self.pairs, "pairs")
        check_whole("sweeps", self.sweeps)

    def __call__(self, key, batch, cond=None) -> tuple[jax.Array, jax.Array]:
        """(x0, x1) for a batch that `pairs` takes."""
        x0, x1 = _pairs(self.pairs, key, batch, cond)
        n = x0.shape[0]
        a = x0.reshape(n, -1)
        index = jnp.arange(n)
        alike = _alike(cond)

        def round_(carry, step):
            b, partner = carry
            meets = (step - index) % n
            gain = jnp.sum((a - a[meets]) * (b - b[meets]), axis=1) / self.sigma**2
            uniform = jax.random.uniform(jax.random.fold_in(swap_key, step), (n,), a.dtype)
            swap = uniform[jnp.minimum(index, meets)] < jax.nn.sigmoid(-gain)
            swap = swap if alike is None else swap & alike[index, meets]
            return (jnp.where(swap[:, None], b[meets], b), jnp.where(swap, partner[meets], partner)), None

        swap_key = jax.random.fold_in(key, 1)
        start = vary((x1.reshape(n, -1), index), (key, x0, x1))
        (_, partner), _ = jax.lax.scan(round_, start, jnp.arange(self.sweeps * n))
        return x0, nan_unless(self.sigma > 0, x1[partner])


def check_coupling(coupling, name: str = "coupling") -> None:
    """Raise TypeError if `coupling` is not a coupling."""
    check_function(name, coupling, "one of jaxdiff.losses.couplings, such as Independent()")


def _pairs(coupling, key, batch, cond):
    """The pairs of `coupling`; only couplings that permute are called with `cond`."""
    return coupling(key, batch, cond) if getattr(coupling, "permutes", False) else coupling(key, batch)


def _alike(cond) -> jax.Array | None:
    """Whether each two of n examples have equal conditions, [n, n]; None without a cond."""
    leaves = [leaf.reshape(len(leaf), -1) for leaf in map(jnp.asarray, jax.tree.leaves(cond))]
    equal = [(leaf[:, None] == leaf[None]).all(-1) for leaf in leaves]
    return functools.reduce(jnp.logical_and, equal) if equal else None


def draw(coupling, key, batch, cond=None, weight=None) -> tuple[jax.Array, jax.Array]:
    """(x0, x1) of `coupling`; TypeError for an integer batch, ValueError for a concrete NaN in it, or other shapes.

    ValueError also for a `weight` with a coupling that permutes, because the given values are a condition that differs
    from example to example.
    """
    if weight is not None and getattr(coupling, "permutes", False):
        raise ValueError(
            f"weight was given, but coupling = {said(coupling)} permutes the examples of a batch regardless of their "
            "given values; leave weight out, or take couplings.Independent() or Paired()"
        )
    pair = _pairs(coupling, key, check_event(batch, "x0"), cond)
    shapes = [getattr(x, "shape", None) for x in pair] if isinstance(pair, tuple | list) else said(pair)
    if len(shapes) != 2 or shapes[0] is None or shapes[0] != shapes[1]:
        raise ValueError(f"the coupling gave {shapes}; expected (x0, x1), two arrays of one shape [n, *event]")
    return pair[0], pair[1]

r"""Which source point goes with which example: `coupling(key, batch) -> (x0, x1)`, each [n, *event].

Between the data q_0 and a source q_1 a coupling is any joint law with those two margins; flows and bridges are
regressed on pairs drawn from it. `Independent` and `Paired` make pairs; the others take pairs and say anew who belongs
to whom, by a permutation: the examples keep their order (and so their labels), and every source point stays, once.

    OptimalTransport   the permutation π of least Σ |x0_i - x1_π(i)|² (Pooladian et al. 2023; Tong et al. 2024)
    Entropic           a draw of π with probability ∝ exp(-Σ |x0_i - x1_π(i)|² / 2σ²)

The second is Schrödinger's own question: of n Brownian particles of variance σ² a unit time only the points where they
started and those where they arrived are known, and π says who arrived where. As n grows a pair follows the entropic
plan, the law π(x_0, x_1) of least KL from q_0(x_0) N(x_1; x_0, σ²) with those margins, which is a Schrödinger bridge's
(Föllmer 1988; Léonard 2014). Drawing each row of a batch's Sinkhorn plan has the same margins on average, but loses a
third of the batch's source points and takes others twice.

The permutation is drawn by heat-bath swaps. To swap the partners b_i, b_j of a_i, a_j changes the sum of squares by
2 (a_i - a_j)·(b_i - b_j), so that it happens with probability

    1 / (1 + exp((a_i - a_j)·(b_i - b_j) / σ²)).

Round r of a sweep lets i meet r - i (mod n): these are disjoint pairs, drawn at once, and in n rounds every two meet.

Under a condition y the margins must be those of each y: q_0(x_0 | y) and q_1. A permutation over all classes breaks the
second, for it gives every class the source points nearest to it, and the model of x_0 | y is then wrong. The two that
permute therefore do so among equal conditions; where all differ, as numbers do, pairs stay as they come. A coupling of
your own that permutes says `permutes = True` and is called as `coupling(key, batch, cond)`.
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
    """What a coupling is: one of this module, or a frozen dataclass of your own under `@jaxdiff.pytree`."""

    def __call__(self, key, batch, /) -> tuple[jax.Array, jax.Array]:
        """(x0, x1), each [n, *event]."""
        ...


@pytree
@dataclasses.dataclass(frozen=True)
class Independent:
    """A fresh point of `source(key, n) -> [n, *event]` for every example; None: standard normal in their shape.

    Raises ValueError for a source whose points have another shape than the data.
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
    """The pairs that the batch holds: [n, 2, *event], data first. Raises ValueError for a batch of another shape."""

    def __call__(self, key, pairs) -> tuple[jax.Array, jax.Array]:
        """(x0, x1) of pairs [n, 2, *event]."""
        pairs = check_batch(pairs, "pairs")
        if pairs.ndim < 3 or pairs.shape[1] != 2:
            raise ValueError(f"the batch has shape {pairs.shape}; expected pairs [n, 2, *event], data first")
        return pairs[:, 0], pairs[:, 1]


@pytree
@dataclasses.dataclass(frozen=True)
class OptimalTransport:
    """The batch's optimal transport for the squared distance: an exact assignment of the points of `pairs`.

    Solved by SciPy on the host, in O(n³): 5 ms for 256 pairs of moons and noise in the plane, 30 ms for 512, and 2 and
    10 ms in 64 dimensions. With a cond, leaves [n, ...], it is that of the examples of each condition.
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
    """The permutation π [n] of least Σ |x0_i - x1_π(i)|² with alike[i, π(i)], for points [n, *event] on the host."""
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(assignment_cost(x0, x1, alike))[1].astype(np.int32)


def assignment_cost(x0, x1, alike=None) -> np.ndarray:
    """The costs |x0_i - x1_j|² [n, n], less one number a row and one a column; infinite where not alike[i, j].

    Such numbers (the potentials of the dual problem) change the cost of every permutation equally, and good ones leave
    the solver little to do. Squares of any symmetric positive A leave

        |A^{1/2} (x0_i - m) - A^{-1/2} (x1_j - m')|²,

    whose only term in both i and j is again -2 x0_i·x1_j; A is the optimal transport map between the Gaussians with the
    sets' means m, m' and covariances. Then the minimum of each row is subtracted, and that of each column.
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


FEW = 16  # dimensions, up to which covariances are used; in more, scalar variances do as well


def _moved_together(x0, x1) -> tuple[np.ndarray, np.ndarray]:
    """A^{1/2} x0 and A^{-1/2} x1 for centred sets [n, d], with A a number in more than `FEW` dimensions."""
    d = x0.shape[1]
    sizes = [np.mean(x**2) or 1.0 for x in (x0, x1)]
    if d > FEW:
        scale = (sizes[1] / sizes[0]) ** 0.25
        return x0 * scale, x1 / scale
    one, other = (x.T @ x / len(x) + 1e-6 * size * np.eye(d) for x, size in zip((x0, x1), sizes))  # not singular
    root, inverse = _power(one, 0.5), _power(one, -0.5)
    transport = inverse @ _power(root @ other @ root, 0.5) @ inverse
    return x0 @ _power(transport, 0.5), x1 @ _power(transport, -0.5)


def _power(matrix, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors * values**exponent @ vectors.T


@pytree
@dataclasses.dataclass(frozen=True)
class Entropic:
    """The batch's Schrödinger coupling for Brownian motion of variance `sigma`²: a random permutation of `pairs`.

    `sweeps` times every two pairs meet and may swap. Few are enough where σ is of the size of the data; for a small σ
    begin near the optimum: `Entropic(sigma, OptimalTransport())`. With a cond, leaves [n, ...], those of one condition
    swap. Raises ValueError for a sigma that is not positive; traced, it gives NaN.
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
    """Raise TypeError for what is no coupling."""
    check_function(name, coupling, "one of jaxdiff.losses.couplings, such as Independent()")


def _pairs(coupling, key, batch, cond):
    """What `coupling` gives; `cond` is for those that permute, others leave every source point where it is."""
    return coupling(key, batch, cond) if getattr(coupling, "permutes", False) else coupling(key, batch)


def _alike(cond) -> jax.Array | None:
    """Which of n examples have equal conditions, [n, n]; None without a cond."""
    leaves = [leaf.reshape(len(leaf), -1) for leaf in map(jnp.asarray, jax.tree.leaves(cond))]
    equal = [(leaf[:, None] == leaf[None]).all(-1) for leaf in leaves]
    return functools.reduce(jnp.logical_and, equal) if equal else None


def draw(coupling, key, batch, cond=None, weight=None) -> tuple[jax.Array, jax.Array]:
    """(x0, x1) of `coupling`; TypeError for an integer batch, ValueError for a concrete NaN in it, or other shapes.

    ValueError for a `weight` under a coupling that permutes: what is given is a condition of its own an example.
    """
    if weight is not None and getattr(coupling, "permutes", False):
        raise ValueError(
            f"weight was given, but coupling = {said(coupling)} pairs the examples of a batch anew, whatever is given "
            "of each; leave weight out, or take couplings.Independent() or Paired()"
        )
    pair = _pairs(coupling, key, check_event(batch, "x0"), cond)
    shapes = [getattr(x, "shape", None) for x in pair] if isinstance(pair, tuple | list) else said(pair)
    if len(shapes) != 2 or shapes[0] is None or shapes[0] != shapes[1]:
        raise ValueError(f"the coupling gave {shapes}; expected (x0, x1), two arrays of one shape [n, *event]")
    return pair[0], pair[1]

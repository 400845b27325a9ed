r"""The chain rule of masking models: the exact log-probability of data in one order of revealing it.

A masking model that reveals one value a step, in the order π, has

    log p_π(x) = Σ_j log p(x_π(j) | x_π(1), ..., x_π(j-1)),

in which each term is the denoiser's prediction with the earlier values visible and all others masked: n evaluations an
example, without noise and without a bound (Uria et al. 2014, "A deep and tractable density estimator"; Hoogeboom et al.
2022, "Autoregressive diffusion models", section 3). For a network that does not depend on t, the mean of -log p_π(x)
over orders is the variational bound in continuous time, computed another way: by Jensen's inequality it is above -log
of the mean of p_π(x). A single order, such as left to right, gives another number of the same model.
"""

import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdiff.arrays import Precision, check_choice, check_whole, folded
from jaxdiff.denoisers import DenoiserLike, check_denoiser
from jaxdiff.likelihood.values import Batches, OfValues, checked, nats_of
from jaxdiff.losses.any_order import in_line, masked, places
from jaxdiff.losses.counted import check_weight, counts
from jaxdiff.processes import check_absorbing

ORDERS = "left to right", "random"


@dataclasses.dataclass(frozen=True)
class Chain(OfValues):
    """The chain rule's -log2 p of a data set, in bits a value that counts.

    Attributes:
        kind: description of the number, with the order.
        order: "left to right" or "random".
        per_order: -log2 p of each example in each of its orders, `[n, orders]`, in bits a value.
        counted: number of values of each example that count, `[n]`, by which its bits are divided; None if all count.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Table(jd.Absorbing(2), [[0.5, 0.0], [0.0, 0.5]])  # two tokens that are always equal
        >>> found = jd.likelihood.chain(jax.random.key(0), denoiser, jnp.array([[0, 0], [1, 1]]))
        >>> found.per_order.shape, round(found.bits_per_dim, 3)  # one bit for two tokens
        ((2, 1), 0.5)
    """

    kind: str
    order: str
    per_order: np.ndarray = dataclasses.field(repr=False)
    counted: np.ndarray | None = dataclasses.field(default=None, repr=False)

    @property
    def per_example(self) -> np.ndarray:
        """Bits a value that counts, mean over orders, `[n]`."""
        return self.per_order.mean(1, dtype=np.float64)

    @property
    def order_error(self) -> float:
        """The part of `standard_error` that is due to the draw of orders, which more orders reduce.

        NaN for one random order an example.
        """
        if self.order == ORDERS[0]:
            return 0.0
        n, orders = self.per_order.shape
        if orders < 2:
            return math.nan
        share = 1.0 if self.counted is None else (self.counted / self.counted.mean())
        variance = self.per_order.var(1, ddof=1, dtype=np.float64) / orders
        return math.sqrt((share**2 * variance).mean() / n)

    def __str__(self):
        away = self.perplexity * math.log(2) * self.standard_error
        return (
            f"{self.bits_per_dim:.4f} +- {self.standard_error:.4f} bits a value, perplexity {self.perplexity:.4g} +- "
            f"{away:.2g} ({self.kind}; {len(self.per_order)} examples)"
        )


def chain(
    key,
    denoiser: DenoiserLike,
    data,
    order: Literal["left to right", "random"] = "left to right",
    orders: int = 1,
    batch_size: int = 64,
    cond: Any = None,
    progress: bool = False,
    mesh: Mesh | None = None,
    precision: Precision | None = None,
    weight: Any = None,
) -> Chain:
    """Compute -log2 p of data under a masking model, by the chain rule in an order of its values.

    It takes as many network evaluations an order as values count in the longest example. A network that depends on t is
    given the t at which that share of values is masked. Values that do not count are visible from the start.

    Args:
        key: a typed key, or n keys, one an example.
        denoiser: denoiser of an `jaxdiff.Absorbing` process.
        data: categories `[n, *event]`.
        order: "left to right" (row by row) or "random". Random orders differ by example and depend on `key` and its
            index alone.
        orders: number of random orders an example.
        batch_size: examples evaluated at once.
        cond: condition, leaves `[n, ...]`.
        progress: show a progress bar.
        mesh: devices that each batch is split between.
        precision: of the network's float32 products, as in `jaxdiff.sample`.
        weight: 1 for values that count and 0 for those that are given, as in `jaxdiff.variational_bound`.

    Raises:
        TypeError: for a process other than `Absorbing`.
        ValueError: for another order, or several orders left to right.

    Source:
        Hoogeboom et al. 2022, "Autoregressive diffusion models", section 3.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Table(jd.Absorbing(2), [[0.5, 0.0], [0.0, 0.5]])  # two tokens that are always equal
        >>> found = jd.likelihood.chain(jax.random.key(0), denoiser, jnp.array([[0, 0], [1, 1]]))
        >>> round(found.bits_per_dim, 3)  # one bit for two tokens
        0.5
    """
    check_denoiser(denoiser)
    process = check_absorbing(denoiser.process, "chain", "take jaxdiff.continuous_bound()")
    check_choice("order", order, ORDERS)
    check_whole("orders", orders)
    if orders > 1 and order == ORDERS[0]:
        raise ValueError(f'orders = {orders}, but left to right is one order; leave it out, or give order="random"')
    batches = Batches(batch_size, progress, mesh, precision)
    data = checked(denoiser, data, None, batches)
    steps = int(np.max(counts(process, check_weight(process, weight, data), data)))
    compute = functools.partial(_nats, steps=steps, orders=orders, random=order == "random")
    nats, counted, note = nats_of(compute, key, denoiser, data, cond, weight, "chain", batches)
    mean = f", mean of {orders} an example" if orders > 1 else ""
    kind = f"{order}, exact" if order == ORDERS[0] else f"random order{mean}"
    return Chain(f"{kind}{note}", order, nats.T, counted)


@functools.partial(jax.jit, static_argnames=("steps", "orders", "random"))
def _nats(keys, denoiser, x0, cond, weight, steps: int, orders: int, random: bool) -> jax.Array:
    """-log p, [orders, n]."""
    process = denoiser.process
    n = counts(process, weight, x0)

    def of_order(number):
        if random:
            place = places(folded(keys, number), x0, weight)
        else:
            later = -jnp.arange(math.prod(x0.shape[1:]), dtype=jnp.float32).reshape(1, *x0.shape[1:])
            later = jnp.broadcast_to(later, x0.shape)
            place = in_line(later if weight is None else jnp.where(weight == 0, jnp.inf, later))

        def show(_, step):
            k = jnp.maximum(n - step, 0)
            x, t = masked(process, x0, place, k, n)
            nats = -denoiser(x, t, cond).log_prob(x0)
            next_one = place.astype(k.dtype) == k.reshape(-1, *[1] * (x0.ndim - 1)) - 1
            return None, jnp.where(next_one, nats, 0.0).sum(range(1, x0.ndim))

        return jax.lax.scan(show, None, jnp.arange(steps, dtype=jnp.float32))[1].sum(0)

    return jax.lax.map(of_order, jnp.arange(orders))

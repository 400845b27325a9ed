r"""The chain rule of masks: the exact log-probability of one order of showing them.

A model of masks that shows one value a step, the next of an order σ, has

    log p_σ(x) = Σ_j log p(x_σ(j) | x_σ(1), ..., x_σ(j-1)),

each term the denoiser's answer where those before are seen and all others masked: n evaluations an example, and neither
noise nor a bound (Uria et al. 2014, "A deep and tractable density estimator"; Hoogeboom et al. 2022, "Autoregressive
diffusion models", section 3). For a network that is not told t the mean of -log p_σ(x) over orders is the variational
bound in continuous time, computed another way: by Jensen's inequality it is above -log of the mean of p_σ(x). A single
order, such as left to right, is another number of the same model.
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
    """The chain rule of a data set, in bits a value that counts.

    per_order: [n, orders], -log2 p of each example in each of its orders. kind: what the number is, the order by name.
    counted: [n], how many values of each example count, by which its bits are divided; None where all do.
    """

    kind: str
    per_order: np.ndarray = dataclasses.field(repr=False)
    counted: np.ndarray | None = dataclasses.field(default=None, repr=False)

    @property
    def per_example(self) -> np.ndarray:
        """The mean over its orders of each example, bits a value of it that counts, [n]."""
        return self.per_order.mean(1, dtype=np.float64)

    @property
    def order_error(self) -> float:
        """What of `standard_error` is due to the draw of orders, so that more of them would make it smaller.

        NaN for one random order an example.
        """
        if self.kind.startswith(ORDERS[0]):
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
    """-log2 p of data [n, *event] under a model of masks, by the chain rule in an order of its values.

        chain(key, denoiser, tokens)                                  left to right, row by row
        chain(key, denoiser, tokens, order="random", orders=8)        8 random orders an example

    Under "random" each example has orders of its own, which depend on `key` and its index alone. It costs as many
    evaluations an order as values count in the longest example. A network that is told t is told the one at which that
    share is masked. `cond`, `progress`, `mesh`, `precision` and `weight` are those of `jaxdiff.variational_bound`: what
    is given is seen from the start.

    Raises TypeError for a process other than `Absorbing`, ValueError for another order, several orders left to right,
    and what `jaxdiff.variational_bound` raises.
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
    kind = f"{order}, exact" if order == ORDERS[0] else f"random order, mean of {orders} an example"
    return Chain(f"{kind}{note}", nats.T, counted)


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

r"""Categories by a flow of numbers (Hoogeboom et al. 2021, "Argmax flows and multinomial diffusion").

A category x of K becomes v in R^K with argmax v = x, and a model p(v) of numbers says of it

    P(x) = ∫ over argmax v = x of p(v) dv >= exp E_q log p(v)/q(v | x)          (their eq. 3),

which K samples tighten as those of any dequantisation. Of u in R^K (their section 3.2, "thresholding")

    v_x = u_x,      v_i = v_x - softplus(v_x - u_i),      log |det dv/du| = Σ_{i ≠ x} log sigmoid(v_x - u_i):

every v_i is below v_x, and near u_i where that is. u is normal, or an invertible map of normal noise, given x.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_function, noise_dtype, normal, pytree, rebuilt
from jaxdiff.denoisers.denoiser import check_params
from jaxdiff.likelihood.dequantization import check_pair


@pytree
@dataclasses.dataclass(frozen=True)
class Argmax:
    """Categories [n, *event] as numbers v [n, *event, K] whose argmax they are: a dequantizer of `bits_per_dim`.

        v, log_q = Argmax()(keys, tokens, 27)               what a denoiser of numbers is trained on
        jd.bits_per_dim(key, denoiser, tokens, levels=27, dequantizer=Argmax(), budget=0)
        jnp.argmax(jd.sample(key, denoiser, (n, *event, 27)), -1)

    `network(params, noise, x) -> (u, log_det)` is that of `Variational`: noise is standard normal and x has 1 at the
    category and 0 elsewhere, both [n, *event, K]; None is u = noise. Train it by `DequantizationLoss(denoiser, K)`.

    Raises TypeError for a network that is no function, and when called for one that returns something else.
    """

    kind: ClassVar = "argmax flow"

    network: Callable[..., tuple[jax.Array, jax.Array]] | None = dataclasses.field(
        default=None, metadata={"static": True}
    )
    params: Any = None

    def __post_init__(self):
        if self.network is not None:
            check_function("network", self.network, "a function (params, noise, x) -> (u, log_det), or None")
        object.__setattr__(self, "params", check_params(self.params))

    def with_params(self, params) -> "Argmax":
        """The same with other weights."""
        return rebuilt(self, params=check_params(params))

    def place(self, keys, images, levels: int) -> tuple[jax.Array, jax.Array]:
        """Draw v [n, *event, levels], one key an example, and log q(v | images) [n], nats."""
        own = jnp.arange(levels) == jnp.asarray(images)[..., None]
        x = own.astype(noise_dtype(levels))
        noise = normal(keys, x)
        over_event = lambda a: a.sum(range(1, a.ndim))
        u, log_det = (noise, jnp.zeros(len(x), x.dtype)) if self.network is None else self._moved(noise, x)
        top = jnp.sum(jnp.where(own, u, 0.0), -1, keepdims=True)
        below = top - jax.nn.softplus(top - u)
        below = jnp.where(below < top, below, jnp.nextafter(jax.lax.stop_gradient(top), -jnp.inf))  # no tie by rounding
        log_slope = jnp.where(own, 0.0, jax.nn.log_sigmoid(top - u))
        log_q = over_event(jax.scipy.stats.norm.logpdf(noise) - log_slope) - log_det
        return jnp.where(own, u, below), log_q

    __call__ = place

    def _moved(self, noise, x) -> tuple[jax.Array, jax.Array]:
        assert self.network is not None
        return check_pair("network", self.network(self.params, noise, x), x)

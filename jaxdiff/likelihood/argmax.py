r"""Categories by a flow of numbers (Hoogeboom et al. 2021, "Argmax flows and multinomial diffusion").

A category x of K becomes v in R^K with argmax v = x, and a model p(v) of numbers says of it

    P(x) = ∫ over argmax v = x of p(v) dv >= exp E_q log p(v)/q(v | x)          (their eq. 3),

which K samples tighten as in any dequantisation. Given u in R^K (their section 3.2, "thresholding"),

    v_x = u_x,      v_i = v_x - softplus(v_x - u_i),      log |det dv/du| = Σ_{i ≠ x} log sigmoid(v_x - u_i):

every v_i is below v_x, and near u_i if u_i is. u is normal noise, or an invertible map of it given x.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_function, is_concrete, nan_unless, noise_dtype, normal, pytree, rebuilt
from jaxdiff.denoisers.denoiser import check_params
from jaxdiff.likelihood.dequantization import check_pair


@pytree
@dataclasses.dataclass(frozen=True)
class Argmax:
    """Represent categories as continuous values whose argmax they are: a dequantizer of `bits_per_dim`.

    Categories `[n, *event]` become v `[n, *event, K]`. Train a denoiser of continuous data on v, sample it, and take
    the argmax over the last axis. Train `network` by `DequantizationLoss(denoiser, K)`.

    Args:
        network: `(params, noise, x) -> (u, log_det)`, as in `Variational`: noise is standard normal and x is the
            one-hot category, both `[n, *event, K]`; None is u = noise.
        params: parameters of the network.

    Raises:
        TypeError: if `network` is not a function or, when called, returns something else.

    Source:
        Hoogeboom et al. 2021, "Argmax flows and multinomial diffusion".

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> tokens = jnp.array([[0, 2], [1, 1]])
        >>> v, log_q = jd.likelihood.Argmax()(jax.random.split(jax.random.key(0)), tokens, 3)
        >>> v.shape, bool((jnp.argmax(v, -1) == tokens).all())
        ((2, 2, 3), True)
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
        """The same dequantizer with other parameters."""
        return rebuilt(self, params=check_params(params))

    def place(self, keys, images, levels: int) -> tuple[jax.Array, jax.Array]:
        """Draw v [n, *event, levels], one key an example, and return it with log q(v | images) [n], nats.

        Raises ValueError for a concrete value that is not a category 0 to `levels` - 1; a traced one gives NaN.
        """
        images = jnp.asarray(images)
        own = jnp.arange(levels) == images[..., None]
        known = own.any(-1, keepdims=True)
        if is_concrete(known) and not known.all():
            wrong = np.asarray(images)[~np.asarray(known[..., 0])][0]
            raise ValueError(f"images hold {wrong}, which is not a category; expected 0..{levels - 1}")
        x = own.astype(noise_dtype(levels))
        noise = normal(keys, x)
        over_event = lambda a: a.sum(range(1, a.ndim))
        u, log_det = (noise, jnp.zeros(len(x), x.dtype)) if self.network is None else self._moved(noise, x)
        top = nan_unless(known, jnp.sum(jnp.where(own, u, 0.0), -1, keepdims=True))
        below = top - jax.nn.softplus(top - u)
        below = jnp.where(below < top, below, jnp.nextafter(jax.lax.stop_gradient(top), -jnp.inf))  # no tie by rounding
        log_slope = jnp.where(own, 0.0, jax.nn.log_sigmoid(top - u))
        log_q = over_event(jax.scipy.stats.norm.logpdf(noise) - log_slope) - log_det
        return jnp.where(own, u, below), log_q

    __call__ = place

    def _moved(self, noise, x) -> tuple[jax.Array, jax.Array]:
        assert self.network is not None
        return check_pair("network", self.network(self.params, noise, x), x)

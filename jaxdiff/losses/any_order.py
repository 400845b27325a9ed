r"""The bound of `Absorbing` by the number of masks, without a noise level.

By the chain rule, unmasking tokens one by one in a random order π costs

    E_π Σ_j -log p(x_π(j) | x_π(1), ..., x_π(j-1)) = Σ_k 1/k E Σ_masked -log p(x_i | the others),

where k is the number of masks and E is over which of the n tokens they are (Hoogeboom et al. 2022, "Autoregressive
diffusion models", section 3.1; Uria et al. 2014). For a network that does not take t this is the bound in continuous
time under every schedule: there k is binomial given t, and with weight -α'/(1 - α) each k from 1 to n has the same
weight. So k is drawn uniformly and the sum multiplied by n/k. No t is cut off near 0, so the loss has no bias and
finite variance.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdiff.arrays import example_keys, pytree, uniform
from jaxdiff.denoisers import check_denoiser
from jaxdiff.losses import times as times_
from jaxdiff.losses.counted import check_weight, counts
from jaxdiff.losses.inputs import draw_times, prepared
from jaxdiff.processes import Certain, check_absorbing


@pytree
@dataclasses.dataclass(frozen=True)
class AnyOrder:
    """The variational bound of masked diffusion with a random number of masks in place of a random time.

    Call it as `loss(denoiser, key, x0, cond=None, weight=None)`; it returns nats per value, `[n]`. Of the m values that
    count in an example, k are masked, with k uniform on 1 to m and stratified over the batch. A network that takes t
    gets the time at which a share k/m is masked. Unlike `Bound()` it needs no `t_min`, and its variance is finite.

    Raises:
        TypeError: if the process is not `Absorbing`, or as `Denoising`.
        ValueError: as `Denoising`.

    Source:
        Hoogeboom et al. 2022, "Autoregressive diffusion models", section 3.1.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = lambda params, x, c_noise, cond: params * jnp.ones((*x.shape, 4))  # logits
        >>> denoiser = jd.Denoiser(network, jnp.zeros(()), jd.Absorbing(4))
        >>> loss = jd.losses.AnyOrder()(denoiser, jax.random.key(0), jnp.zeros((3, 8), int))
        >>> bool(jnp.allclose(loss, jnp.log(4)))  # equal logits cost log 4 nats per value
        True
    """

    def __call__(self, denoiser, key, x0, cond=None, weight=None) -> jax.Array:
        check_denoiser(denoiser)
        process = check_absorbing(denoiser.process, "AnyOrder", "take jaxdiff.losses.Bound()")
        denoiser, x0, cond = prepared(denoiser, key, x0, cond)
        weight = check_weight(process, weight, x0)
        time_key, noise_key = jax.random.split(key)
        part, _ = draw_times(times_.Stratified(t_min=0.0), time_key, process, len(x0))
        n = counts(process, weight, x0)
        k = jnp.minimum(jnp.floor(part * n) + 1, n)
        x, t = masked(process, x0, places(example_keys(noise_key, len(x0)), x0, weight), k, n)
        prediction = denoiser(x, t, cond)
        process.check_prediction(prediction, x)
        error = process.error(prediction, Certain(x0), x, t)
        return n / jnp.maximum(k, 1) * jnp.mean(error, axis=range(1, x0.ndim))


def places(keys, x0, weight) -> jax.Array:
    """A random order of the values of each example, of the shape of x0: ranks from 0, with given values last."""
    drawn = uniform(keys, x0)
    return in_line(drawn if weight is None else jnp.where(weight == 0, jnp.inf, drawn))


def in_line(values) -> jax.Array:
    """The rank, from 0, of each of `values` [n, *event] among those of its example."""
    flat = values.reshape(len(values), -1)
    return jnp.argsort(jnp.argsort(flat, axis=1), axis=1).reshape(values.shape)


def masked(process, x0, place, k, n) -> tuple[jax.Array, jax.Array]:
    """(x0 with the values of rank below `k` masked, the t at which a share k/n is masked), k and n [batch]."""
    hidden = place.astype(k.dtype) < k.reshape(-1, *[1] * (x0.ndim - 1))
    t = process.time_at_log_share(jnp.log(k / jnp.maximum(n, 1)))
    return jnp.where(hidden, process.mask, x0), t

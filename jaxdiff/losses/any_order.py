r"""Masks by their number: the bound of `Absorbing` without a noise level.

By the chain rule, tokens shown one by one in a random order σ cost

    E_σ Σ_j -log p(x_σ(j) | x_σ(1), ..., x_σ(j-1)) = Σ_k 1/k E Σ_masked -log p(x_i | the others),

k the number of masks and E over which of the n they are (Hoogeboom et al. 2022, "Autoregressive diffusion models",
section 3.1; Uria et al. 2014). For a network that is not told t this is the bound in continuous time under every
schedule: there k is binomial given t, and with weight -α'/(1 - α) each k from 1 to n has the same share. So k is drawn
evenly and the sum paid n/k times. No t is near 0, so that nothing is left out and the variance is finite.
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
    """`loss(denoiser, key, x0, cond, weight) -> [batch]`: the bound of masks by their number, nats a value.

    Of the n values that count in an example k are masked, k even on 1 to n and one in each of as many equal parts of
    that as the batch has examples. A network that is told t is told the one at which a share k/n is masked.

    Raises TypeError for a process other than `Absorbing`, and what `Denoising` raises.
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
    """A random place in line for each value of x0 that counts, 0 first, those that are given last; of its shape."""
    drawn = uniform(keys, x0)
    return in_line(drawn if weight is None else jnp.where(weight == 0, jnp.inf, drawn))


def in_line(values) -> jax.Array:
    """The place of each of `values` [n, *event] among those of its example, by size."""
    flat = values.reshape(len(values), -1)
    return jnp.argsort(jnp.argsort(flat, axis=1), axis=1).reshape(values.shape)


def masked(process, x0, place, k, n) -> tuple[jax.Array, jax.Array]:
    """(x0 with those at the first `k` places masked, the t at which a share k/n is), k and n [batch]."""
    hidden = place.astype(k.dtype) < k.reshape(-1, *[1] * (x0.ndim - 1))
    t = process.time_at_log_share(jnp.log(k / jnp.maximum(n, 1)))
    return jnp.where(hidden, process.mask, x0), t

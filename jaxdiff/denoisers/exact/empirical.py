"""A finite data set as a distribution: each example has the same probability.

For numbers it is the mixture of Gaussians with C_k = 0, whose noised density is the one every score network is trained
towards (Karras et al. 2022, appendix B.3). For categories the other tokens of x_t say about the i-th

    out_i(v) = log Σ_{x_0 of the set, x_0^i = v} Π_{j ≠ i} q(x_t^j | x_0^j).
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_batch, exactly
from jaxdiff.denoisers.exact.categories import OfCategories
from jaxdiff.processes import (
    Discrete,
    Gaussian,
    Prediction,
    Process,
    check_event,
    check_gaussian,
    expand_time,
    pytree,
)


@pytree
@dataclasses.dataclass(frozen=True)
class _OfNumbers:
    process: Gaussian
    data: jax.Array

    def check_cond(self, cond) -> None:
        """Raise for a `cond`: the data set has no labels."""
        if cond is not None:
            raise ValueError(
                "cond was given to an Empirical denoiser, which has no classes; make one denoiser per class"
            )

    def _log_kernel(self, x, t):
        """-|x - α x_i|² / 2σ², [batch, n], and the arrays it was computed from."""
        x = check_batch(x)
        flat, data = x.reshape(x.shape[0], -1), self.data.reshape(self.data.shape[0], -1)
        if flat.shape[1] != data.shape[1]:
            raise ValueError(f"x has events of shape {x.shape[1:]}; this data set has {self.data.shape[1:]}")
        alpha, sigma = (expand_time(c, x).reshape(-1, 1) for c in self.process.marginal(t))
        distance = jnp.sum((flat[:, None] - alpha[..., None] * data[None]) ** 2, -1)
        return -distance / (2 * sigma**2), flat, data, alpha, sigma

    @exactly
    def __call__(self, x, t, cond=None) -> Prediction:
        """E[x_0 | x] and E[ε | x] for x `[batch, *event]`, t a scalar or `[batch]` with σ(t) > 0."""
        self.check_cond(cond)
        log_kernel, flat, data, alpha, sigma = self._log_kernel(x, t)
        mean = jax.nn.softmax(log_kernel, -1) @ data
        return Prediction(mean.reshape(x.shape), ((flat - alpha * mean) / sigma).reshape(x.shape))

    @exactly
    def log_prob(self, x, t) -> jax.Array:
        """log p_t(x) in nats, `[batch]`; σ(t) > 0, since the data set itself has no density."""
        log_kernel, flat, data, _, sigma = self._log_kernel(x, t)
        d = flat.shape[1]
        normaliser = jnp.log(data.shape[0]) + d * jnp.log(sigma[:, 0]) + d / 2 * jnp.log(2 * jnp.pi)
        return jax.nn.logsumexp(log_kernel, -1) - normaliser


@pytree
@dataclasses.dataclass(frozen=True)
class _OfTokens(OfCategories):
    data: jax.Array

    def check_cond(self, cond) -> None:
        """Raise for a `cond`: the data set has no labels."""
        if cond is not None:
            raise ValueError(
                "cond was given to an Empirical denoiser, which has no classes; make one denoiser per class"
            )

    def _check_event(self, event) -> None:
        if event != self.data.shape[1:]:
            raise ValueError(f"x has events of shape {event}; this data set has {self.data.shape[1:]}")

    def _others(self, evidence) -> jax.Array:
        data = self.data.reshape(len(self.data), -1)
        each = evidence[:, jnp.arange(data.shape[1]), data]  # [batch, n, length]
        never = each == -jnp.inf
        known = jnp.where(never, 0.0, each)
        excluded = never.sum(-1, keepdims=True) > never.astype(int)
        others = jnp.where(excluded, -jnp.inf, known.sum(-1, keepdims=True) - known)
        by_value = lambda others, values: _sums(others, values, self.process.categories)
        return jax.vmap(jax.vmap(by_value, (1, 1)), (0, None))(others, data)


def _sums(logs, values, k: int) -> jax.Array:
    """log Σ exp(logs) of the examples with each of `k` values, [k], for logs [n]."""
    top = jax.ops.segment_max(logs, values, k)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    return jnp.log(jax.ops.segment_sum(jnp.exp(logs - top[values]), values, k)) + top


def Empirical(process: Process, data) -> _OfNumbers | _OfTokens:
    """The optimal denoiser of a finite data set: each example has the same probability.

    Time and memory traffic grow as batch x n. For categories only the values in the data set are possible, so that the
    prediction is NaN for an x_t that no example could become.

    Args:
        process: a process of numbers or of categories.
        data: the examples, `[n, *event]`, floats or integers to match.

    Returns:
        A denoiser without cond. For numbers it also has `log_prob(x, t)`.

    Raises:
        TypeError: if the data are integers for a process of numbers, or not integers for one of categories.
        ValueError: if the data set is empty, holds a NaN, or holds a category that does not exist.

    Source:
        Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", appendix B.3.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Empirical(jd.VP(), jnp.array([[-1.0], [1.0]]))
        >>> data, noise = denoiser(jnp.zeros((1, 1)), 0.5)  # halfway between the two examples
        >>> data.tolist()
        [[0.0]]
    """
    if isinstance(process, Discrete):
        return _OfTokens(process, process.check(data, "data"))
    return _OfNumbers(check_gaussian(process, "a data set of numbers"), check_event(data, "data"))

r"""Ordered categories, noised to their neighbours: heat on a path of K nodes (Austin et al. 2021, section 3.1, in
continuous time).

1.  A value jumps to each neighbour at the rate τ'; the two ends of the path have one neighbour. The eigenvectors of the
    generator L are cosines, with eigenvalues λ_k = 2 - 2 cos(πk/K), so that q(x_t | x_0) = e^{-τ L} is symmetric and
    its slowest mode is exp(-τ λ_1): the clock is τ = -log(α)/λ_1, so that α is the slowest mode.
2.  In floating point the cosine series is inaccurate where little heat has flowed: at K = 256, τ = 1 half of its
    entries come out below 0. Up to τ λ_1 = 1/2 the path is therefore unfolded into a line, on which heat is a series
    of positive terms, with mirror images of the start,

        q(j | v) = G(j - v) + G(j + v + 1),      G(d) = Σ_m w(d + 2K m),      w(n) = e^{-2τ} I_n(2τ)
        w(n) = e^{-2τ} τ^n/n! Σ_m τ^{2m} n!/(m! (m + n)!)

    and beyond 20 of R = √(n² + 4τ²) the uniform expansion of the Bessel function (DLMF 10.41.3), in logs:

        log w = R - 2τ - n asinh(n/2τ) - log(2πR)/2 + log Σ_k u_k(n/R)/n^k.

    Beyond τ λ_1 = 1/2 a dozen cosines suffice, whose sum is far from 0.
3.  Jumps go to two neighbours, so the score entropy (`jaxdiff.processes.discrete`, 3.) is a sum over these two, with
    τ', which is the rate times σ/(α λ_1), in place of β π.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from jaxdiff.arrays import expand_time, pytree, split_keys, uniform
from jaxdiff.processes.discrete import Scheduled
from jaxdiff.processes.heads import nan_unless_category
from jaxdiff.processes.predictions import Certain
from jaxdiff.processes.rows import ByRows

_TURN = 0.5  # the τ λ_1 above which cosines are summed
_COSINES = 12
_FAR, _TERMS = 20.0, 40
_LEAST = 1e-30  # lower bound of τ, where nothing has moved


def _expansion(count: int) -> list[np.ndarray]:
    """Coefficients of poly_k(h), h = (n/R)², in u_k(n/R)/n^k = poly_k(h)/R^k, lowest power first (DLMF 10.41.10)."""
    u, found = np.polynomial.Polynomial([1.0]), []
    p = np.polynomial.Polynomial([0.0, 1.0])
    for k in range(count):
        found.append(u.coef[k::2])
        u = p**2 * (1 - p**2) * u.deriv() / 2 + ((1 - 5 * p**2) * u).integ() / 8
    return found


_POLYNOMIALS = _expansion(7)


def log_walk(n, tau) -> jax.Array:
    """log of the probability of position n >= 0 at time τ > 0, for a walk from 0 that jumps to each side at rate 1."""
    r = jnp.hypot(n, 2 * tau)
    near = jnp.minimum(tau, _FAR / 2)
    horner = lambda i, inner: 1 + inner * near**2 / ((_TERMS - i) * (_TERMS - i + n))
    series = jax.lax.fori_loop(0, _TERMS, horner, jnp.ones_like(r))
    series = n * jnp.log(near) - 2 * near - gammaln(n + 1) + jnp.log(series)
    far = jnp.maximum(r, _FAR)
    h = (n / far) ** 2
    ratio = sum(np.polynomial.polynomial.polyval(h, poly) / far**k for k, poly in enumerate(_POLYNOMIALS))
    expansion = n**2 / (far + 2 * tau) - n * jnp.arcsinh(n / (2 * tau)) - jnp.log(2 * jnp.pi * far) / 2
    return jnp.where(r < _FAR, series, expansion + jnp.log(jnp.maximum(ratio, 0.5)))


@pytree
@dataclasses.dataclass(frozen=True)
class DiscretizedGaussian(ByRows, Scheduled):
    """Noise of ordered categories: each value jumps to its neighbours, reflected at 0 and `categories` - 1.

    This is heat on a path, D3PM's discretized Gaussian in continuous time. A network returns logits
    `[n, *event, categories]`, which a `Denoiser` reads as "leave_one_out" by default, or as "data". There is no
    "score": the inverse of heat, which it needs, is not computable in floating point.

    Args:
        categories: the number of categories, at least 2.
        schedule: α(t) of the slowest mode, one of `jaxdiff.schedules`.

    Raises:
        TypeError: if `categories` is not a whole number or `schedule` is not a schedule.
        ValueError: if `categories` is less than 2.

    Source:
        Austin et al. 2021, "Structured denoising diffusion models in discrete state-spaces", section 3.1.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> process = jd.DiscretizedGaussian(4)
        >>> kernel = jnp.exp(process.log_kernel(0.3))  # [x_t, x_0]
        >>> bool(kernel[0, 0] > kernel[1, 0] > kernel[2, 0] > kernel[3, 0])  # near values are likelier
        True
    """

    @property
    def _slowest(self) -> float:
        return 4 * math.sin(math.pi / (2 * self.categories)) ** 2

    def _spent(self, t) -> jax.Array:
        """τ λ_1 = -log α, of the shape of `t`."""
        return jax.nn.softplus(-self.log_snr(t) / 2)

    @jax.jit
    def _heat(self, x, spent) -> jax.Array:
        """log K q of every category after `spent` = τ λ_1 from x, [*x.shape, categories]."""
        k = self.categories
        spent = jnp.broadcast_to(expand_time(spent, x).ravel(), x.shape[:1])
        v, event = np.arange(k), (1,) * (x.ndim - 1)
        tau = jnp.maximum(jnp.minimum(spent, _TURN) / self._slowest, _LEAST)[:, None, None]
        d = np.arange(k + 1)
        images = jnp.asarray(np.stack([d, 2 * k - d, 2 * k + d, 4 * k - d, 4 * k + d]), tau.dtype)
        line = jax.nn.logsumexp(log_walk(images, tau), 1) + math.log(k)
        apart, folded = jnp.abs(x[..., None] - v), x[..., None] + v + 1
        of = jax.vmap(lambda line, d: line[d])
        mirrored = jnp.logaddexp(of(line, apart), of(line, jnp.minimum(folded, 2 * k - folded)))
        modes = np.arange(1, min(k, _COSINES + 1))
        cosines = np.cos(np.pi / k * np.outer(v + 0.5, modes))
        decay = jnp.exp(-jnp.maximum(spent, _TURN)[:, None] * np.sin(np.pi * modes / (2 * k)) ** 2 * 4 / self._slowest)
        left = 2 * decay.reshape(len(x), *event, -1) * jnp.asarray(cosines, decay.dtype)[x]
        waves = jnp.matmul(left, jnp.asarray(cosines.T, decay.dtype), precision="highest")
        early = (spent < _TURN).reshape(len(x), *event, 1)
        return jnp.where(early, mirrored, jnp.log1p(jnp.maximum(waves, -0.999)))

    def evidence(self, x, t) -> jax.Array:
        return self._heat(x, self._spent(t))

    def _after(self, x0, t) -> jax.Array:
        return self._heat(x0, self._spent(t))

    def _before(self, x, s, t) -> jax.Array:
        return self._heat(x, _gone(self._spent(s), self._spent(t)))

    def _onward(self, x, s, t) -> jax.Array:
        return self._before(x, s, t)

    def _log_prior(self) -> jax.Array:
        return jnp.full(self.categories, -math.log(self.categories))

    def prior_kl(self, x0, t) -> jax.Array:
        """KL(q(x_t | x_0) || uniform), nats: the mean over categories of f(K q), f(e^L) = e^L L - e^L + 1."""
        log_share = self._after(x0, t)
        return jnp.mean(jnp.exp(log_share) * log_share - jnp.expm1(log_share), -1)

    def _ratios(self, prediction, x, t) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(log r̂ [2, *x.shape], log r given each x_0 [2, ..., K], whether it exists), for both neighbours of x."""
        spent = jnp.maximum(self._spent(t), 1e-12 * self._slowest)
        beside = jnp.stack([x - 1, x + 1])
        exist = (beside >= 0) & (beside < self.categories)
        here, *there = jnp.unstack(
            self._heat(jnp.stack([x, *jnp.clip(beside, 0, self.categories - 1)], 1), spent), axis=1
        )
        ratios = jnp.stack(there) - here
        return jax.nn.logsumexp(prediction.log_probabilities() + ratios, -1), ratios, exist

    def _pace(self, t) -> jax.Array:
        """σ/(α λ_1), which is dτ/dt over the rate; 0 where α = 0."""
        alpha = self.alpha(t)
        return jnp.where(alpha > 0, self.sigma(t) / jnp.where(alpha > 0, alpha, 1.0), 0.0) / self._slowest

    def error(self, prediction, truth: Certain, x, t) -> jax.Array:
        """The score entropy: the divergence of the reverse rates over the rate."""
        ours, ratios, exist = self._ratios(prediction, x, t)
        at = jnp.broadcast_to(jnp.clip(truth.data, 0, self.categories - 1)[..., None], (*ours.shape, 1))
        right = jnp.take_along_axis(ratios, at, -1)[..., 0]
        d = ours - right
        paid = jnp.where(exist, jnp.exp(right) * (jnp.expm1(d) - d), 0.0)
        return nan_unless_category(truth.data, self.categories, expand_time(self._pace(t), x) * paid.sum(0))

    def leap(self, keys, prediction, x, t, s) -> jax.Array:
        """x with each value moved to a neighbour with probability 1 - exp(-rate (t - s)), in proportion to its rate."""
        which, where = split_keys(keys)
        ours, _, exist = self._ratios(prediction, x, t)
        below, above = jnp.where(exist, jnp.exp(ours), 0.0)
        pace = expand_time(self.rate(t) * self._pace(t) * (t - s), x)
        jumps = uniform(which, x) < -jnp.expm1(-pace * (below + above))
        step = jnp.where(uniform(where, x) * (below + above) < below, -1, 1)
        return jnp.where(jumps, x + step, x)


def _gone(spent_s, spent_t) -> jax.Array:
    """spent_t - spent_s, 0 where both are infinite."""
    both = jnp.isinf(spent_s)
    return jnp.where(both, 0.0, spent_t - jnp.where(both, 0.0, spent_s))

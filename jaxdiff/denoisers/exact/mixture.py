"""Mixtures of Gaussians.

If p(x_0) = Σ w_k N(m_k, C_k) then x_t = α x_0 + σ ε has

    p_t(x) = Σ w_k N(α m_k, S_k),                     S_k = α² C_k + σ² I
    E[x_0 | x] = Σ r_k (m_k + α C_k S_k⁻¹ (x - α m_k))      r_k(x) the responsibilities
    E[ε | x]   = Σ r_k σ S_k⁻¹ (x - α m_k).

The component is a class label: given it, r is one there and zero elsewhere. r_k(x) itself is p(k | x_t), the noisy
classifier that classifier guidance needs.
"""

import abc
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_array, check_batch, check_labels, exactly, is_concrete, nan_unless
from jaxdiff.processes import Gaussian as GaussianProcess
from jaxdiff.processes import Prediction, check_gaussian, expand_time, pytree


@dataclasses.dataclass(frozen=True)
class _Density:
    """Σ w_k N(m_k, C_k); a subclass computes the density of each component and the regression on it."""

    process: GaussianProcess
    log_weights: jax.Array
    means: jax.Array

    @abc.abstractmethod
    def _regress(self, away, alpha, sigma) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(log N(away; 0, S) [batch, k], S⁻¹ away, C S⁻¹ away) for S = α² C + σ² I; away [batch, k, d]."""

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that is neither None nor the index of a component."""
        if cond is not None:
            check_labels(cond, len(self.log_weights))

    def _log_weights(self, cond, batch: int):
        """log p(component): the weights for `cond` None, otherwise 0 for that component and -inf for the others."""
        if cond is None:
            return self.log_weights[None]
        cond, k = check_labels(cond, len(self.log_weights)), len(self.log_weights)
        if cond.shape not in ((), (batch,)):
            raise ValueError(f"cond has shape {cond.shape}; expected a scalar or [{batch}], one label per example")
        rows = jnp.log(jnp.eye(k)).at[cond.reshape(-1)]
        return rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

    def _components(self, x, t, cond=None):
        """log w_k N(x; α m_k, S_k) [batch, k], S⁻¹ (x - α m) and C times it, each [batch, k, d], α and σ."""
        x, d = check_batch(x), self.means.shape[-1]
        flat = x.reshape(x.shape[0], -1)
        if flat.shape[1] != d:
            raise ValueError(f"x has events of {flat.shape[1]} values, shape {x.shape[1:]}; this density has {d}")
        alpha, sigma = (expand_time(c, x).reshape(-1, 1, 1) for c in self.process.marginal(t))
        log_density, pull, spread = self._regress(flat[:, None] - alpha * self.means[None], alpha, sigma)
        return self._log_weights(cond, len(flat)) + log_density, pull, spread, alpha, sigma

    @exactly
    def __call__(self, x, t, cond=None) -> Prediction:
        """E[x_0 | x] and E[ε | x] for x `[batch, *event]`, t a scalar or `[batch]`.

        `cond`: None for the mixture, or the component of each x, integers, a scalar or `[batch]`.
        """
        log_joint, pull, spread, alpha, sigma = self._components(x, t, cond)
        r, x = jax.nn.softmax(log_joint, -1), check_batch(x)
        mean = lambda values: jnp.einsum("bk,bkd->bd", r, values).reshape(x.shape)
        return Prediction((r @ self.means).reshape(x.shape) + mean(alpha * spread), mean(sigma * pull))

    @exactly
    def log_prob(self, x, t=0.0, cond=None) -> jax.Array:
        """log p_t(x), or log p_t(x | component `cond`), in nats, `[batch]`."""
        return jax.nn.logsumexp(self._components(x, t, cond)[0], -1)

    @exactly
    def log_responsibilities(self, x, t=0.0) -> jax.Array:
        """log p(component | x_t = x), `[batch, k]`: the exact noisy classifier."""
        return jax.nn.log_softmax(self._components(x, t)[0], -1)


@pytree
@dataclasses.dataclass(frozen=True)
class _Mixture(_Density):
    """The mixture in its components' eigenbases: variances [k, d], bases [k, d, d] with C = U diag(variances) Uᵀ."""

    variances: jax.Array
    bases: jax.Array

    def _regress(self, away, alpha, sigma):
        y = jnp.einsum("kij,bki->bkj", self.bases, away)
        variances = alpha**2 * self.variances[None] + sigma**2
        log_density = -0.5 * jnp.sum(y**2 / variances + jnp.log(2 * jnp.pi * variances), -1)
        rotate_back = lambda values: jnp.einsum("kij,bkj->bki", self.bases, values)
        return log_density, rotate_back(y / variances), rotate_back(self.variances[None] * y / variances)


@pytree
@dataclasses.dataclass(frozen=True)
class _Solved(_Density):
    """The mixture for traced covariances [k, d, d], by Cholesky: eigenvectors may have no derivative."""

    covariances: jax.Array

    def _regress(self, away, alpha, sigma):
        eye = jnp.eye(away.shape[-1], dtype=away.dtype)[None, None]
        root = jnp.linalg.cholesky(alpha[..., None] ** 2 * self.covariances[None] + sigma[..., None] ** 2 * eye)
        root = jnp.broadcast_to(root, (*away.shape, away.shape[-1]))
        pull = jax.scipy.linalg.cho_solve((root, True), away[..., None])[..., 0]
        log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)), -1)
        log_density = -0.5 * (jnp.sum(away * pull, -1) + log_det + away.shape[-1] * math.log(2 * math.pi))
        return log_density, pull, jnp.einsum("kij,bkj->bki", self.covariances, pull)


def _array(values):
    """`values` in floating point: a NumPy array if they are concrete, a JAX array if they are traced."""
    known = all(map(is_concrete, jax.tree.leaves(values)))
    return (np if known else jnp).asarray(values, jnp.result_type(float))


def Mixture(process: GaussianProcess, weights, means, covariances) -> _Density:
    """The exact denoiser of a mixture of Gaussians Σ w_k N(m_k, C_k).

    Events of any shape with d values are read row by row. The denoiser also has `log_prob(x, t, cond)` and
    `log_responsibilities(x, t)`. Its cond is None or the index of a component. All arrays may be traced, and learned.

    Args:
        process: a process of numbers.
        weights: w, `[k]`, positive; they are normalised.
        means: m, `[k, d]`.
        covariances: C, `[k, d, d]`.

    Returns:
        The denoiser.

    Raises:
        TypeError: if `process` is not one of numbers; when called, if cond is not an integer.
        ValueError: if shapes do not match, a weight is not positive, or a covariance is not symmetric and positive
            semi-definite; when called, if cond is out of range. Traced values give NaN instead.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> means, covariances = jnp.array([[-2.0], [2.0]]), jnp.full((2, 1, 1), 0.1)
        >>> denoiser = jd.exact.Mixture(jd.VP(), [0.5, 0.5], means, covariances)
        >>> x = jnp.zeros((1, 1))
        >>> abs(denoiser(x, 0.5).data.round(3)).tolist()  # by symmetry
        [[0.0]]
        >>> jnp.exp(denoiser.log_responsibilities(x, 0.5)).round(3).tolist()
        [[0.5, 0.5]]
    """
    check_gaussian(process, "a mixture")
    named = {"weights": weights, "means": means, "covariances": covariances}
    weights, means, covariances = (_array(check_array(name, value)) for name, value in named.items())
    if means.ndim != 2:
        raise ValueError(f"means has shape {means.shape}; expected [k, d]")
    k, d = means.shape
    if weights.shape != (k,) or covariances.shape != (k, d, d):
        raise ValueError(
            f"weights {weights.shape} and covariances {covariances.shape} do not fit means {means.shape}; "
            f"expected ({k},) and ({k}, {d}, {d})"
        )
    if not is_concrete(weights):
        weights = nan_unless((weights > 0).all(), weights)
    elif not (weights > 0).all():
        raise ValueError(f"weights = {weights}; expected positive numbers")
    log = (np if is_concrete(weights) else jnp).log
    log_weights = jnp.asarray(log(weights) - log(weights.sum()))
    if not is_concrete(covariances):
        covariances = nan_unless(_is_covariance(jax.lax.stop_gradient(covariances)), covariances)
        return _Solved(process, log_weights, jnp.asarray(means), jnp.asarray(covariances))
    variances, bases = check_covariances(covariances)
    return _Mixture(process, log_weights, *map(jnp.asarray, (means, variances, bases)))


def check_covariances(covariances) -> tuple[np.ndarray, np.ndarray]:
    """The eigenvalues and eigenvectors of covariances U diag(variances) Uᵀ, checked.

    Args:
        covariances: symmetric positive semi-definite matrices, `[..., d, d]`, concrete.

    Returns:
        The variances `[..., d]` and the bases U `[..., d, d]`, as NumPy arrays.

    Raises:
        ValueError: if a matrix is not symmetric and positive semi-definite.

    Examples:
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> variances, bases = jd.exact.check_covariances(np.diag([1.0, 4.0]))
        >>> variances.tolist()
        [1.0, 4.0]
    """
    variances, bases = np.linalg.eigh(covariances)
    asymmetry = np.abs(covariances - covariances.swapaxes(-1, -2)).max()
    tolerance = 1e-5 * max(np.abs(covariances).max(), 1e-30)
    if asymmetry > tolerance or variances.min() < -tolerance:
        raise ValueError(
            f"covariances: asymmetry {asymmetry:.3g}, smallest eigenvalue {variances.min():.3g}; expected symmetric "
            "positive semi-definite matrices"
        )
    return np.maximum(variances, 0.0), bases


def _is_covariance(matrices) -> jax.Array:
    """Whether traced matrices [k, d, d] are symmetric and positive semi-definite, up to rounding."""
    tolerance = 1e-5 * jnp.abs(matrices).max()
    root = jnp.linalg.cholesky(matrices + tolerance * jnp.eye(matrices.shape[-1])[None])  # NaN if it has no root
    return (jnp.abs(matrices - matrices.swapaxes(-1, -2)).max() <= tolerance) & jnp.isfinite(root).all()


def Gaussian(process: GaussianProcess, mean, covariance) -> _Density:
    """The exact denoiser of a Gaussian N(mean, covariance), see `Mixture`.

    Args:
        process: a process of numbers.
        mean: the mean, `[d]`.
        covariance: the covariance, `[d, d]`.

    Returns:
        The denoiser.

    Raises:
        ValueError: if the mean is not a vector, or `Mixture` raises it.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), jnp.eye(2))
        >>> data, noise = denoiser(jnp.ones((4, 2)), 0.5)
        >>> data.shape
        (4, 2)
        >>> bool(jnp.allclose(denoiser.log_prob(jnp.zeros((1, 2))), -jnp.log(2 * jnp.pi)))
        True
    """
    mean, covariance = _array(check_array("mean", mean)), _array(check_array("covariance", covariance))
    if mean.ndim != 1:
        raise ValueError(f"mean has shape {mean.shape}; expected [d]")
    return Mixture(process, np.ones(1), mean[None], covariance[None])

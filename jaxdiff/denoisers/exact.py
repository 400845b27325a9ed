r"""Denoisers known in closed form: the truth that networks, samplers and likelihoods are held to.

If p(x_0) = Σ w_k N(m_k, C_k) then x_t = α x_0 + σ ε has

    p_t(x) = Σ w_k N(α m_k, S_k),                     S_k = α² C_k + σ² I
    E[x_0 | x] = Σ r_k (m_k + α C_k S_k⁻¹ (x - α m_k))      r_k(x) the responsibilities
    E[ε | x]   = Σ r_k σ S_k⁻¹ (x - α m_k).

The component is a class label: given it, r is one there and zero elsewhere, and r_k(x) itself is p(k | x_t), the noisy
classifier that guidance asks for.

A finite data set is the mixture with C_k = 0 and equal weights: its noised density is the one every score network is
trained towards (Karras et al. 2022, appendix B.3).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_array, check_batch, check_labels
from jaxdiff.denoisers.denoiser import Prediction
from jaxdiff.processes import Process, check_event, check_process, expand_time, pytree


@pytree
@dataclasses.dataclass(frozen=True)
class _Mixture:
    """The mixture in its components' eigenbases: variances [k, d], bases [k, d, d] with C = U diag(variances) Uᵀ."""

    process: Process
    log_weights: jax.Array
    means: jax.Array
    variances: jax.Array
    bases: jax.Array

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that is neither None nor the index of a component."""
        if cond is not None:
            check_labels(cond, len(self.log_weights))

    def _log_weights(self, cond, batch: int):
        """log p(component): the weights for `cond` None, otherwise 0 for that component and -inf for the others."""
        if cond is None:
            return self.log_weights
        cond, k = check_labels(cond, len(self.log_weights)), len(self.log_weights)
        if cond.shape not in ((), (batch,)):
            raise ValueError(f"cond has shape {cond.shape}; expected a scalar or [{batch}], one label an example")
        rows = jnp.log(jnp.eye(k)).at[cond]
        return rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

    def _whiten(self, x, t, cond=None):
        """log w_k N(x; α m_k, S_k) [batch, k], Uᵀ(x - α m_k) [batch, k, d], its variances, α, and σ."""
        x, d = check_batch(x), self.means.shape[-1]
        flat = x.reshape(x.shape[0], -1)
        if flat.shape[1] != d:
            raise ValueError(f"x has events of {flat.shape[1]} values, shape {x.shape[1:]}; this density has {d}")
        alpha, sigma = (expand_time(c, x).reshape(-1, 1, 1) for c in self.process.marginal(t))
        y = jnp.einsum("kij,bki->bkj", self.bases, flat[:, None] - alpha * self.means)
        variances = alpha**2 * self.variances + sigma**2
        log_weights = self._log_weights(cond, len(flat))
        log_joint = log_weights - 0.5 * jnp.sum(y**2 / variances + jnp.log(2 * jnp.pi * variances), -1)
        return log_joint, y, variances, alpha, sigma

    def __call__(self, x, t, cond=None) -> Prediction:
        """E[x_0 | x] and E[ε | x] for x [batch, *event], t a scalar or [batch].

        `cond`: None for the mixture, or the component x is of, integers, a scalar or [batch].
        """
        log_joint, y, variances, alpha, sigma = self._whiten(x, t, cond)
        r, x = jax.nn.softmax(log_joint, -1), check_batch(x)
        rotate_back = lambda u: jnp.einsum("kij,bk,bkj->bi", self.bases, r, u)
        data = r @ self.means + rotate_back(alpha * self.variances * y / variances)
        return Prediction(data.reshape(x.shape), rotate_back(sigma * y / variances).reshape(x.shape))

    def log_prob(self, x, t=0.0, cond=None) -> jax.Array:
        """Log p_t(x), or log p_t(x | component `cond`), in nats, [batch]."""
        return jax.nn.logsumexp(self._whiten(x, t, cond)[0], -1)

    def log_responsibilities(self, x, t=0.0) -> jax.Array:
        """Log p(component | x_t = x), [batch, k]: the exact noisy classifier."""
        return jax.nn.log_softmax(self._whiten(x, t)[0], -1)


def Mixture(process: Process, weights, means, covariances) -> _Mixture:
    """The exact denoiser of Σ w_k N(m_k, C_k): weights [k], means [k, d], covariances [k, d, d].

    Events of any shape with d values are read row by row. Weights are normalised. Conditioned on, `cond` is the index
    of a component. Raises ValueError for shapes that do not fit, weights that are not positive, or a covariance that is
    not symmetric and positive semi-definite; when called, TypeError for a `cond` that is not an integer and ValueError
    for one out of range (under a transformation, where it cannot be read, the answer is NaN).
    """
    check_process(process)
    for name, value in (("weights", weights), ("means", means), ("covariances", covariances)):
        check_array(name, value)
    weights, means, covariances = (np.asarray(a, jnp.result_type(float)) for a in (weights, means, covariances))
    if means.ndim != 2:
        raise ValueError(f"means has shape {means.shape}; expected [k, d]")
    k, d = means.shape
    if weights.shape != (k,) or covariances.shape != (k, d, d):
        raise ValueError(
            f"weights {weights.shape} and covariances {covariances.shape} do not fit means {means.shape}; "
            f"expected ({k},) and ({k}, {d}, {d})"
        )
    if not (weights > 0).all():
        raise ValueError(f"weights = {weights}; expected positive numbers")
    variances, bases = np.linalg.eigh(covariances)
    asymmetry = np.abs(covariances - covariances.swapaxes(-1, -2)).max()
    tolerance = 1e-5 * max(np.abs(covariances).max(), 1e-30)
    if asymmetry > tolerance or variances.min() < -tolerance:
        raise ValueError(
            f"covariances: asymmetry {asymmetry:.3g}, smallest eigenvalue {variances.min():.3g}; expected symmetric "
            "positive semi-definite matrices"
        )
    log_weights = np.log(weights) - np.log(weights.sum())
    return _Mixture(process, *map(jnp.asarray, (log_weights, means, np.maximum(variances, 0.0), bases)))


def Gaussian(process: Process, mean, covariance) -> _Mixture:
    """The exact denoiser of N(mean, covariance): mean [d], covariance [d, d]."""
    check_array("mean", mean)
    check_array("covariance", covariance)
    mean, covariance = np.asarray(mean), np.asarray(covariance)
    if mean.ndim != 1:
        raise ValueError(f"mean has shape {mean.shape}; expected [d]")
    return Mixture(process, np.ones(1), mean[None], covariance[None])


@pytree
@dataclasses.dataclass(frozen=True)
class _Empirical:
    process: Process
    data: jax.Array

    def check_cond(self, cond) -> None:
        """Raise for a `cond`: a data set has no labels here."""
        if cond is not None:
            raise ValueError("cond was given to an Empirical denoiser, which has no classes; make one of each class")

    def _log_kernel(self, x, t):
        """-|x - α x_i|² / 2σ², [batch, n], and the flat parts it was made of."""
        x = check_batch(x)
        flat, data = x.reshape(x.shape[0], -1), self.data.reshape(self.data.shape[0], -1)
        if flat.shape[1] != data.shape[1]:
            raise ValueError(f"x has events of shape {x.shape[1:]}; this data set has {self.data.shape[1:]}")
        alpha, sigma = (expand_time(c, x).reshape(-1, 1) for c in self.process.marginal(t))
        distance = jnp.sum((flat[:, None] - alpha[..., None] * data) ** 2, -1)
        return -distance / (2 * sigma**2), flat, data, alpha, sigma

    def __call__(self, x, t, cond=None) -> Prediction:
        """E[x_0 | x] and E[ε | x] for x [batch, *event], t a scalar or [batch] with σ(t) > 0."""
        self.check_cond(cond)
        log_kernel, flat, data, alpha, sigma = self._log_kernel(x, t)
        mean = jax.nn.softmax(log_kernel, -1) @ data
        return Prediction(mean.reshape(x.shape), ((flat - alpha * mean) / sigma).reshape(x.shape))

    def log_prob(self, x, t) -> jax.Array:
        """Log p_t(x) in nats, [batch]; σ(t) > 0, since the data set itself has no density."""
        log_kernel, flat, data, _, sigma = self._log_kernel(x, t)
        d = flat.shape[1]
        normaliser = jnp.log(data.shape[0]) + d * jnp.log(sigma[:, 0]) + d / 2 * jnp.log(2 * jnp.pi)
        return jax.nn.logsumexp(log_kernel, -1) - normaliser


def Empirical(process: Process, data) -> _Empirical:
    """The optimal denoiser of a finite data set, data [n, *event]; time and memory traffic grow as batch x n.

    Raises TypeError for integer data, ValueError for an empty set or a NaN in it.
    """
    check_process(process)
    data = check_event(data, "data")
    if data.shape[0] == 0:
        raise ValueError(f"data has shape {data.shape}: the data set is empty; expected at least one example")
    return _Empirical(process, data)

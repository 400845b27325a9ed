"""One estimate of the bits/dim of each of a batch of images."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdiff.arrays import Precision, at_precision, folded, noise_dtype
from jaxdiff.arrays.mesh import fetched, spread
from jaxdiff.denoisers import DenoiserLike, arithmetic, no_label_of, uncast
from jaxdiff.denoisers.condition import named
from jaxdiff.denoisers.denoiser import innermost
from jaxdiff.likelihood.dequantization import Dequantizer, place
from jaxdiff.likelihood.log_likelihood import by_estimate


def condition_of(denoiser: DenoiserLike, cond) -> str:
    """The condition as a report names it: its parts, a note that a conditional model was given none, or ""."""
    if cond is not None:
        return f", p(x | {named(cond)})"
    inner = innermost(denoiser)
    conditional = no_label_of(inner) is not None or getattr(inner, "condition_dropout", None) is not None
    return ", p(x) of a conditional model: no cond was given" if conditional else ""


class Estimate(NamedTuple):
    """Bits/dim of images, the trace's error, evaluations of all solves, and whether all converged; each [n]."""

    bits_per_dim: np.ndarray
    trace_error: np.ndarray
    evaluations: np.ndarray
    converged: np.ndarray


@dataclasses.dataclass(frozen=True)
class Estimator:
    """The estimates of a data set: `keys` [n], `images` [n, *event], `cond` with leaves [n, ...], on `mesh`."""

    keys: jax.Array
    denoiser: DenoiserLike
    images: np.ndarray
    cond: Any
    dequantizer: Dequantizer
    samples: int
    levels: int
    likelihood: dict
    mesh: Mesh | None
    precision: Precision | None

    @property
    def arithmetic(self) -> str:
        """The name of the arithmetic, as a report says it."""
        return arithmetic(self, noise_dtype(self.levels), self.precision, self.mesh)

    def in_full(self) -> "Estimator":
        """The same estimates in full precision."""
        return dataclasses.replace(uncast(self)[0], precision="highest")

    def draw(self, index, repeat: int) -> tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:
        """The keys of the probes, and each sample's x [batch, *event] with its log q(x | image), nats."""
        keys, images = spread((self.keys[index], self.images[index]), self.mesh)
        repeated = folded(keys, repeat)
        # All K samples of an image share their probes, so that common errors do not change their weights.
        probe_keys, noise_keys = jax.vmap(lambda k: tuple(jax.random.split(k)))(repeated)
        sample_keys = [folded(noise_keys, k) for k in range(self.samples)]
        return probe_keys, [place(self.dequantizer, keys, images, self.levels) for keys in sample_keys]

    def cond_of(self, index) -> Any:
        """`cond` of the images `index`."""
        return spread(jax.tree.map(lambda c: c[index], self.cond), self.mesh)

    def __call__(self, index, repeat: int, **changed) -> Estimate:
        """Estimate number `repeat` of the images `index`, with some of the likelihood's settings changed."""
        settings = self.likelihood | changed
        cond = self.cond_of(index)
        with at_precision(self.precision):
            probe_keys, draws = self.draw(index, repeat)
            found = [(by_estimate(probe_keys, self.denoiser, x, cond=cond, **settings), log_q) for x, log_q in draws]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *fetched(found))  # each [K, batch, ...]
        ((log_prob, _, evaluations, converged), deviations), log_q = stacked
        log_weight = jnp.asarray(log_prob) - log_q
        log_p = np.asarray(jax.nn.logsumexp(log_weight, axis=0), np.float64) - math.log(self.samples)
        size = math.prod(self.images.shape[1:])
        to_bits = 1 / (size * math.log(2))
        shares = np.asarray(jax.nn.softmax(log_weight, axis=0))
        # the effect of each estimate of the trace, which all samples of an image share, on the log of their mean
        moved = (shares[..., None] * deviations).sum(0)
        ok = np.all(converged, axis=0)
        return Estimate(
            np.where(ok, -log_p * to_bits, np.nan),
            np.asarray(settings["trace"].standard_error(moved)) * to_bits,
            np.where((evaluations < 0).any(0), -1, evaluations.sum(0)),
            np.asarray(ok),
        )

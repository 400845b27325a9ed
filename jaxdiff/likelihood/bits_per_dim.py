"""Bits per dimension of integer images, with what is known of their error."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.denoisers import DenoiserLike
from jaxdiff.likelihood.batching import check_images, in_batches
from jaxdiff.likelihood.dequantization import dequantize, log_volume
from jaxdiff.likelihood.log_likelihood import check_divergence, log_likelihood
from jaxdiff.samplers import check_cond, example_keys


@dataclasses.dataclass(frozen=True)
class BitsPerDim:
    """Bits per dimension of a data set: `bits_per_dim` +- `standard_error`, over the examples that converged.

    standard_error: over examples; it holds every independent noise, that of images, dequantisation and probes.
    trace_standard_error: the part that is due to the probes; NaN for a single probe, 0 for the exact divergence.
    kind: what the number is. per_example: [n], NaN where a solve did not converge. evaluations_mean, evaluations_max:
    of the flow, an example and dequantisation sample; NaN and -1 where the solver is implicit and they are not known.
    """

    bits_per_dim: float
    standard_error: float
    trace_standard_error: float
    kind: str
    examples: int
    not_converged: int
    evaluations_mean: float
    evaluations_max: int
    per_example: np.ndarray = dataclasses.field(repr=False)

    def __str__(self):
        lost = f", {self.not_converged} of {self.examples} not converged and left out" if self.not_converged else ""
        cost = f", {self.evaluations_mean:.0f} evaluations each" if self.evaluations_max >= 0 else ""
        return (
            f"{self.bits_per_dim:.4f} +- {self.standard_error:.4f} bits/dim "
            f"({self.kind}; {self.examples} examples{cost}{lost})"
        )


def bits_per_dim(
    key,
    denoiser: DenoiserLike,
    images_uint8,
    dequantization_samples: int = 1,
    levels: int = 256,
    batch_size: int = 64,
    cond: Any = None,
    progress: bool = False,
    **likelihood,
) -> BitsPerDim:
    """-log2 P(image)/D of integer images [n, *event] in 0..levels-1, under a denoiser of data on [-1, 1].

    `dequantization_samples` K = 1 is uniform dequantisation, an upper bound on the bits; K > 1 is the tighter
    importance-weighted bound. It is a bound with divergence="exact"; under random probes the logarithm of a mean of
    noisy exponentials is biased towards fewer bits, by less the more probes there are. Example i depends on `key` and
    i alone, not on `batch_size`. `cond` has leaves [n, ...] or is None.
    `progress` shows a bar; further arguments go to `log_likelihood` (probes, divergence, rtol, atol, t_min).

    Raises TypeError for images that are not integers; ValueError for values out of range, an empty set, or fewer than
    one sample or example a batch.
    """
    images = check_images(images_uint8, levels, batch_size)
    if dequantization_samples < 1:
        raise ValueError(f"dequantization_samples = {dequantization_samples}; expected at least one")
    check_divergence(likelihood.get("divergence", "exact"), likelihood.get("probes", 1))
    n, size = len(images), math.prod(images.shape[1:])
    cond = check_cond(cond, n)
    keys = example_keys(key, n)

    def compute(index):
        # One set of probes serves all K samples of an image: only what differs between them moves their weights.
        probe_keys, noise_keys = jax.vmap(lambda k: tuple(jax.random.split(k)))(keys[index])
        batch_cond = jax.tree.map(lambda c: c[index], cond)

        def one(sample):
            x = dequantize(jax.vmap(jax.random.fold_in, (0, None))(noise_keys, sample), images[index], levels)
            return log_likelihood(probe_keys, denoiser, x, cond=batch_cond, **likelihood)

        return jax.tree.map(lambda *samples: np.stack(samples), *map(one, range(dequantization_samples)))

    # each [K, n]
    log_prob, error, evaluations, converged = in_batches(compute, n, batch_size, progress, "likelihood")
    weights = np.asarray(jax.nn.softmax(jnp.asarray(log_prob), axis=0))
    log_p = np.asarray(jax.nn.logsumexp(jnp.asarray(log_prob), axis=0)) - math.log(dequantization_samples)
    probed = likelihood.get("divergence", "hutchinson") == "hutchinson"
    to_bits = 1 / (size * math.log(2))
    ok = converged.all(0)
    per_example = np.where(ok, -(log_p + log_volume(size, levels)) * to_bits, np.nan)
    trace_variance = ((weights * error) ** 2).sum(0)[ok]
    count = int(ok.sum())
    spread = per_example[ok].std(ddof=1) / math.sqrt(count) if count > 1 else math.nan
    return BitsPerDim(
        bits_per_dim=float(per_example[ok].mean()) if count else math.nan,
        standard_error=float(spread),
        trace_standard_error=float(math.sqrt(trace_variance.sum()) / count * to_bits) if count else math.nan,
        kind=(
            "uniform dequantisation"
            if dequantization_samples == 1
            else f"importance-weighted bound, K = {dequantization_samples}{', estimated by probes' if probed else ''}"
        ),
        examples=n,
        not_converged=n - count,
        evaluations_mean=float(evaluations.mean()) if evaluations.min() >= 0 else math.nan,
        evaluations_max=int(evaluations.max()),
        per_example=per_example,
    )

r"""Where the error of a likelihood comes from.

An estimate of an image draws x from its cell and integrates the flow under random probes; its mean over both is the
dequantisation bound. The variance of a mean over n images of r estimates each is therefore

    (images + (dequantisation + trace)/r)/n.

trace is the variance of its estimates in one solve, dequantisation is the further variance between two estimates of one
image, and images is the rest of the variance over the data set, which no computation reduces.

Repeats do not show biases. These are measured as differences image by image, with standard errors of their own: that of
the solver by tolerances ten times finer for the same x and probes; that of the arithmetic by the same model in full
precision (float32 products at "highest", networks without their `jaxdiff.networks.Cast`). The prior's term is
KL(q(x_1 | x_0) || prior), since x_1 is not exactly noise.

The flow takes the data for x at t_min, where x has noise s = σ/α. Where the density is smooth at the scale of s, this
moves log p by c s² + O(s⁴), so that starting where s is doubled moves it by 3 c s² more (Richardson's extrapolation):
the shift to s = 0 is -1/3 of that. A smaller t_min would not do, since a process such as `EDM` has noise at t = 0.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import at_precision
from jaxdiff.arrays.batches import in_batches, joined
from jaxdiff.likelihood.estimate import Estimator
from jaxdiff.likelihood.mean import Mean, finite, mean_of
from jaxdiff.likelihood.trace import estimates_of
from jaxdiff.likelihood.variational_bound import VariationalBound, continuous_bound
from jaxdiff.samplers import decode, encode

SECOND = 2**32 - 1  # a repeat that only the budget uses


@dataclasses.dataclass(frozen=True)
class ErrorBudget:
    """Where the error of a `BitsPerDim` comes from, in bits/dim, measured on some of its images.

    `bits_per_dim(..., budget=64)` computes it, and `print` shows it as a table.

    Attributes:
        examples: number of images it was measured on.
        images: part of the standard error that is due to the spread of the data. The squares of the three parts add up
            to the square of the standard error.
        dequantisation: part that is due to the noise of dequantisation. It is what the noise of all estimates has more
            than that of the probes, and 0 if that is negative.
        dequantisation_most: what this part is at most: its square and two standard errors of that more.
        trace: part that is due to random probes.
        solver: change by tolerances ten times finer, (mean, standard error).
        truncation: change by data without the noise of x at t_min, extrapolated from twice that noise, (mean, standard
            error).
        arithmetic: change by full precision, (mean, standard error); 0 if everything was computed in it.
        prior: KL(q(x_1 | x_0) || prior).
        round_trip: largest |x - decode(encode(x))| in levels, over images for which both converge.
        flow: mean of the first estimates of these images, to be compared with `bound`.
        bound: the variational bound of these images in continuous time.

    Examples:
        >>> import jax
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [0.0], [[0.25]])
        >>> images = np.array([[100], [128], [150], [180]])
        >>> found = jd.bits_per_dim(jax.random.key(0), denoiser, images, trace=jd.likelihood.Exact(), budget=4)
        >>> found.budget.examples, found.budget.trace  # the exact trace has no error
        (4, 0.0)
    """

    examples: int
    images: float
    dequantisation: float
    dequantisation_most: float
    trace: float
    solver: Mean
    truncation: Mean
    arithmetic: Mean
    prior: float
    round_trip: float
    flow: float
    bound: VariationalBound = dataclasses.field(repr=False)

    def __str__(self):
        shift = lambda value: f"{value.mean:+.5f} +- {value.standard_error:.5f}"
        total = math.sqrt(self.images**2 + self.dequantisation**2 + self.trace**2)
        below = "below" if abs(self.solver.mean) < total else "NOT below"
        bound = f"{self.bound.bits_per_dim:.4f} +- {self.bound.standard_error:.4f}"
        parts = (
            ("images", f"{self.images:.4f}", "spread of the data; only more images reduce it"),
            (
                "dequantisation",
                f"{self.dequantisation:.4f} (< {self.dequantisation_most:.4f})",
                "noise of dequantisation; repeats reduce it, too",
            ),
            ("trace", f"{self.trace:.4f}", "noise of the probes; repeats or more probes reduce it, too"),
        )
        beside = (
            ("solver", shift(self.solver), f"what tolerances ten times finer change, {below} the standard error"),
            ("truncation", shift(self.truncation), "what no noise at t_min changes, by extrapolation"),
            ("arithmetic", shift(self.arithmetic), "what full precision changes"),
            ("prior", f"{self.prior:.5f}", "KL(q(x_1 | x_0) || prior): x at t = 1 is not exactly noise"),
            ("round trip", f"{self.round_trip:.1e}", "the largest |x - decode(encode(x))|, in levels"),
            ("bound", bound, f"{self.bound.kind}; the flow on these images: {self.flow:.4f}"),
        )
        row = lambda name, value, note: f"  {name:<15}{value:>20}   {note}"
        return "\n".join(
            [
                f"error budget, measured on {self.examples} of the images, bits/dim",
                "in the standard error, whose square is the sum of these squares:",
                *(row(*part) for part in parts),
                "not in it:",
                *(row(*one) for one in beside),
            ]
        )


def measure(
    key,
    estimator: Estimator,
    index,
    base: np.ndarray,
    per_example: np.ndarray,
    repeats,
    batch_size: int,
    progress: bool,
) -> ErrorBudget:
    """Measure the budget on the images `index`, whose first estimates are `base`; the rest is that of the whole run."""
    settings = estimator.likelihood
    # every step uses the same padded batches, so that the programs compiled for the estimates are reused
    over = lambda compute, label: joined(in_batches(compute, index, batch_size, progress, label, estimator.mesh))
    changed = lambda label, repeat=0, **more: over(lambda part: estimator(part, repeat, **more), label)

    flow, several = settings["flow"], settings["trace"].with_spread()
    size, dtype = math.prod(estimator.images.shape[1:]), np.float32
    second = changed("budget: noise", SECOND, trace=several)
    known = second.trace_error**2
    fewer = estimates_of(several, size, dtype) / estimates_of(settings["trace"], size, dtype)
    trace = mean_of(finite(known)).mean * fewer
    rest = mean_of(finite(((second.bits_per_dim - base) ** 2 - (1 + fewer) * known) / 2))
    dequantisation = max(rest.mean, 0.0)

    finer = changed("budget: solver", flow=dataclasses.replace(flow, rtol=flow.rtol / 10, atol=flow.atol / 10))
    process, t_min = estimator.denoiser.process, settings["t_min"]
    doubled = process.time_at_log_snr(process.log_snr(t_min) - 2 * math.log(2))
    later = changed("budget: truncation", t_min=float(doubled))

    full = estimator.in_full()
    in_full = base  # nothing to compute again if everything was in full precision
    if full.arithmetic != estimator.arithmetic:
        in_full = over(lambda part: full(part, 0), "budget: arithmetic").bits_per_dim

    def trip(part):
        cond = estimator.cond_of(part)
        with at_precision(estimator.precision):
            x = estimator.draw(part, 0)[1][0][0]
            z = encode(estimator.denoiser, x, cond, flow, t_min)
            failed = jnp.isnan(z).any(range(1, z.ndim), keepdims=True)
            back = decode(estimator.denoiser, jnp.where(failed, 0.0, z), cond, flow, t_min)
        return jnp.where(failed, jnp.nan, jnp.abs(back - x)).max(range(1, x.ndim)) * estimator.levels / 2

    bound = continuous_bound(
        jax.random.fold_in(key, SECOND),
        estimator.denoiser,
        estimator.images[index],
        levels=estimator.levels,
        batch_size=batch_size,
        cond=jax.tree.map(lambda c: c[index], estimator.cond),
        progress=progress,
        mesh=estimator.mesh,
        precision=estimator.precision,
    )
    found = np.isfinite(per_example)
    count, each = found.sum(), repeats[found].mean()
    total = per_example[found].var(ddof=1) if count > 1 else math.nan
    part = lambda variance: math.sqrt(max(variance, 0.0) / count) if count else math.nan
    return ErrorBudget(
        examples=len(index),
        images=part(total - (dequantisation + trace) / each),
        dequantisation=part(dequantisation / each),
        dequantisation_most=part((dequantisation + 2 * rest.standard_error) / each),
        trace=part(trace / each),
        solver=mean_of(finite(finer.bits_per_dim - base)),
        truncation=mean_of(finite((base - later.bits_per_dim) / 3)),
        arithmetic=mean_of(finite(in_full - base)),
        prior=float(np.mean(bound.prior, dtype=np.float64)),
        round_trip=float(max(finite(over(trip, "budget: round trip")), default=math.nan)),
        flow=mean_of(finite(base)).mean,
        bound=bound,
    )
